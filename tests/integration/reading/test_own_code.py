"""A view's own code that raises: a loader, a filter, a codec. Whoever reads is told, typed; nobody waits in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson.errors import InvalidBSON, InvalidDocument
from bson.errors import InvalidId as BsonInvalidId
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from cachekeeper import Document, View
from cachekeeper.errors import (
    CachekeeperError,
    DamagedDocument,
    DamagedValue,
    DatabaseUnavailable,
    InvalidId,
    RegistrationError,
    ViewFailed,
)
from cachekeeper.model.sources import Query
from cachekeeper.model.views import Staleness, TextView
from cachekeeper.reading.sync import SyncReader
from cachekeeper.values.codecs import Json, Text
from testkit.counting import counted
from testkit.shop import Shop, put_user
from tests.integration.reading.own_code import ANY, REFUSED, SECRET, fails, no_lease, search, view

if TYPE_CHECKING:
    from collections.abc import Callable

# --- what lies at a key -----------------------------------------------------------------------------------------------


@ANY
def test_what_a_decoder_raises_at_a_key_of_ours_is_damage(shop: Shop, kind: type[Exception]) -> None:
    put_user(shop, "Ann", 1)
    keeper, own = shop.keeper(), view(kind)
    shop.redis.set("own:1", "unreadable")
    with counted() as seen:
        assert [keeper.read(own, 1), keeper.read(own, 1)] == ["Ann", "Ann"]
    assert (seen["damaged_value"], seen["load"]) == (1, 1)
    assert shop.redis.get("own:1") == b"Ann"


@ANY
def test_so_it_is_of_a_search(shop: Shop, kind: type[Exception]) -> None:
    put_user(shop, "Ann")
    keeper, own = shop.keeper(), search(kind)
    shop.redis.set("own:ann", "unreadable")
    shop.redis.set("own:a", "unreadable")
    with counted() as seen:
        assert keeper.search(own, "Ann") == ""  # the filter is case-sensitive
    assert (seen["damaged_value"], seen["load"]) == (1, 1)
    assert shop.redis.get("own:ann") == b""


@ANY
def test_what_another_reader_fills_meanwhile_may_be_damage_too(shop: Shop, kind: type[Exception]) -> None:
    """GET: nothing there. Then somebody writes, and acquire finds it."""
    put_user(shop, "Ann", 1)
    keeper, own = shop.keeper(), view(kind)
    get = SyncReader.get

    def overtaken(self: SyncReader, key: str) -> Any:
        found = get(self, key)
        shop.redis.set("own:1", "unreadable")
        return found

    with pytest.MonkeyPatch.context() as patch, counted() as seen:
        patch.setattr(SyncReader, "get", overtaken)
        assert keeper.read(own, 1) == "Ann"
    assert (seen["damaged_value"], seen["load"]) == (1, 1)
    assert shop.redis.get("own:1") == b"Ann"


@ANY
def test_where_others_write_too_it_is_left_as_found(shop: Shop, kind: type[Exception]) -> None:
    put_user(shop, "Ann", 1)
    shop.redis.set("own:1", "unreadable")
    with pytest.raises(DamagedValue, match="left unchanged"):
        shop.keeper().read(view(kind, staleness=Staleness.SHARED), 1)
    assert shop.redis.get("own:1") == b"unreadable"


# --- what is loaded ---------------------------------------------------------------------------------------------------


@ANY
@pytest.mark.parametrize("name", ["unloadable", "unwritable", "unreadable"])
@pytest.mark.parametrize("damaged", [False, True])
def test_what_the_views_own_code_raises_is_typed_and_the_lease_given_back(
    shop: Shop, kind: type[Exception], name: str, *, damaged: bool
) -> None:
    put_user(shop, name, 1)
    keeper = shop.keeper()
    if damaged:
        shop.redis.set("own:1", "unreadable")
    for _ in range(2):
        with counted() as seen:
            fails(lambda: keeper.read(view(kind), 1), kind)
        assert seen["load"] == 1
        assert no_lease(shop)
    assert shop.redis.get("own:1") == (b"unreadable" if damaged else None)


@ANY
@pytest.mark.parametrize("name", ["unloadable", "unwritable", "unreadable"])
@pytest.mark.parametrize("limit", [64, 3], ids=["cached", "over the limit"])
def test_so_it_is_in_a_search(shop: Shop, kind: type[Exception], name: str, limit: int) -> None:
    put_user(shop, name)
    keeper = shop.keeper(text_limit_chars=limit)
    for _ in range(2):
        fails(lambda: keeper.search(search(kind), name), kind)
    assert no_lease(shop, name)
    assert shop.redis.get(f"own:{name}") is None


@ANY
def test_a_filter_that_raises(shop: Shop, kind: type[Exception]) -> None:
    fails(lambda: shop.keeper().search(search(kind), "unaskable"), kind)


def test_a_filter_that_mongodb_cannot_be_sent(shop: Shop) -> None:
    with pytest.raises(ViewFailed, match=r"view own: .*cannot be sent") as caught:
        shop.keeper().search(search(), "unsendable")
    assert SECRET not in str(caught.value)
    assert no_lease(shop, "unsendable")


@pytest.mark.parametrize("text", REFUSED)
def test_a_filter_that_mongodb_refuses(shop: Shop, text: str) -> None:
    """It is the view's mistake, and no outage."""
    put_user(shop, "Ann")
    with pytest.raises(
        ViewFailed, match=r"^view own: MongoDB refuses its query \(\w+, code \d+\): correct the query$"
    ) as caught:
        shop.keeper().search(search(), text)
    assert isinstance(caught.value.__cause__, OperationFailure)
    assert no_lease(shop, text)
    assert shop.redis.get(f"own:{text}") is None


