"""Traces and tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from verification.protocol.cells import GONE, NOBODY, Cell, Deadline
from verification.protocol.dropping import Dropping
from verification.protocol.explorer import Found
from verification.protocol.world import World


def trace(space: World | Dropping, found: Found[Any]) -> str:
    """Return the path to a bad state: a line for each step, with K and M after it."""
    lines = [f"writes {space.moves.history.name}, {found.depth} steps"]
    rows = [("", "what happens", "K", "M")]
    state = found.path[0]
    rows.append(("0", space.moves.history.writes[0].text, *_show(space, state)))
    for number, new in enumerate(found.path[1:], 1):
        rows.append((str(number), space.tell(state, new), *_show(space, new)))
        state = new
    lines += table(rows)
    lines.append(f"=> {found.problem}")
    return "\n".join(lines)


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return lines with aligned columns, the first row underlined."""
    every = [list(row) for row in rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(every[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in every]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _show(space: World | Dropping, state: Any) -> tuple[str, str]:
    cell = space.cell(state)
    return _show_key(cell), _show_meta(space, cell)


def _show_key(cell: Cell) -> str:
    if cell.key is None:
        return "-"
    return f"answer {cell.key}" + (" until the deadline" if cell.cut else "")


def _show_meta(space: World | Dropping, cell: Cell) -> str:
    parts = []
    if cell.version is not None:
        parts.append(f"version {cell.version}")
    if cell.lease != NOBODY:
        counted = space.moves.protocol.counts
        names = {1: "lease of A", 2: "lease of B", GONE: "lease of a reader that vanished"}
        parts.append(f"lease {cell.lease}" if counted else names[cell.lease])
    if cell.absent is not None:
        parts.append("known absent")
    if cell.deadline is not Deadline.NONE:
        parts.append(f"deadline {cell.deadline.name.lower()}")
    return ", ".join(parts) or "-"
