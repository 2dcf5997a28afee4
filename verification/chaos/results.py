"""The figures of a series. They are stored after every run, so that a stopped series keeps its results so far."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from testkit import report
from testkit.report import Figure, at_most, plain
from verification.chaos.row import KINDS, Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachekeeper.devservers import FoundServer

NAME = "chaos"
_RUNS = report.RESULTS / "chaos_runs.jsonl"


class Results:
    """The runs at this commit, including those of earlier calls.

    Args:
        kept: whether the runs are stored; else they are only added up.

    Attributes:
        commit: the commit of the tree when the series began.
        rows: the rows of all runs.
    """

    def __init__(self, *, kept: bool) -> None:
        self._kept = kept
        self.commit = report.commit()
        self.rows: list[Row] = _stored(self.commit) if kept else []
        self._servers: list[FoundServer] = []

    def add(self, row: Row, servers: Sequence[FoundServer]) -> None:
        """Add a run, and store it. If the same seed ran before at the same station, the worse run stands."""
        self._servers += [server for server in servers if server not in self._servers]
        same = [each for each in self.rows if _which(each) == _which(row)]
        self.rows = [each for each in self.rows if _which(each) != _which(row)] + [max([row, *same], key=_dirt)]
        if not self._kept:
            return
        if (now := report.commit()) != self.commit:
            raise RuntimeError(f"the tree is now at {now}, but the series began at {self.commit}: start again")
        lines = [
            json.dumps({"commit": self.commit, **asdict(each), "bound_per_million": each.bound}) for each in self.rows
        ]
        report.RESULTS.mkdir(exist_ok=True)
        _RUNS.write_text("\n".join(lines) + "\n", "utf-8")
        report.write(NAME, self.figures(), self._servers, self.rows[0].seed, more=self._more())

    @property
    def problem(self) -> str | None:
        """Why the figures cannot be stored; None if they can."""
        if self._kept and self.commit.endswith("+"):
            return "the tree has uncommitted changes, and figures must belong to a commit: commit, or use --dry"
        return None

    @property
    def clean(self) -> bool:
        """Whether all runs are clean, including those of earlier calls."""
        return all(row.clean for row in self.rows)

    def figures(self) -> list[Figure]:
        """Return the figures of all runs together."""
        rows = self.rows
        reads = sum(row.reads for row in rows)
        acknowledged = sum(row.reads_after_ack for row in rows)
        broken = {name: sum(getattr(row, name) for row in rows) for name in KINDS}
        found = [
            *(at_most(text, broken[name], 0) for name, text in KINDS.items()),
            at_most("runs that aborted, and so say nothing", sum(row.aborted is not None for row in rows), 0),
            at_most(
                "runs with too little going on, or a process that ended by itself",
                sum(not row.enough and row.aborted is None for row in rows),
                0,
            ),
            at_most(
                "runs with more outages than their faults account for, or with a change given up",
                sum(not row.available for row in rows),
                0,
            ),
            plain(
                "questions to MongoDB past the cache, for each hundred reads",
                round(100 * sum(row.uncached for row in rows) / max(reads, 1), 1),
            ),
            plain("changes that a writer gave up after a minute", sum(row.given_up for row in rows)),
            plain("reads while no fault could touch them", sum(row.calm_reads for row in rows)),
            plain("of these, in a typed outage", sum(row.calm_outages for row in rows)),
            plain("runs, each with a seed of its own", len(rows)),
            plain("checked reads", reads),
            plain("checked reads of what had an acknowledged version", acknowledged),
            plain("committed changes", sum(row.changes for row in rows)),
            plain("injected faults", sum(sum(row.faults.values()) for row in rows)),
            plain("reads that ended in a typed outage", sum(sum(row.errors.values()) for row in rows)),
            plain("processes that ended by themselves", sum(len(row.ended) for row in rows)),
            plain(
                "largest staleness seen, a lower bound: from a commit to the begin of a read of what was before it",
                max(row.staleness for row in rows),
                "s",
            ),
            plain(
                "longest until all is applied and *ready* after the last fault", max(row.recovery for row in rows), "s"
            ),
        ]
        if self.clean:
            # The rule of three: n operations without a failure show, with 95 % confidence, a rate below 3/n, not less.
            found += [
                plain("95 % bound: faulty runs", 300 / len(rows), "per hundred runs"),
                plain(
                    "95 % bound: faulty reads",
                    math.ceil(3e9 / max(acknowledged, 1)) / 1000,
                    "per million reads that could be stale",
                ),
            ]
        return found

    def show(self) -> None:
        """Print the figures."""
        report.show(NAME, self.figures())
        print(f"faults: {_joined(self._faults())}")
        print(f"errors: {_joined(self._errors())}")
        for row in self.rows:
            if row.aborted is not None:
                print(f"aborted: seed {row.seed}, {row.series}, {row.broker}: {row.aborted}")
        print(f"on: {', '.join(str(server) for server in self._servers)}")

    def _faults(self) -> Counter[str]:
        return sum((Counter(row.faults) for row in self.rows), Counter())

    def _errors(self) -> Counter[str]:
        return sum((Counter(row.errors) for row in self.rows), Counter())

    def _more(self) -> dict[str, Any]:
        stations = Counter(f"{row.series}, {row.broker}" for row in self.rows)
        seeds = sorted({row.seed for row in self.rows})
        return {
            "seeds": f"{seeds[0]} to {seeds[-1]}",
            "runs": dict(sorted(stations.items())),
            "faults": dict(sorted(self._faults().items())),
            "errors": dict(sorted(self._errors().items())),
            "aborted": {str(row.seed): row.aborted for row in self.rows if row.aborted is not None},
        }


def _dirt(row: Row) -> tuple[bool, int]:
    return not row.clean, sum(row.kinds.values())


def _which(row: Row) -> tuple[int, str, str, float]:
    return row.seed, row.series, row.broker, row.duration


def _stored(commit: str) -> list[Row]:
    if not _RUNS.exists():
        return []
    names = {each.name for each in fields(Row)}
    found = [json.loads(line) for line in _RUNS.read_text("utf-8").splitlines()]
    return [
        Row(**{name: value for name, value in row.items() if name in names}) for row in found if row["commit"] == commit
    ]


def _joined(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
