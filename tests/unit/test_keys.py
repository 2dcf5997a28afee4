"""Keys: templates that never meet, metadata in the slot of its key, and texts that may be searched for."""

import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from cachekeeper.errors import InvalidText, RegistrationError
from cachekeeper.model.registry import Registry, load_registry
from cachekeeper.model.sources import Document
from cachekeeper.model.views import View
from cachekeeper.values import fold
from cachekeeper.values.codecs import Text
from cachekeeper.values.ids import check_id
from cachekeeper.values.keys import MAX_TEXT_BYTES, Template, check_text, meta_key


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("user:name", "exactly one {id}"),
        ("{id}:{id}", "exactly one {id}"),
        ("user:{id}:{name}", "exactly one {id}"),
        ("user:{id", "exactly one {id}"),
        ("user:{text}", "exactly one {id}"),
        ("{user}:{id}", "exactly one {id}"),
        ("{id}", "prefix of its own"),
        ("{id}:name", "prefix of its own"),
        ("cachekeeper:{id}", "are reserved"),
        ("cachekeeper:x:{id}", "are reserved"),
        ("cache{id}", "are reserved"),  # cachekeeper:blocked-ready is such a key
    ],
)
def test_templates_that_are_refused(text: str, problem: str) -> None:
    with pytest.raises(RegistrationError, match="key template") as caught:
        Template.of(text, "id")
    assert problem in str(caught.value)


def test_a_key_and_back() -> None:
    template = Template.of("user:{id}:name", "id")
    assert template.key("tenant:42") == "user:tenant:42:name"
    assert template.part("user:tenant:42:name") == "tenant:42"
    for other in ("user::name", "user:name", "user:42", "users:42:name", "user:42:name:meta", ""):
        assert template.part(other) is None


def test_a_hole_of_nothing_is_no_key_where_prefix_and_suffix_overlap() -> None:
    template = Template.of("aba{id}aba", "id")
    assert template.part("ababa") is None
    assert template.part("abaaba") is None
    assert template.part("abaxaba") == "x"


# Every template over a two-letter alphabet with short prefix and suffix, and every key with a short id: all pairs.
LETTERS = [*map("".join, itertools.chain.from_iterable(itertools.product("a:", repeat=n) for n in range(4)))]
TEMPLATES = [Template(prefix, suffix) for prefix in LETTERS[1:] for suffix in LETTERS if len(prefix + suffix) < 5]


def keys_of_both(one: Template, other: Template) -> bool:
    """Whether they meet, by trying: an id with the other's prefix and suffix in it is enough if any is."""
    parts = [part for part in LETTERS if part]
    keys = {one.key(part) for part in parts} | {one.key(one_more + part) for part in parts for one_more in parts}
    return any(other.part(key) is not None for key in keys)


def finds_every_meeting(meets: Callable[[Template, Template], bool]) -> None:
    for one, other in itertools.combinations_with_replacement(TEMPLATES, 2):
        assert meets(one, other) == keys_of_both(one, other), (one, other)


def test_templates_meet_exactly_if_a_key_could_be_of_both() -> None:
    finds_every_meeting(Template.meets)


@pytest.mark.parametrize(
    "bad",
    [
        lambda one, other: one == other,
        lambda one, other: one.prefix == other.prefix and one.suffix == other.suffix,
        lambda one, other: one.prefix.startswith(other.prefix) and one.suffix.endswith(other.suffix),
        lambda one, other: one.prefix == other.prefix,
    ],
)
def test_weaker_comparisons_miss_meetings(bad: Callable[[Template, Template], bool]) -> None:
    with pytest.raises(AssertionError):
        finds_every_meeting(bad)


def view(name: str, key: str) -> View[str]:
    loader = Document("things", lambda document: document["name"], fields=("name",))
    return View(name=name, key=key, ttl_seconds=60, codec=Text(), loader=loader)


def test_two_views_whose_keys_could_meet_are_refused_at_registration() -> None:
    registry = Registry()
    registry.add_view(view("order", "order:{id}"))
    with pytest.raises(RegistrationError, match=r"could be the same as 'order:{id}' of view order"):
        registry.add_view(view("order_name", "order:{id}:name"))
    with pytest.raises(RegistrationError, match="another view has that name"):
        registry.add_view(view("order", "elsewhere:{id}"))
    registry.add_view(view("orders", "orders:{id}"))
    assert sorted(registry.views) == ["order", "orders"]


def test_a_view_beside_the_shipped_ones() -> None:
    registry = load_registry(["lookups"])
    with pytest.raises(RegistrationError, match="of view user_name"):
        registry.add_view(view("mine", "user:{id}:nickname:name"))
    registry.add_view(view("mine", "user:{id}:nickname"))


@pytest.mark.parametrize("name", ["", "order-status", "1st", "a b"])
def test_the_name_of_a_view_is_an_identifier(name: str) -> None:
    with pytest.raises(RegistrationError, match="identifier"):
        view(name, "order:{id}")


@pytest.mark.parametrize("seconds", [0, -1, 0.0001, float("nan"), float("inf"), 1e300])
def test_a_time_to_live_that_redis_could_not_hold(seconds: float) -> None:
    loader = Document("things", lambda document: document["name"], fields=("name",))
    with pytest.raises(RegistrationError, match="view order: ttl_seconds"):
        View(name="order", key="order:{id}", ttl_seconds=seconds, codec=Text(), loader=loader)


# --- metadata -------------------------------------------------------------------------------------------------------


def shares_its_slot(key: str) -> None:
    assert key_slot(meta_key(key).encode()) == key_slot(key.encode())


@given(st.from_regex(r"[^{}\s\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,40}", fullmatch=True))
def test_a_key_and_its_metadata_share_a_cluster_slot(part: str) -> None:
    shares_its_slot(Template.of("user:{id}:name", "id").key(check_id(part)))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40))
def test_a_search_and_its_metadata_share_a_cluster_slot(text: str) -> None:
    shares_its_slot(Template.of("search:{text}", "text").key(fold.escape_braces(fold.fold(check_text(text)))))


@pytest.mark.parametrize("text", ["{x}", "a}b", "{}", "}{"])
def test_braces_left_in_a_key_would_part_them(text: str) -> None:
    with pytest.raises(AssertionError):
        shares_its_slot(f"search:{text}")


# --- texts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["C++", ".*", "(a+)+$", "{x}", "a b\n", " ", "\ufeff", "x" * MAX_TEXT_BYTES, "é" * (MAX_TEXT_BYTES // 2), "🛒"],
)
def test_texts_that_may_be_searched_for(text: str) -> None:
    assert check_text(text) == text


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "empty"),
        ("a\0b", "NUL"),
        ("\ud800", "lone surrogates"),
        ("a\udc00b", "lone surrogates"),
        ("x" * (MAX_TEXT_BYTES + 1), "at most 512 bytes"),
        ("é" * (MAX_TEXT_BYTES // 2 + 1), "at most 512 bytes"),
        (None, "NoneType"),
        (b"lamp", "bytes"),
        (42, "int"),
        (["lamp"], "list"),
    ],
)
def test_texts_that_may_not(value: object, problem: str) -> None:
    with pytest.raises(InvalidText) as caught:
        check_text(value, "text")
    assert caught.value.field == "text"
    assert problem in caught.value.problem
    assert json.dumps(str(caught.value)).startswith('"text: ')
