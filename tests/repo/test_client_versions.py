"""`make versions`: it takes the versions from pyproject.toml, and no run passes with other ones."""

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from testkit.compose import ROOT
from tests.repo.versions import __main__ as command
from tests.repo.versions.bounded import run_bounded
from tests.repo.versions.environments import (
    CLIENTS,
    COMBINATIONS,
    Combination,
    EnvironmentFailed,
    client_ranges,
    floor,
    interpreter,
    link,
)
from tests.repo.versions.plugin import clients_text, installed, loaded, problems

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FLOOR = {"redis": "6.4.0", "pymongo": "4.9", "hiredis": "3.2.0"}
WITHOUT = {"redis": "6.4.0", "pymongo": "4.9"}


def test_the_combinations_hold_both_ends_each_with_and_without_hiredis() -> None:
    assert {(each.oldest, each.hiredis) for each in COMBINATIONS} == {
        (oldest, hiredis) for oldest in (True, False) for hiredis in (True, False)
    }


def test_the_versions_come_from_the_ranges_of_pyproject() -> None:
    project = {"dependencies": ["celery>=5", "hiredis>=3.2; python_version > '3'", "pymongo>=4.9,<5", "redis>=6.4,<9"]}
    asked = {each.name: each.requirements(client_ranges(project)) for each in COMBINATIONS}
    assert asked == {
        "oldest-without-hiredis": ["redis==6.4", "pymongo==4.9"],
        "oldest-with-hiredis": ["redis==6.4", "pymongo==4.9", "hiredis==3.2"],
        "newest-without-hiredis": ["redis<9,>=6.4", "pymongo<5,>=4.9"],
        "newest-with-hiredis": ["redis<9,>=6.4", "pymongo<5,>=4.9", "hiredis>=3.2"],
    }
    assert set(client_ranges(PROJECT)) == set(CLIENTS)


@pytest.mark.parametrize("text", ["redis", "redis<9", "redis>6.4", "redis>=6.4,==7"])
def test_a_range_without_a_lower_end_is_an_error(text: str) -> None:
    with pytest.raises(EnvironmentFailed, match="must have one lower end"):
        floor(Requirement(text))


@pytest.mark.parametrize(
    ("wanted", "imported", "metadata", "wrong"),
    [
        (FLOOR, FLOOR, FLOOR, []),
        (WITHOUT, WITHOUT, WITHOUT, []),
        (FLOOR, {**FLOOR, "redis": "8.1.0"}, FLOOR, ["redis: wanted 6.4.0, imported 8.1.0"]),
        (FLOOR, FLOOR, {**FLOOR, "pymongo": "4.20.1"}, ["pymongo: wanted 4.9, installed 4.20.1"]),
        (FLOOR, WITHOUT, FLOOR, ["hiredis: wanted 3.2.0, imported None"]),
        (WITHOUT, FLOOR, WITHOUT, ["hiredis: wanted None, imported 3.2.0"]),
        (WITHOUT, WITHOUT, FLOOR, ["hiredis: wanted None, installed 3.2.0"]),
    ],
)
def test_other_clients_than_asked_for_are_told(
    wanted: dict[str, str], imported: dict[str, str], metadata: dict[str, str], wrong: list[str]
) -> None:
    assert problems(clients_text(wanted), imported, metadata) == wrong


def run_pytest(clients: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    test = tmp_path / "test_nothing.py"
    test.write_text("def test_nothing() -> None:\n    pass\n", "utf-8")
    arguments = [
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.repo.versions.plugin",
        "--clients",
        clients,
        str(test),
    ]
    command = [sys.executable, "-m", "pytest", "--rootdir", str(tmp_path), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_pytest_runs_with_the_clients_that_were_asked_for_and_says_which(tmp_path: Path) -> None:
    done = run_pytest(clients_text(loaded()), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"redis {loaded()['redis']}\n" in done.stdout
    assert loaded() == installed()


def test_pytest_runs_nothing_with_other_clients(tmp_path: Path) -> None:
    done = run_pytest(clients_text({**loaded(), "redis": "6.4.0"}), tmp_path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"redis: wanted 6.4.0, imported {loaded()['redis']}" in done.stderr
    assert "passed" not in done.stdout


def test_an_environment_has_all_but_the_clients(tmp_path: Path) -> None:
    link(tmp_path / "linked")
    code = (
        "import importlib.metadata, importlib.util, sys, celery, pytest\n"
        "assert sys.prefix.endswith('linked')\n"
        f"for name in {CLIENTS!r}:\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
        "    try:\n"
        "        importlib.metadata.version(name)\n"
        "    except importlib.metadata.PackageNotFoundError:\n"
        "        continue\n"
        "    raise AssertionError(name)\n"
    )
    done = subprocess.run(
        [interpreter(tmp_path / "linked"), "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("statuses", "wanted"),
    [([0, 0, 0, 0], 0), ([0, 0, 1, 0], 1), ([0, 0, 0, 5], 1), ([0, None, 1, 0], 2)],
)
def test_one_combination_that_fails_fails_the_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], statuses: list[int | None], wanted: int
) -> None:
    of = dict(zip((each.name for each in COMBINATIONS), statuses, strict=True))

    def ran(combination: Combination, _tests: list[str]) -> command.Outcome:
        return command.Outcome(combination, "redis==1", of[combination.name], 1.0, "")

    monkeypatch.setattr(command, "run", ran)
    assert command.main([]) == wanted
    summary = capsys.readouterr().out.partition("client versions:\n")[2]
    assert summary.count("passed") == statuses.count(0)
    assert summary.count("\n") == len(COMBINATIONS)


HANGS = """
import threading

def waits_forever():
    threading.Event().wait()

threading.Thread(target=waits_forever).start()
print("all passed", flush=True)
"""


def test_a_run_that_hangs_as_it_ends_is_ended_and_says_where(tmp_path: Path) -> None:
    status, output = run_bounded([sys.executable, "-c", HANGS], directory=tmp_path, environment=os.environ, seconds=2.0)
    assert status == -signal.SIGABRT
    assert output.startswith("all passed\n")
    assert "in waits_forever" in output
    assert output.endswith("ended, because it took longer than 2 s\n")


def test_the_contract_names_files_that_exist() -> None:
    assert [name for name in command.TESTS if not (ROOT / name).is_file()] == []