@pytest.mark.parametrize("given", [None, [], "name", 1, True, {"name"}])
def test_a_filter_that_gives_no_mapping(shop: Shop, given: Any) -> None:
    """A forgotten `return` would find every document."""
    put_user(shop, "Ann")
    query = Query("users", lambda _: given, len)
    own: Any = TextView(name="own", key="own:{text}", ttl_seconds=60, codec=Json(int), loader=query)
    for text in ("ann", "a" * 70):  # the second is not cached
        with pytest.raises(ViewFailed, match="view own: its loader's filter must return a mapping, got "):
            shop.keeper().search(own, text)
    assert shop.redis.get("own:ann") is None


@pytest.mark.parametrize("raised", [BsonInvalidId, InvalidBSON, InvalidDocument])
@pytest.mark.parametrize("name", ["unloadable", "unwritable", "unreadable"])
def test_bson_errors_of_its_own_are_no_damage(shop: Shop, raised: type[Exception], name: str) -> None:
    """`ObjectId("bad")` in a loader says nothing of the document."""
    put_user(shop, name)
    fails(lambda: shop.keeper().read(view(raised), 1), raised)
    fails(lambda: shop.keeper().search(search(raised), name), raised)
    assert no_lease(shop)


def test_nor_are_those_of_a_codec_that_is_to_write_what_an_event_brings(shop: Shop) -> None:
    with pytest.raises(ViewFailed, match="InvalidDocument"):
        view(InvalidDocument).encode("unwritable")
    assert shop.redis.get("own:1") is None


@pytest.mark.parametrize("field", ["name", "more"])
def test_what_no_driver_can_read_is_a_damaged_document(shop: Shop, field: str) -> None:
    """A loader meets it as an error of `bson`, too, at whatever depth it looks."""
    deep = {"data": {"name": "Ann", "more": [{"name": "NAME"}]}}
    raw = bson.encode({"_id": 1, **deep}).replace(b"NAME", b"\xff\xfe\xfd\xfc" if field == "more" else b"Name")
    raw = raw.replace(b"Ann\0", b"\xff\xfe\xfd\0") if field == "name" else raw
    shop.db.users.insert_one(RawBSONDocument(raw))

    def value(document: Any) -> object:
        data = document["data"]
        return data["name"] if field == "name" else data["more"][0]["name"]

    loader = Document("users", value, fields=("data",))
    own = View(name="own", key="own:{id}", ttl_seconds=60, codec=Text(), loader=loader)
    with pytest.raises(DamagedDocument, match="view own, collection users: "):
        shop.keeper().read(own, 1)
    query = Query("users", lambda _: {}, lambda documents: value(documents[0]))
    found = TextView(name="own", key="own:{text}", ttl_seconds=60, codec=Text(), loader=query)
    with pytest.raises(DamagedDocument, match="view own, collection users: "):
        shop.keeper().search(found, "a")


class OwnError(CachekeeperError):
    """Hung into our tree by a program."""


@pytest.mark.parametrize("name", ["unloadable", "unwritable", "unreadable"])
@pytest.mark.parametrize("raised", [OwnError, DamagedValue, RegistrationError, ViewFailed])
def test_our_own_errors_raised_by_a_view_are_not_the_callers(
    shop: Shop, raised: type[CachekeeperError], name: str
) -> None:
    put_user(shop, name)
    fails(lambda: shop.keeper().read(view(raised), 1), raised)
    fails(lambda: shop.keeper().search(search(raised), name), raised)
    fails(lambda: shop.keeper().search(search(raised), "unaskable"), raised)


