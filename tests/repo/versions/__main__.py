"""Run the contract on each combination of client versions.

    python -m tests.repo.versions [COMBINATION …] [--jobs 2] [--tests tests/integration/reading/test_reader.py …]

Ends with 1 if a test failed, with 2 if an environment could not be made.
"""

import argparse
import os
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.repo.versions.bounded import run_bounded
from tests.repo.versions.environments import (
    COMBINATIONS,
    Combination,
    EnvironmentFailed,
    client_ranges,
    interpreter,
    make,
)
from tests.repo.versions.plugin import clients_text

ROOT = Path(__file__).resolve().parents[3]
# What rests on the clients: each promise of the protocol, how an outage of a server looks, what is decoded, and
# delivery, since kombu uses the same redis-py.
TESTS = (
    "tests/repo/test_internals.py",
    "tests/unit/test_lazy_cluster.py",
    "tests/unit/test_mongoose_json.py",
    "tests/integration/reading/test_blocklist_cluster.py",
    "tests/integration/consuming/test_delivery.py",
    "tests/integration/applying/test_dropping.py",
    "tests/integration/reading/test_herds.py",
    "tests/unit/test_foreign_clients.py",
    "tests/integration/reading/test_full_pool.py",
    "tests/integration/reading/test_outages.py",
    "tests/integration/applying/test_persisting.py",
    "tests/integration/reading/test_reader.py",
    "tests/integration/lookups/test_sessions.py",
    "verification/protocol/test_store_contract.py",
    "verification/protocol/test_store_failures.py",
    "tests/integration/lookups/test_tokens.py",
    "tests/integration/consuming/test_transport.py",
    "tests/integration/consuming/test_transport_refusals.py",
    "verification/wrong_keys/test_unread_replies.py",
    "tests/integration/lookups/test_users.py",
    "tests/integration/upkeep/test_warming.py",
    "tests/integration/applying/test_write_concern_errors.py",
)

_LONGEST_SECONDS = 900.0  # five minutes are usual


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a combination went.

    Attributes:
        combination: which.
        clients: the versions of its clients; empty if there is no environment.
        status: pytest's exit status; None if it was not run.
        seconds: all of it.
        output: what to show.
    """

    combination: Combination
    clients: str
    status: int | None
    seconds: float
    output: str

    def line(self) -> str:
        """For the summary."""
        result = {0: "passed", None: "NO ENVIRONMENT"}.get(self.status, f"FAILED (status {self.status})")
        return f"  {self.combination.name:24}{result:20}{self.seconds:5.0f} s  {self.clients}"


def run(combination: Combination, tests: list[str]) -> Outcome:
    """Make one environment, and run the tests in it."""
    began = time.monotonic()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    directory = ROOT / ".versions" / combination.name
    try:
        clients = clients_text(make(combination, client_ranges(project), directory))
    except EnvironmentFailed as error:
        return Outcome(combination, "", None, time.monotonic() - began, str(error))
    command = [
        *(str(interpreter(directory)), "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"),
        *("-p", "tests.repo.versions.plugin", "--clients", clients, *tests),
    ]
    environment = dict(os.environ)
    if report := environment.get("TEST_REPORT"):
        path = Path(report)
        environment["TEST_REPORT"] = str(path.with_name(f"{path.stem}-{combination.name}{path.suffix}"))
    status, output = run_bounded(command, directory=ROOT, environment=environment, seconds=_LONGEST_SECONDS)
    return Outcome(combination, clients, status, time.monotonic() - began, output)


def main(arguments: list[str]) -> int:
    """Run what the command line asks for. Returns the exit status."""
    names = {each.name: each for each in COMBINATIONS}
    parser = argparse.ArgumentParser(prog="python -m tests.repo.versions", description=__doc__)
    parser.add_argument("combinations", nargs="*", metavar="COMBINATION", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="combinations at once; each has servers of its own")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="other tests than the contract")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.combinations if name not in names]:
        parser.error(f"no such combination: {', '.join(unknown)}")
    chosen = [names[name] for name in options.combinations or names]
    outcomes = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(lambda each: run(each, options.tests), chosen):
            outcomes.append(outcome)
            sys.stdout.write(f"--- {outcome.combination.name}\n{outcome.output}\n")
            sys.stdout.flush()
    sys.stdout.write("client versions:\n" + "".join(f"{outcome.line()}\n" for outcome in outcomes))
    if any(outcome.status is None for outcome in outcomes):
        return 2
    return int(any(outcome.status != 0 for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
