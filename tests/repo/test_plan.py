"""The plans of docs/architecture.md against the import-linter contracts and the files."""

import re
import tomllib
from pathlib import Path

import pytest

from scripts import plan
from testkit.compose import ROOT
from testkit.prose import read

PAGE = ROOT / "docs/architecture.md"
CONTRACTS = {
    each["id"]: each
    for each in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
}
LAYERED = [name for name, each in CONTRACTS.items() if each["type"] == "layers"]


def shown(text: str, name: str) -> list[str]:
    """The plans that a page has of a contract, without their fences."""
    return re.findall(rf"<!-- plan:{name}(?: \w+)? -->\n```text\n(.*?)\n```\n<!-- /plan -->", text, re.DOTALL)


def floors(drawn: str) -> list[str]:
    """A plan's floors as a contract writes them: the names that begin a line, and a blank line between two floors."""
    return [" | ".join(re.findall(r"^(\w+)(?:/|\.py)", floor, re.MULTILINE)) for floor in drawn.split("\n\n")]


@pytest.mark.parametrize("name", LAYERED)
def test_each_plan_has_every_package_on_its_floor_and_in_order(name: str) -> None:
    plans = shown(read(PAGE), name)
    assert plans
    assert [floors(drawn) for drawn in plans] == [CONTRACTS[name]["layers"]] * len(plans)


def test_the_list_of_files_has_every_file_of_the_engine() -> None:
    drawn = shown(read(PAGE), "engine")[-1]
    named = set(re.findall(r"^ *([\w.]+?)(?:/|\.py)? ", drawn, re.MULTILINE))
    files = [*(ROOT / "cachekeeper").glob("*.py"), *(ROOT / "cachekeeper").glob("*/*.py")]
    assert {path.stem for path in files} - {"__init__"} - named == set()


def test_the_plans_are_drawn_from_the_contracts_and_docstrings_as_they_are() -> None:
    text = read(PAGE)
    assert plan.filled(text) == text, "run python scripts/plan.py"


@pytest.mark.parametrize(
    ("good", "bad"), [("runtime/ ", "running/ "), ("\n\nvalues/", "\nvalues/")], ids=["another name", "another floor"]
)
def test_a_wrong_plan_is_found(good: str, bad: str) -> None:
    drawn = shown(read(PAGE), "engine")[0]
    assert good in drawn
    assert floors(drawn.replace(good, bad)) != CONTRACTS["engine"]["layers"]


def test_check_finds_a_page_that_is_out_of_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "architecture.md"
    page.write_text(read(PAGE).replace("runtime/ ", "running/ "), "utf-8")
    monkeypatch.setattr(plan, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["plan.py", "--check"])
    assert plan.main() == 1
    assert "out of date" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["plan.py"])
    assert plan.main() == 0
    assert read(page) == read(PAGE)


def test_a_contract_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="no contract cellar"):
        plan.filled("<!-- plan:cellar -->\n<!-- /plan -->\n")
