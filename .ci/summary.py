"""Print the summary of `.ci/run`: each leg with its result and its servers. Exit status 1 if a leg failed."""

import json
import sys
from pathlib import Path
from typing import Any


def main(reports: Path) -> int:
    """Print the summary.

    Args:
        reports: a directory with the file `legs` (a line for each leg: name, exit status, seconds), and with one JSON
            file for each run of the tests, as `TEST_REPORT` writes it.

    Returns:
        The exit status.
    """
    legs = [line.split() for line in (reports / "legs").read_text("utf-8").splitlines()]
    runs = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(reports.glob("*.json"))}
    print("\n=== summary ===")
    for name, status, seconds in legs:
        print(f"{name:12}{'passed' if status == '0' else f'FAILED ({status})':14}{_minutes(int(seconds))}")
    for name, run in runs.items():
        clients = ", ".join(f"{client} {version}" for client, version in run["clients"].items() if version)
        print(f"\n{name}: {_counted(run)} in {_minutes(run['seconds'])}, with CPython {run['python']}, {clients} and")
        print("\n".join(f"    {server}" for server in run["servers"] or ["no server"]))
    failed = sum(status != "0" for _, status, _ in legs)
    total = {kind: sum(run[kind] for run in runs.values()) for kind in ("passed", "failed", "error", "skipped")}
    print(f"\nlegs: {len(legs) - failed} passed, {failed} failed")
    print(f"tests: {total['passed']} passed, {total['failed'] + total['error']} failed, {total['skipped']} skipped")
    return int(failed > 0)


def _counted(run: dict[str, Any]) -> str:
    bad = {"failed": run["failed"], "errors": run["error"], "skipped (not allowed)": run["unexpected"]}
    counts = [f"{run['passed']} passed", *(f"{count} {what}" for what, count in bad.items() if count)]
    return ", ".join([*counts, f"{run['skipped']} skipped (a part is missing)"])


def _minutes(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
