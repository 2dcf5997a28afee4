"""What a run must have, what it may skip, and how it fails where it skipped something else: pytest runs pytest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cachekeeper.devservers import ServerUnavailable
from testkit.compose import ROOT
from testkit.parts import PARTS, missing, required
from testkit.servers import needed

INNER = """
import pytest
from testkit.parts import missing

def test_that_passes():
    pass

def test_with_node():
    missing("node", "not found")

@pytest.mark.skip(reason="somebody was in a hurry")
def test_skipped_by_a_mark():
    pass
"""


@pytest.mark.parametrize(
    ("environment", "parts"),
    [
        ({}, set()),
        ({"CI": "yes"}, set()),
        ({"CI": "true"}, set(PARTS)),
        ({"CI": "true", "TEST_PARTS": "mongod, node"}, {"mongod", "node"}),
        ({"TEST_PARTS": "git"}, {"git"}),
        ({"CI": "true", "TEST_PARTS": ""}, set()),
    ],
)
def test_required_parts_are_the_declared_ones_else_all_of_them_in_ci(
    environment: dict[str, str], parts: set[str]
) -> None:
    assert required(environment) == parts


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown part mongo; known are any-redis"):
        required({"TEST_PARTS": "mongo,node"})
    with pytest.raises(KeyError, match="mongo"):
        missing("mongo", "not found")


def _none() -> None:
    raise ServerUnavailable("server of that kind", ["none is there"], "none")


def test_a_missing_server_is_a_skip_on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PARTS", "redis")
    with pytest.raises(pytest.skip.Exception, match=r"(?s)missing part mongod: .*none is there"):
        needed("mongod", _none)


def test_a_required_server_that_is_missing_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PARTS", "mongod")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)missing part mongod: .*none is there"):
        needed("mongod", _none)


def run(directory: Path, *arguments: str, **environment: str) -> tuple[int, str, dict[str, object]]:
    inner = directory / "test_inner.py"
    inner.write_text(INNER)
    plain = ["-c", "/dev/null", "--rootdir", str(directory), "-p", "no:cacheprovider", "-p", "testkit.servers_plugin"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plain, *arguments, str(inner)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "TEST_REPORT": str(directory / "report.json"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout, json.loads((directory / "report.json").read_text())


@pytest.mark.parametrize("spread", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_a_run_of_ci_fails_where_it_skips_something_else(tmp_path: Path, spread: list[str]) -> None:
    status, said, report = run(tmp_path, *spread, TEST_PARTS="git")
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "1 x Skipped: somebody was in a hurry" in said
    assert "missing part node" not in said.partition("skipped, and must not be")[2]
    assert (report["passed"], report["failed"], report["skipped"], report["unexpected"]) == (1, 0, 2, 1)


@pytest.mark.parametrize("spread", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_a_part_that_is_not_required_may_be_skipped(tmp_path: Path, spread: list[str]) -> None:
    status, _, report = run(tmp_path, *spread, "--deselect", "test_inner.py::test_skipped_by_a_mark", TEST_PARTS="git")
    assert status == pytest.ExitCode.OK
    assert (report["passed"], report["skipped"], report["unexpected"]) == (1, 1, 0)
    assert report["servers"] == []


def test_a_required_part_fails_its_test(tmp_path: Path) -> None:
    status, said, report = run(tmp_path, TEST_PARTS="node")
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "missing part node: not found" in said
    assert report["failed"] == 1


def test_on_a_laptop_any_skip_will_do(tmp_path: Path) -> None:
    status, said, report = run(tmp_path)
    assert status == pytest.ExitCode.OK
    assert "must not be" not in said
    assert (report["passed"], report["skipped"]) == (1, 2)
