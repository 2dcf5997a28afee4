"""How Hypothesis's state machines are run: the same sequences every time, few of them, unless more are wanted."""

import os
from collections.abc import Callable

from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

VARIABLE = "TEST_EXAMPLES"
"""How many sequences to try of each machine; then other ones every time. CONTRIBUTING.md tells of it."""


def run(machine: Callable[[], RuleBasedStateMachine], *, examples: int, steps: int, shrink: bool = True) -> None:
    """Run a machine through so many sequences of up to so many steps.

    Args:
        machine: makes one, for a sequence.
        examples: how many sequences, where `TEST_EXAMPLES` does not say otherwise.
        steps: the most that a sequence may have.
        shrink: whether to look for the shortest sequence that fails; a known-bad variant need only be found.

    Raises:
        AssertionError: some sequence ends in what the machine forbids.
    """
    wanted = int(os.environ.get(VARIABLE, "0"))
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    run_state_machine_as_test(
        machine,  # type: ignore[arg-type]  # typed as a class, documented as anything that makes one
        settings=settings(
            max_examples=wanted or examples,
            stateful_step_count=steps,
            derandomize=not wanted,
            database=None,
            phases=phases,
            print_blob=bool(wanted),
            report_multiple_bugs=False,
        ),
    )
