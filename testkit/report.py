"""Results of a measurement: printed as a table, and stored in the form that the docs quote."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

from cachekeeper.devservers import FoundServer

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        figure: the name of what was measured.
        value: the measured number.
        unit: its unit; empty for a ratio.
        target: such as `<= 1.15`; None without a target.
        held: whether the value meets the target; None without a target.
    """

    figure: str
    value: float
    unit: str
    target: str | None = None
    held: bool | None = None


def at_most(figure: str, value: float, limit: float, unit: str = "") -> Figure:
    """Return a figure whose value should not exceed `limit`."""
    return Figure(figure, round(value, 3), unit, f"<= {limit:g}", held=value <= limit)


def at_least(figure: str, value: float, limit: float, unit: str = "") -> Figure:
    """Return a figure whose value should not fall below `limit`."""
    return Figure(figure, round(value, 3), unit, f">= {limit:g}", held=value >= limit)


def plain(figure: str, value: float, unit: str = "") -> Figure:
    """Return a figure without a target."""
    return Figure(figure, round(value, 3), unit)


def store(name: str, figures: Sequence[Figure], servers: Iterable[FoundServer], seed: int | None = None) -> bool:
    """Print the figures and write the file. Return whether every target was met."""
    show(name, figures)
    return write(name, figures, servers, seed)


def show(name: str, figures: Sequence[Figure]) -> None:
    """Print the figures as a table."""
    table = Table(title=name, title_justify="left")
    for column in ("figure", "value", "unit", "target", "held"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for figure in figures:
        held = {True: "[green]yes[/]", False: "[bold red]no[/]", None: ""}[figure.held]
        table.add_row(figure.figure, f"{figure.value:,.3f}", figure.unit, figure.target or "", held)
    Console().print(table)


def write(
    name: str,
    figures: Sequence[Figure],
    servers: Iterable[FoundServer],
    seed: int | None = None,
    *,
    more: Mapping[str, object] = MappingProxyType({}),
) -> bool:
    """Write the file, with the fields in `more`, which the docs quote too. Return whether every target was met."""
    result = {
        "name": name,
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} shared cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}",
        "servers": {server.kind: server.version for server in servers},
        "seed": seed,
        "figures": [asdict(figure) for figure in figures],
        **more,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return all(figure.held is not False for figure in figures)


def rounds(
    contenders: Mapping[str, Callable[[], None]],
    *,
    count: int,
    warm_up: int = 3,
    prepare: Callable[[str], None] = lambda name: None,  # noqa: ARG005  # most need nothing
) -> dict[str, list[float]]:
    """Return the seconds of each contender in each round. All take turns, so a machine that slows down slows them all.

    The order changes from round to round, so that no contender always runs after the same one.

    Args:
        contenders: the calls to time, by name.
        count: how many rounds count.
        warm_up: how many earlier rounds do not count.
        prepare: called with the name before each call, outside the measured time.
    """
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_up, count):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            prepare(name)
            began = perf_counter()
            contenders[name]()
            if number >= 0:
                seconds[name].append(perf_counter() - began)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, to: str) -> float:
    """Return the median, over the rounds, of one contender's time divided by another's in the same round."""
    return median(mine / other for mine, other in zip(seconds[name], seconds[to], strict=True))


def commit() -> str:
    """Return the measured commit, with `+` if files differ from it."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    try:
        commit = subprocess.run([git, "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run([git, "diff", "--quiet", "HEAD", "--", "*.py", "*.lua"], cwd=ROOT, check=False)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changed.returncode else "")
