"""Runs Hypothesis's state machines: by default a few sequences, and the same ones every time."""

import os
from collections.abc import Callable

from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

VARIABLE = "TEST_EXAMPLES"
"""The number of sequences to try of each machine; then they differ every time. See CONTRIBUTING.md."""


def run(machine: Callable[[], RuleBasedStateMachine], *, examples: int, steps: int, shrink: bool = True) -> None:
    """Run a machine through `examples` sequences of at most `steps` steps.

    Args:
        machine: makes a machine for a sequence.
        examples: how many sequences, unless `TEST_EXAMPLES` is set.
        steps: the most steps of a sequence.
        shrink: whether to look for the shortest failing sequence. A known-bad variant need only be found.

    Raises:
        AssertionError: a sequence violates a rule of the machine.
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
