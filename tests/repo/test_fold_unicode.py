"""The fold and the pattern over all of Unicode: a million characters take seconds, so they are no unit tests."""

import json
import re
import sys
from collections.abc import Callable

import pytest

from cachekeeper.values.fold import fold, pattern
from testkit.compose import ROOT

CLASSES: list[str] = json.loads((ROOT / "cachekeeper/values/fold/classes.json").read_bytes())["classes"]
EVERYTHING = "".join(map(chr, range(sys.maxunicode + 1)))


def simple(character: str) -> str:
    """Simple case folding as far as this Python's Unicode knows it."""
    folded, lower = character.casefold(), character.lower()
    return folded if len(folded) == 1 else lower if len(lower) == 1 else character


def faults(function: Callable[[str], str], characters: str) -> set[str]:
    """The promises that `function` breaks for some of `characters`."""
    ascii_only = EVERYTHING[:128]
    kept = {
        "one character to one": all(len(function(character)) == 1 for character in characters),
        "idempotent": function(function(characters)) == function(characters),
        "ASCII": function(ascii_only) == re.sub("[A-Z]", lambda letter: chr(ord(letter[0]) + 32), ascii_only),
        "relatives fold alike": all(function(character) == function(simple(character)) for character in characters),
    }
    return {promise for promise, held in kept.items() if not held}


def test_the_fold_keeps_its_promises_over_all_of_unicode() -> None:
    assert faults(fold, EVERYTHING) == set()


@pytest.mark.parametrize(
    ("variant", "broken"),
    [
        (str.lower, {"one character to one", "relatives fold alike"}),
        (str.casefold, {"one character to one"}),
        (str.upper, {"one character to one", "ASCII", "relatives fold alike"}),
        (lambda text: fold(text).translate({0x61: 0x62, 0x62: 0x61}), {"idempotent", "ASCII"}),
    ],
    ids=["lower", "casefold", "upper", "to and fro"],
)
def test_known_bad_folds_are_caught(variant: Callable[[str], str], broken: set[str]) -> None:
    assert faults(variant, EVERYTHING[:0x2200]) >= broken


def test_a_text_folds_character_by_character() -> None:
    assert fold(EVERYTHING) == "".join(map(fold, EVERYTHING))


def test_the_pattern_of_a_character_without_relatives_is_that_character() -> None:
    special = "\\^$.[]|()?*+{}"
    for character in set(EVERYTHING) - set("".join(CLASSES)):
        assert pattern(character) == (f"\\{character}" if character in special else character)
