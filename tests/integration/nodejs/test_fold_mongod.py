"""The fold and the pattern against a real mongod, over all of Unicode."""

import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import pytest
from pymongo.collection import Collection
from pymongo.database import Database

from cachekeeper.devservers import MongoServer
from cachekeeper.values.fold import condition, fold, pattern
from scripts.generate_fold import SURROGATES, classes_of, javascript_classes, matches, server_pairs
from testkit.node import find_node
from testkit.parts import missing

TABLE: dict[str, Any] = json.loads(files("cachekeeper.values.fold").joinpath("classes.json").read_bytes())
CLASSES: list[str] = TABLE["classes"]
EVERYTHING = "".join(chr(code) for code in range(1, sys.maxunicode + 1) if code not in SURROGATES)
SPECIAL = "\\^$.[]|()?*+{}-#%& \n\r\t\u2028\u0301😀"


@pytest.fixture
def products(mongo_server: MongoServer, database: str) -> Iterator[Collection[dict[str, Any]]]:
    """An empty collection."""
    with mongo_server.client() as client:
        yield client[database]["products"]


@pytest.fixture(scope="module")
def equated(mongo_server: MongoServer) -> set[tuple[str, str]]:
    """All pairs that this server's case-insensitive pattern equates, measured."""
    with mongo_server.client() as client:
        return server_pairs(client["admin"])


def matching(database: Database[dict[str, Any]], asked: list[tuple[str, str]]) -> list[bool]:
    """For each name and pattern whether the one matches the other, in one round trip."""
    documents = [{"name": name, "pattern": regex} for name, regex in asked]
    match = {"$regexMatch": {"input": "$name", "regex": "$pattern"}}
    with database.aggregate([{"$documents": documents}, {"$project": {"match": match}}]) as cursor:
        return [document["match"] for document in cursor]


def uncovered(function: Callable[[str], str], pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(a, b) for a, b in pairs if function(a) != function(b)}


def test_the_measurement_finds_what_is_known(equated: set[tuple[str, str]]) -> None:
    expected = ("kK", "K\u212a", "\u212ak", "\u03b8\u03f4", "\u1e9e\u00df", "\U00010400\U00010428")
    assert {(pair[0], pair[1]) for pair in expected} <= equated
    assert not {("k", "k"), ("i", "\u0130"), ("i", "\u0131"), ("a", "\u00e4")} & equated
    assert len(equated) > 2000


def test_the_measurement_agrees_with_plain_queries(
    equated: set[tuple[str, str]], products: Collection[dict[str, Any]]
) -> None:
    asked = random.Random(1).sample(sorted({a for a, _ in equated}), 60) + list("kKsS1.\u0130\u0131\u4e2d\u1c80")
    products.insert_many([{"_id": character, "name": character} for character in {*"".join(CLASSES), *asked}])
    for character in asked:
        found = products.find({"name": {"$regex": f"\\x{{{ord(character):x}}}", "$options": "i"}})
        others = {document["_id"] for document in found} - {character}
        assert others == {b for a, b in equated if a == character}


def test_what_the_server_equates_folds_alike(equated: set[tuple[str, str]]) -> None:
    assert uncovered(fold, equated) == set()


@pytest.mark.parametrize("variant", [str.lower, lambda text: text if text == "\u212a" else fold(text)])
def test_a_fold_that_misses_a_pair_is_caught(variant: Callable[[str], str], equated: set[tuple[str, str]]) -> None:
    assert uncovered(variant, equated)


def test_the_table_is_what_the_script_makes(equated: set[tuple[str, str]]) -> None:
    javascript = javascript_classes(find_node())
    if javascript["unicode"] != TABLE["unicode"]:
        missing("node", f"the table is of Unicode {TABLE['unicode']}, this Node.js has {javascript['unicode']}")
    assert classes_of(javascript, equated) == CLASSES


def test_every_character_is_found_by_its_pattern(products: Collection[dict[str, Any]]) -> None:
    chunks = [EVERYTHING[at : at + 128] for at in range(0, len(EVERYTHING), 128)]
    asked = [(chunk, f"^{pattern(chunk)}(?![\\s\\S])") for chunk in chunks]
    assert all(matching(products.database, asked))