def test_an_id_that_a_loader_finds_invalid_is_not_the_callers(shop: Shop) -> None:
    """It may have looked up another one."""

    def value(document: Any) -> object:
        raise InvalidId("user_id", f"must not be {document['name']}")

    put_user(shop, SECRET)
    loader = Document("users", value, fields=("name",))
    own = View(name="own", key="own:{id}", ttl_seconds=60, codec=Text(), loader=loader)
    fails(lambda: shop.keeper().read(own, 1), InvalidId)


async def waits(*_: object) -> str:
    """Written with `async` by mistake."""
    return "Ann"


class Asynchronous(Text):
    decode: Any = waits


@pytest.mark.filterwarnings("error")  # a coroutine that was never awaited
@pytest.mark.parametrize("part", ["value", "filter", "encode", "decode"])
def test_what_must_be_awaited_is_refused(shop: Shop, part: str) -> None:
    class Encodes(Text):
        encode: Any = waits

    put_user(shop, "Ann")
    keeper = shop.keeper()
    codec: Any = {"encode": Encodes, "decode": Asynchronous}.get(part, Text)()
    value: Any = waits if part == "value" else lambda _: "Ann"
    condition: Any = waits if part == "filter" else lambda _: {}
    how = {"name": "own", "ttl_seconds": 60, "codec": codec}
    one: Any = View(key="own:{id}", loader=Document("users", value, fields=("name",)), **how)
    found: Any = TextView(key="own:{text}", loader=Query("users", condition, value), **how)
    looks: list[Callable[[], object]] = [lambda: keeper.search(found, "a")]
    if part != "filter":
        looks.append(lambda: keeper.read(one, 1))
    for look in looks:
        for _ in range(2):
            with pytest.raises(ViewFailed, match=r"view own: its .* returned a coroutine.*without async"):
                look()
    assert shop.redis.keys("own:*") == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("staleness", Staleness)
def test_nor_does_a_hit_give_it(shop: Shop, staleness: Staleness) -> None:
    """Where another program wrote the value."""
    put_user(shop, "Ann")
    shop.redis.set("own:1", "Ann")
    shop.redis.set("own:a", "Ann")
    loader = Document("users", lambda document: document["name"], fields=("name",))
    how: Any = {"name": "own", "ttl_seconds": 60, "codec": Asynchronous()}
    one: Any = View(key="own:{id}", loader=loader, staleness=staleness, **how)
    with pytest.raises((ViewFailed, DamagedValue)):
        shop.keeper().read(one, 1)
    found: Any = TextView(key="own:{text}", loader=Query("users", lambda _: {}, lambda _: "Ann"), **how)
    with pytest.raises(ViewFailed):
        shop.keeper().search(found, "a")


def test_what_is_typed_already_stays_what_it_is(shop: Shop) -> None:
    class Away(DatabaseUnavailable):
        pass

    put_user(shop, "unloadable")
    with pytest.raises(Away):
        shop.keeper().read(view(Away), 1)
    put_user(shop, "unwritable")
    with pytest.raises(DamagedDocument):
        shop.keeper().read(view(DamagedDocument), 1)
    assert no_lease(shop)


def test_a_codec_that_cannot_read_what_it_wrote(shop: Shop) -> None:
    """Its own error, too, is no damage at the key."""
    put_user(shop, "unreadable")
    fails(lambda: shop.keeper().read(view(DamagedValue), 1), DamagedValue)
    assert shop.redis.get("own:1") is None


def test_a_codec_that_gives_no_bytes(shop: Shop) -> None:
    class Wrong(Text):
        def encode(self, value: object) -> bytes:
            text: Any = str(value)
            return text  # type: ignore[no-any-return]  # that is what is wrong

    put_user(shop, "Ann")
    loader = Document("users", lambda document: document["name"], fields=("name",))
    wrong = View(name="own", key="own:{id}", ttl_seconds=60, codec=Wrong(), loader=loader)
    with pytest.raises(ViewFailed, match="view own: its codec's encode must return bytes, got str"):
        shop.keeper().read(wrong, 1)
    assert no_lease(shop)


@pytest.mark.parametrize("name", ["unloadable", "unreadable"])
def test_without_redis_too(shop: Shop, name: str) -> None:
    put_user(shop, name)
    keeper = shop.keeper(redis_url="redis://127.0.0.1:1/0", security_url="redis://127.0.0.1:1/0")
    fails(lambda: keeper.read(view(), 1), KeyError)


# --- those who do it for many -----------------------------------------------------------------------------------------
