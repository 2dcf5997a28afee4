"""The reports of the soak's processes: one JSON file for each process, which it replaces as a whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from verification.chaos.proxy import detour

REPORT = "SOAK_REPORT"
PORTS = "SOAK_PORTS"
MUTANT = "SOAK_MUTANT"
"""Known-bad variants, separated by commas."""
VISIBILITY = "SOAK_VISIBILITY"
"""Seconds until a Redis broker delivers a message again that was not acknowledged."""


def lead() -> None:
    """Lead the connections of this process through the proxy."""
    detour({int(port): to for port, to in json.loads(os.environ[PORTS]).items()})


def is_mutant(name: str) -> bool:
    """Whether this process runs as this known-bad variant."""
    return name in os.environ.get(MUTANT, "").split(",")


def report(facts: dict[str, Any]) -> None:
    """Replace the report of this process."""
    path = Path(os.environ[REPORT])
    new = path.with_suffix(".new")
    new.write_text(json.dumps(facts), "utf-8")
    new.replace(path)


def read_report(path: Path) -> dict[str, Any]:
    """Read the report of a process; empty before its first report."""
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return found
