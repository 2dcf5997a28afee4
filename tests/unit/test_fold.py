"""The fold, the pattern and the escape. What they share with MongoDB and Node.js is in tests/integration/nodejs."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cachekeeper.values.fold import condition, escape_braces, fold, pattern, unescape_braces, vectors
from scripts import generate_fold

ROOT = Path(__file__).resolve().parents[2]
CLASSES: list[str] = json.loads((ROOT / "cachekeeper/values/fold/classes.json").read_bytes())["classes"]

# Characters that have relatives, characters that mean something to a pattern or an escape, and a few others.
telling = st.text(st.sampled_from("".join(CLASSES) + "\\^$.[]|()?*+{}-%257BDbd \n\r\t/#&~😀\u0301"), max_size=12)
texts = st.one_of(telling, st.text(st.characters(exclude_categories=["Cs"])))


def test_no_character_is_in_two_classes_and_none_is_special_in_a_class() -> None:
    members = "".join(CLASSES)
    assert len(CLASSES) > 1400
    assert len(set(members)) == len(members)
    assert not set(members) & set("\\]^-[:")
    assert all(len(spelt) > 1 for spelt in CLASSES)


@given(telling, telling, telling)
@example("\u212a", "", "k")
@example("a\nb", "A\n", "B")
@example("(a+)+$", "", "(A+)+$")
def test_a_name_matches_the_pattern_if_and_only_if_it_holds_the_folded_text(text: str, before: str, after: str) -> None:
    for name in (before, before + text + after, before + text.swapcase() + after):
        assert bool(re.search(pattern(text), name)) == (fold(text) in fold(name))


@given(texts)
def test_text_and_folded_text_have_the_same_pattern(text: str) -> None:
    assert pattern(text) == pattern(fold(text))


def test_the_longest_pattern_is_far_below_what_mongodb_takes() -> None:
    members = "".join(CLASSES)
    growth = max(len(pattern(character).encode()) / len(character.encode()) for character in members)
    assert growth == 7
    assert 512 * growth < 32_764


def test_the_condition_excludes_what_no_event_could_name() -> None:
    assert condition("K.") == {"$regex": "[kK\u212a]\\.", "$type": "string", "$not": {"$type": "array"}}


@given(texts)
@example("%7B")
@example("%257B")
@example("%%7B{")
@example("%2{5")
def test_the_escape_is_undone_and_leaves_no_brace(text: str) -> None:
    escaped = escape_braces(text)
    assert not set("{}") & set(escaped)
    assert unescape_braces(escaped) == text


def test_the_escape_is_injective() -> None:
    alphabet = "{}%257BD"
    every = [""]
    for _ in range(6):
        every = [text + character for text in every for character in ("", *alphabet)]
    distinct = set(every)
    assert len(set(map(escape_braces, distinct))) == len(distinct)


@pytest.mark.parametrize("text", ["50%", "%", "100% {", "%7b", "%2", "%%", "urn:uuid:1", "a%26b"])
def test_a_percent_sign_that_reads_as_nothing_stays(text: str) -> None:
    assert escape_braces(text).count("%25") == 0


def test_the_vectors_hold() -> None:
    given_texts, names = vectors()["texts"], vectors()["names"]
    assert len(given_texts) > 40
    for vector in given_texts:
        text, folded = vector["text"], fold(vector["text"])
        key = "search:" + escape_braces(folded)
        assert vector == {"text": text, "folded": folded, "key": key, "pattern": pattern(text)}
    assert len(names) > 5
    for vector in names:
        folded = fold(vector["name"])
        occurring = {folded[start:stop] for start in range(len(folded)) for stop in range(start + 1, len(folded) + 1)}
        assert {f"search:{escape_braces(text)}" for text in occurring} == set(vector["keys"])


def test_the_vectors_are_what_the_script_makes() -> None:
    assert generate_fold.vectors() == vectors()


def test_the_vectors_say_what_is_meant() -> None:
    keys = {vector["text"]: vector["key"] for vector in vectors()["texts"]}
    assert keys["LAMP"] == keys["lamp"] == "search:lamp"
    assert keys["\u212aelvin"] == "search:kelvin"
    assert keys["{x}"] == "search:%7Bx%7D"
    assert keys["50%"] == "search:50%"
    assert keys["%7B"] == "search:%7b"  # folded first
    assert keys["%25"] == "search:%2525"
    assert keys["\u0130stanbul"] == "search:\u0130stanbul"


@pytest.mark.parametrize("name", ["classes", "vectors"])
def test_the_copy_for_node_is_the_same(name: str) -> None:
    ours = (ROOT / f"cachekeeper/values/fold/{name}.json").read_bytes()
    assert ours == (ROOT / f"examples/node/fold-{name}.json").read_bytes()
