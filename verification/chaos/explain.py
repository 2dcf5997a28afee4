"""The history of one key around a violation: reads, changes, acknowledgements and faults, in order of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verification.chaos.workload import Kind

if TYPE_CHECKING:
    from verification.chaos.checker import Violation
    from verification.chaos.run import Outcome

_AROUND = 2_000_000_000  # nanoseconds before and after the read
_READS = 12  # reads of the key, those nearest to the violation


def explain(outcome: Outcome, violation: Violation) -> str:
    """Describe what led to a violation: one line for each step, with milliseconds since the begin of the run."""
    read, (kind, key) = violation.read, violation.key
    seen_by = "" if read is None or read.key == key else f" (looking for {read.key!r})"
    head = f"seed {outcome.row.seed}: {violation.kind} {kind} {key}{seen_by}: {violation.text}"
    centre = read.started if read is not None else None
    lines: list[tuple[int, str]] = []
    history = outcome.checker.histories.get(violation.key)
    if history is not None:
        for change in history.changes:
            committed = (
                "never" if change.committed is None else f"{(change.committed - change.started) / 1e6:.1f} ms later"
            )
            lines.append((change.started, f"change {change.number} to {change.state!r} begins; committed {committed}"))
        lines += [(at, f"{number} is acknowledged") for at, number in history.acks]
    same = [
        each
        for each in outcome.reads
        if each.kind == (Kind.SEARCH if kind == Kind.PRODUCT else kind)
        and each.key == (read.key if read is not None and kind == Kind.PRODUCT else key)
    ]
    if centre is not None:
        same = sorted(same, key=lambda each: abs(each.started - centre))[:_READS]
    for each in same if centre is not None else same[-_READS:]:
        this = " <---" if each == read else ""
        took = (each.ended - each.started) / 1e6
        lines.append((each.started, f"read, {took:.1f} ms: {each.found if each.error is None else each.error}{this}"))
    for injected in outcome.injected:
        fault = injected.fault
        lasted = (injected.ended - injected.began) / 1e6
        lines.append((injected.began, f"fault: {fault.target} {fault.kind} {fault.amount:g}, {lasted:.0f} ms"))
    if centre is not None:
        lines = [line for line in lines if abs(line[0] - centre) < _AROUND]
    return "\n".join([head, *(f"  {(at - outcome.began) / 1e6:9.1f}  {text}" for at, text in sorted(lines))])
