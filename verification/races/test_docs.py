"""Each race that docs/protocol.md names is played."""

import re

from testkit.compose import ROOT
from testkit.prose import read, table
from verification.races.cases import CASES

PROTOCOL = ROOT / "docs/protocol.md"


def unplayed_races(text: str) -> list[str]:
    """Return the races that, by the page's table, are played by no case of the suite and by no test."""
    races = re.findall(r"^\*\*(\d+)\. ", text, re.MULTILINE)
    known = {case.name for case in CASES}
    played = {race for race, cases, tests in table(text, "race") if tests or known.issuperset(cases.split("; "))}
    return [race for race in races if race not in played]


def test_each_race_is_played() -> None:
    assert unplayed_races(read(PROTOCOL)) == []


def test_a_race_that_is_not_played_is_found() -> None:
    text = read(PROTOCOL)
    assert unplayed_races(text.replace("| 6 | Redis restarts, then", "| 6 | Redis restarts and")) == ["6"]
    assert unplayed_races(text.replace("| 5 |", "| 55 |")) == ["5"]
