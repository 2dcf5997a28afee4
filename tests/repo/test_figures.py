import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts import figures
from testkit.compose import ROOT

PAGE = "before\n<!-- figures:hit -->\nold\n<!-- /figures -->\nafter\n"


def result(**changed: Any) -> dict[str, Any]:
    return {
        "name": "hit",
        "commit": "0123456789abcdef",
        "date": "2024-02-29",
        "machine": "two cores",
        "servers": {"redis": "7.0.15", "mongod": "6.0.5"},
        "seed": 7,
        "figures": [
            {"figure": "cost of a hit", "value": 1.0846, "unit": "x GET", "target": "<= 1.15", "held": True},
            {"figure": "keys | cached", "value": 1_000_000, "unit": "", "target": None, "held": None},
            {"figure": "lost", "value": 3, "unit": "events", "target": "<= 0", "held": False},
        ],
        **changed,
    }


def written(directory: Path, content: dict[str, Any]) -> Path:
    (directory / "hit.json").write_text(json.dumps(content), "utf-8")
    return directory


def test_a_place_gets_the_figures_of_its_file_and_nothing_else_changes(tmp_path: Path) -> None:
    assert figures.filled(PAGE, written(tmp_path, result())) == (
        "before\n"
        "<!-- figures:hit -->\n"
        "| figure | value | target | held |\n"
        "|---|---|---|---|\n"
        "| cost of a hit | 1.0846 x GET | <= 1.15 | yes |\n"
        "| keys \\| cached | 1,000,000 |  |  |\n"
        "| lost | 3 events | <= 0 | **no** |\n"
        "\n"
        "Measured 2024-02-29 at commit 0123456789ab on two cores; redis 7.0.15, mongod 6.0.5; seed 7.\n"
        "<!-- /figures -->\n"
        "after\n"
    )


def test_races_become_a_matrix(tmp_path: Path) -> None:
    def ending(who: str, case: str, value: int, unit: str) -> dict[str, Any]:
        return {"figure": f"{who}: {case}", "value": value, "unit": unit, "target": None, "held": None}

    content = result(
        name="races",
        figures=[
            ending("ours", "slow fill", 0, "fresh"),
            ending("theirs", "slow fill", 1, "stale"),
            ending("ours", "a | b", 2, "error"),
        ],
        cases={"slow fill": "load · event · fill.", "a | b": "another."},
        contenders={"ours": "as it is", "theirs": "page “Locks”"},
        not_applicable={"theirs: a | b": "it has no b"},
        libraries={"theirs": "1.2"},
    )
    (tmp_path / "races.json").write_text(json.dumps(content), "utf-8")
    page = figures.filled("<!-- figures:races -->\n<!-- /figures -->\n", tmp_path)
    assert page == (
        "<!-- figures:races -->\n"
        "| case | ours | theirs |\n"
        "| --- | --- | --- |\n"
        "| slow fill | fresh | **stale** |\n"
        "| a \\| b | **error** | n/a |\n"
        "\n"
        "How each contender is played:\n"
        "\n"
        "- **ours**: as it is.\n"
        "- **theirs**: page “Locks”.\n"
        "- *n/a* for theirs: it has no b.\n"
        "\n"
        "The steps of each case:\n"
        "\n"
        "- *slow fill*: load · event · fill.\n"
        "- *a | b*: another.\n"
        "\n"
        "Measured 2024-02-29 at commit 0123456789ab on two cores; redis 7.0.15, mongod 6.0.5, theirs 1.2; seed 7.\n"
        "<!-- /figures -->\n"
    )


def test_filling_twice_changes_nothing(tmp_path: Path) -> None:
    once = figures.filled(PAGE, written(tmp_path, result()))
    assert figures.filled(once, tmp_path) == once


def test_where_nothing_was_measured_the_page_says_so(tmp_path: Path) -> None:
    assert "*Not measured yet.*" in figures.filled(PAGE, tmp_path)


def test_servers_may_be_a_list_and_a_seed_may_be_missing(tmp_path: Path) -> None:
    content = result(servers=["redis 7.0.15"])
    del content["seed"]
    assert "on two cores; redis 7.0.15.\n" in figures.filled(PAGE, written(tmp_path, content))


def test_figures_of_a_tree_that_is_no_commit_say_so(tmp_path: Path) -> None:
    page = figures.filled(PAGE, written(tmp_path, result(commit="0123456789abcdef+")))
    assert "at commit 0123456789ab with changes on" in page


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (result(name="other"), "hit.json: its name must be that of the file, and is 'other'"),
        ({"name": "hit", "figures": []}, "hit.json: lacks commit, date, machine, servers"),
        (result(figures=[{"figure": "x", "value": 1}]), "hit.json: a figure lacks held, target, unit"),
        (
            result(figures=[{"figure": "x", "value": 1, "unit": "", "target": None, "held": "yes"}]),
            "hit.json: held must be true, false or null, and is 'yes'",
        ),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        figures.filled(PAGE, written(tmp_path, content))


def test_the_docs_quote_what_was_measured_last() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/figures.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_check_finds_a_page_that_is_out_of_date(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "README.md").write_text(PAGE, "utf-8")
    script = tmp_path / "scripts/figures.py"
    script.write_bytes((ROOT / "scripts/figures.py").read_bytes())

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    assert run("--check") == (1, "README.md: out of date; run python scripts/figures.py\n")
    assert (tmp_path / "README.md").read_text("utf-8") == PAGE
    assert run() == (0, "README.md: figures brought up to date\n")
    assert run("--check") == (0, "")