def strays(function: Callable[[str], str], database: Database[dict[str, Any]]) -> set[str]:
    """The characters whose pattern under `function` does not find exactly those that fold alike.

    Among all who have relatives, and ASCII; for the others the pattern is the character itself, as the unit tests show.
    """
    crowd = sorted({*"".join(CLASSES), *map(chr, range(1, 128)), *SPECIAL})
    (found,) = matches(database, [("".join(crowd), [function(character) for character in crowd])])
    relatives: dict[str, list[str]] = {}
    for character in crowd:
        relatives.setdefault(fold(character), []).append(character)
    return {character for character, others in zip(crowd, found, strict=True) if others != relatives[fold(character)]}


def test_a_character_finds_its_class_and_nobody_else(products: Collection[dict[str, Any]]) -> None:
    assert strays(pattern, products.database.client["admin"]) == set()


def test_known_bad_patterns_are_caught(products: Collection[dict[str, Any]]) -> None:
    admin = products.database.client["admin"]
    assert len(strays(lambda text: pattern(text).replace("\\.", "."), admin)) == 1
    assert len(strays(lambda text: f"(?i){re.escape(text)}", admin)) > 100  # this server's Unicode is older than ours


def drawn(source: random.Random, length: int) -> str:
    return "".join(source.choice(source.choice((*CLASSES, SPECIAL, SPECIAL, "ab"))) for _ in range(length))


def test_a_name_matches_if_and_only_if_it_holds_the_text(products: Collection[dict[str, Any]]) -> None:
    source = random.Random(2)
    names = [drawn(source, source.randint(0, 12)) for _ in range(300)]
    products.insert_many([{"_id": index, "name": name} for index, name in enumerate(names)])
    found_any = 0
    for _ in range(150):
        name = source.choice(names) or "a"
        start = source.randrange(len(name))
        text = "".join(source.choice(same_class(c)) for c in name[start : start + source.randint(1, 4)])
        found = {document["_id"] for document in products.find({"name": condition(text)})}
        assert found == {index for index, name in enumerate(names) if fold(text) in fold(name)}, text
        found_any += len(found)
    assert found_any >= 150


def same_class(character: str) -> str:
    return next((members for members in CLASSES if character in members), character)


REGEX_CHARACTERS = (
    "C++",
    ".*",
    "(a+)+$",
    "{x}",
    "^",
    "$",
    "\\",
    "[",
    "]",
    "a|b",
    "(?i)",
    "\\Q",
    "\\E",
    "a\nb",
    "a{2}",
    "(*UCP)",
)


@pytest.mark.parametrize("text", REGEX_CHARACTERS)
def test_a_text_full_of_regex_characters_finds_what_holds_it(text: str, products: Collection[dict[str, Any]]) -> None:
    products.insert_many([{"name": f"x{text}y"}, {"name": text.upper()}, {"name": "aa x b c ."}, {"name": ""}])
    found = sorted(document["name"] for document in products.find({"name": condition(text)}))
    assert found == sorted([f"x{text}y", text.upper()])


@pytest.mark.parametrize("text", ["k" * 512, "\u212a" * 170, "(a+)+$" * 85, "\u0345" * 256, "a" * 511 + "b"])
def test_the_longest_texts_are_answered_in_bounded_time(text: str, products: Collection[dict[str, Any]]) -> None:
    names = ["a" * 20_000, "(A+)+" * 4_000, "k" * 20_000, f"..{text.upper()}.."]
    products.insert_many([{"_id": index, "name": name} for index, name in enumerate(names)])
    found = {document["_id"] for document in products.find({"name": condition(text)}, max_time_ms=10_000)}
    assert found == {index for index, name in enumerate(names) if fold(text) in fold(name)}
    assert 3 in found


def test_only_text_is_found(products: Collection[dict[str, Any]]) -> None:
    products.insert_many([{"name": name} for name in (["lamp"], [["lamp"]], {"x": "lamp"}, None, 5, [], "Lamp")])
    assert [document["name"] for document in products.find({"name": condition("LAMP")})] == ["Lamp"]
