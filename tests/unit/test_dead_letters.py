"""Dead letters: what is kept, and what is shown of it."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from cachekeeper.consuming.dead_letters import DeadLetter, _write, mask, shown
from cachekeeper.errors import InvalidEvent
from cachekeeper.model.registry import load_registry
from cachekeeper.values.times import check_time

REGISTRY = load_registry(["producers"])
NOW = check_time(1_924_992_000)
TOKEN = "correct-horse-battery-staple"
LOGOUT = {"type": "user.logged_out", "token_id": TOKEN, "session_id": 4711471147, "user_id": "42", "time": 5}


def written(body: object, error: Exception | None = None) -> dict[str, Any]:
    """The document, as it is made the first time; but for what MongoDB counts."""
    update: Any = _write(REGISTRY, DeadLetter(body, error or InvalidEvent("x", "is wrong")), NOW)
    (change,) = update._doc
    told = {name: value["$literal"] for name, value in change["$set"].items() if "$literal" in value}
    return {**update._filter, **told}


def test_what_is_kept() -> None:
    document = written(LOGOUT)
    assert json.loads(document["body"]) == LOGOUT  # whole, so that it can be published again
    assert document["whole"] is True
    assert document["type"] == "user.logged_out"
    assert document["error"] == "InvalidEvent"
    assert document["reason"] == "x: is wrong"
    assert document["last_at"] == NOW


def test_the_same_body_is_the_same_letter() -> None:
    assert written(LOGOUT)["_id"] == written(dict(LOGOUT))["_id"]
    assert written(LOGOUT)["_id"] != written({**LOGOUT, "user_id": "43"})["_id"]


@pytest.mark.parametrize(
    "body",
    [None, 5, 10**400, 1.5, "text", "a\0b", "\ud800", [], [1, [2]], {}, {"$set": {"a.b": 1}, "": "\0"}, {"type": {}}],
)
def test_anything_can_be_kept(body: object) -> None:
    document = written(body)
    assert json.loads(document["body"]) == body
    assert document["body"].isascii()
    assert "\0" not in document["body"]
    shown(document, REGISTRY)


def test_a_body_that_is_too_long_is_cut_and_says_so() -> None:
    document = written("x" * 5_000_000)
    assert document["whole"] is False
    assert len(document["body"]) == 4 * 1024 * 1024
    assert "xxx" not in str(shown(document, REGISTRY)["body"])


def failing(text: str) -> Exception:
    """An error with a traceback, as a handler raises it."""
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        raise ValueError(text)
    return caught.value


def test_tokens_are_masked_in_reason_and_traceback() -> None:
    document = written(LOGOUT, failing(f"cannot handle {TOKEN} of 4711471147 for 42"))
    assert document["error"] == "ValueError"
    assert TOKEN not in document["reason"] + document["traceback"]
    assert "4711471147" not in document["reason"] + document["traceback"]
    assert mask(TOKEN) in document["reason"]
    assert "for 42" in document["reason"]  # no secret
    assert "Traceback" in document["traceback"]


@pytest.mark.parametrize(
    "token", ["back\\slash-token", "soft\u00adhyphen", 'qué"te', "sur\ud800rogate", "line\u2028end"]
)
@pytest.mark.parametrize(
    "quoted",
    [repr, json.dumps, lambda token: json.dumps(token, ensure_ascii=False), lambda token: repr({"_id": token}), str],
)
def test_a_token_is_masked_as_others_quote_it(token: str, quoted: Callable[[str], str]) -> None:
    """In an error's text, a driver's say, stands the repr of what it was given."""
    document = written({**LOGOUT, "token_id": token}, failing(f"no place for {quoted(token)}"))
    assert mask(token) in document["reason"]
    assert "no place for" in document["reason"]
    for form in (token, repr(token)[1:-1], json.dumps(token)[1:-1]):
        assert form not in document["reason"] + document["traceback"]


def test_secrets_within_secrets_cost_no_more_than_their_text() -> None:
    """With a note for each place where one is found, gigabytes."""
    rows = ["a" * length for length in range(1, 401)]
    document = written({"type": "order.placed", "rows": rows}, failing(f"no place for {rows}"))
    assert document["reason"].startswith(f"no pl{mask('a')}ce for ['{mask('a')}', '{mask('aa')}', '{mask('aaa')}'")
    assert "aaaa" not in re.sub("<masked [0-9a-f]{8}>", "", document["traceback"])


def test_secrets_that_occur_in_the_masks_of_others_are_masked_once() -> None:
    """Each of these digits, masked in what was masked before, would make the text some twenty times longer."""
    digits = [*range(10)] * 7
    document = written({"type": "order.placed", "quantities": digits}, failing("0123456789"))
    assert document["reason"] == mask("0123456789")


@pytest.mark.parametrize(
    ("text", "left"), [("abcdefgh", ""), ("abcdefgh-abc", "-"), ("xabcy", "xy"), ("bcdefghi", "i")]
)
def test_where_secrets_overlap_nothing_of_them_is_left(text: str, left: str) -> None:
    document = written({"type": "order.placed", "codes": ["abc", "bcdefgh", "cde"]}, failing(text))
    assert re.sub("<masked [0-9a-f]{8}>", "", document["reason"]) == left


@pytest.mark.parametrize("before", range(960, 1001))
def test_no_part_of_a_token_is_left_where_a_reason_is_cut(before: int) -> None:
    document = written(LOGOUT, failing("x" * before + TOKEN))
    assert len(document["reason"]) <= 1000
    assert TOKEN[:4] not in document["reason"] + document["traceback"]


def test_secret_fields_are_masked_when_shown() -> None:
    body = shown(written(LOGOUT), REGISTRY)["body"]
    assert body["token_id"] == mask(TOKEN)
    assert body["session_id"] == mask(4711471147)
    assert body["user_id"] == "42"
    assert body["type"] == "user.logged_out"
    assert TOKEN not in str(shown(written(LOGOUT), REGISTRY))


def test_a_misspelt_secret_is_masked_too() -> None:
    body = shown(written({**LOGOUT, "tokn_id": TOKEN}), REGISTRY)["body"]
    assert body["tokn_id"] == mask(TOKEN)


@pytest.mark.parametrize(
    "body",
    [{"type": "user.loggedout", "token_id": TOKEN}, {"token": {"id": [TOKEN]}}, [TOKEN], TOKEN, {"type": [TOKEN]}],
)
def test_what_is_no_event_we_know_is_masked_altogether(body: object) -> None:
    document = written(body, failing(f"what is {TOKEN}?"))
    assert TOKEN not in document["reason"] + document["traceback"]
    assert TOKEN not in str(shown(document, REGISTRY))


def test_masks_tell_equal_from_different_and_nothing_else() -> None:
    assert mask(TOKEN) == mask(TOKEN) != mask(TOKEN + "x")
    assert TOKEN[:4] not in mask(TOKEN)
    assert mask("\ud800")
