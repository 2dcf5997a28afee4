"""`Keeper.save`, as a package of one's own has it: by public names alone."""

from __future__ import annotations

import time
import traceback
from dataclasses import replace
from typing import Any

import pytest

import cachekeeper
from cachekeeper import (
    ABSENT,
    CachekeeperError,
    DamagedDocument,
    Document,
    DocumentEnded,
    InvalidValue,
    Json,
    Keeper,
    PersistedNotCached,
    View,
    ViewFailed,
    WriteRefused,
)
from cachekeeper.reading import saving
from testkit.gates import Gate, threads
from testkit.limits import LONG, NO_REDIS, NOWHERE
from testkit.shop import Shop

CART = View[dict[str, object]](
    name="cart",
    key="cart:{id}",
    ttl_seconds=60,
    codec=Json(dict),
    loader=Document("carts", lambda cart: cart.get("items", ABSENT), fields=("items",)),
    version="version",
)
NOTE = View[dict[str, object]](
    name="note",
    key="note:{id}",
    ttl_seconds=60,
    codec=Json(dict),
    loader=Document("notes", lambda note: note.get("text", ABSENT), fields=("text",)),
)


def save(keeper: Keeper, items: dict[str, object], cart: int = 1) -> None:
    keeper.save(CART, cart, {"items": items}, final="sold_at", field="cart_id")


def test_a_saved_document_is_in_both(shop: Shop) -> None:
    keeper = shop.keeper()
    save(keeper, {"$lamp": 1})
    assert shop.redis.get("cart:1") == b'{"$lamp":1}'
    assert keeper.read(CART, 1) == {"$lamp": 1}
    document = shop.db["carts"].find_one({"_id": 1})
    assert document is not None
    assert document["items"] == {"$lamp": 1}


def test_its_version_rises_with_every_save_and_outlives_the_document(shop: Shop) -> None:
    keeper, versions = shop.keeper(), []
    for _ in range(3):
        save(keeper, {})
        versions.append(shop.db["carts"].find_one({"_id": 1}, {"version": 1}) or {})
    shop.db["carts"].delete_one({"_id": 1})
    save(keeper, {"later": True})
    versions.append(shop.db["carts"].find_one({"_id": 1}, {"version": 1}) or {})
    numbers = [version["version"] for version in versions]
    assert sorted(set(numbers)) == numbers
    assert keeper.read(CART, 1) == {"later": True}


def test_an_older_save_does_not_stay_at_the_key(shop: Shop) -> None:
    """Two that save at once: whichever MongoDB has last is at the key."""
    keepers = [shop.keeper() for _ in range(4)]
    with threads() as go:
        for call in [go(save, keeper, {"by": number}) for number, keeper in enumerate(keepers * 10)]:
            call.result(LONG)
    (document,) = shop.db["carts"].find()
    assert keepers[0].read(CART, 1) == document["items"]


def test_a_view_without_a_version_is_read_through(shop: Shop) -> None:
    keeper = shop.keeper()
    for text in ("old", "new"):
        keeper.save(NOTE, 1, {"text": {"said": text}})
        assert shop.redis.get("note:1") == b'{"said":"%s"}' % text.encode()
    assert "version" not in (shop.db["notes"].find_one() or {})


def test_a_document_that_has_ended_is_not_written(shop: Shop) -> None:
    keeper = shop.keeper()
    save(keeper, {"lamp": 1})
    shop.db["carts"].update_one({"_id": 1}, {"$currentDate": {"sold_at": True}})
    with pytest.raises(DocumentEnded, match="the cart has ended") as caught:
        save(keeper, {"lamp": 2})
    assert not caught.value.meanwhile
    assert (shop.db["carts"].find_one({"_id": 1}) or {})["items"] == {"lamp": 1}


def test_one_that_forgets_the_end_is_noticed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_NOT_SET", {"$not": {"$eq": "nothing"}})
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_document_that_has_ended_is_not_written(shop)


def test_a_collection_that_forbids_it_says_so(shop: Shop) -> None:
    shop.db.create_collection("carts", validator={"items": {"$type": "string"}})
    with pytest.raises(WriteRefused):
        save(shop.keeper(), {})
    assert shop.db["carts"].count_documents({}) == 0


def test_where_redis_fails_it_says_that_mongodb_has_it(shop: Shop) -> None:
    keeper = shop.keeper(redis_url=NOWHERE, **NO_REDIS)
    with pytest.raises(PersistedNotCached, match="the cart is saved in MongoDB, but not in Redis yet: save it again"):
        save(keeper, {"lamp": 1})
    assert shop.db["carts"].count_documents({"items.lamp": 1}) == 1


def small(shop: Shop) -> Keeper:
    return shop.keeper(value_limit_bytes=20)


@pytest.mark.parametrize("cached", [True, False])
def test_a_value_over_the_limit_is_saved_and_not_cached(shop: Shop, *, cached: bool) -> None:
    keeper = small(shop)
    if cached:
        save(keeper, {"lamp": 1})
    began = time.monotonic()
    save(keeper, {"lamp": "large" * 10})
    assert time.monotonic() - began < keeper.settings.lookup_timeout_seconds
    assert not shop.redis.exists("cart:1")
    assert keeper.read(CART, 1) == {"lamp": "large" * 10}


def test_what_the_view_takes_for_absent_leaves_nothing_old(shop: Shop) -> None:
    keeper = shop.keeper()
    keeper.save(NOTE, 1, {"text": {"said": "old"}})
    keeper.save(NOTE, 1, {}, computed={"text": "$$REMOVE"})
    assert not shop.redis.exists("note:1")
    assert keeper.read(NOTE, 1) is ABSENT


def test_what_the_view_cannot_read_leaves_nothing_old(shop: Shop) -> None:
    keeper = shop.keeper()
    save(keeper, {"lamp": 1})
    with pytest.raises(DamagedDocument):
        keeper.save(CART, 1, {"items": b"bytes are no JSON"})
    assert not shop.redis.exists("cart:1")


def test_it_caches_what_a_reader_would_load(shop: Shop) -> None:
    """Of the document no more than the view's fields."""
    whole = replace(CART, name="whole", key="whole:{id}", loader=Document("carts", dict, fields=("items",)))
    shop.db["carts"].insert_one({"_id": 1, "secret": "no"})
    keeper = shop.keeper()
    for items in ({"lamp": 1}, {"lamp": 2}):  # the second overwrites a key that is there, with what was saved
        keeper.save(whole, 1, {"items": items})
    written = shop.redis.get("whole:1")
    shop.redis.flushall()
    keeper.read(whole, 1)
    assert written == shop.redis.get("whole:1")
    assert isinstance(written, bytes)
    assert b"secret" not in written


def test_a_text_that_looks_like_a_field_is_a_text(shop: Shop) -> None:
    keeper = shop.keeper()
    shop.db["carts"].insert_one({"_id": 1, "password": "secret"})
    save(keeper, {"of": "$password"})
    assert keeper.read(CART, 1) == {"of": "$password"}


def test_what_mongodb_cannot_compute_is_no_outage(shop: Shop) -> None:
    with pytest.raises(ViewFailed, match="view cart: the document was not saved"):
        shop.keeper().save(CART, 1, {}, computed={"items": {"$nothingOfThatName": 1}})
    assert shop.db["carts"].count_documents({}) == 0


@pytest.mark.parametrize(
    "fields", [{"_id": 2}, {"version": 7}, {"$items": {}}, {"": {}}, {"items": {1, 2}}, {"items": 1 << 70}, {1: {}}]
)
def test_what_is_no_field_or_no_value_is_refused_before_anything_is_written(shop: Shop, fields: Any) -> None:
    with pytest.raises(InvalidValue):
        shop.keeper().save(CART, 1, fields)
    assert shop.db["carts"].count_documents({}) == 0


@pytest.mark.parametrize("fields", ["hello", None, [("items", {})]])
def test_the_fields_are_a_mapping(shop: Shop, fields: Any) -> None:
    with pytest.raises(TypeError, match="fields must be a mapping from field names to values, got "):
        shop.keeper().save(CART, 1, fields)


def test_one_that_somebody_deletes_meanwhile_has_not_ended(shop: Shop) -> None:
    keeper, reads = shop.keeper(), Gate()
    shop.reads.before.append(reads)
    with threads() as go:
        saving = go(keeper.save, NOTE, 1, {"text": {"said": "this"}})
        reads.wait_for_arrival()
        shop.db["notes"].delete_one({"_id": 1})
        reads.open()
        saving.result(LONG)
    assert keeper.read(NOTE, 1) is ABSENT


def test_no_value_is_in_an_error(shop: Shop) -> None:
    secret = "correcthorsebatterystaple"
    said = []
    for fields, computed in (({"items": {secret}}, {}), ({}, {"items": {"$toInt": secret}})):
        with pytest.raises(CachekeeperError) as caught:
            shop.keeper().save(CART, 1, fields, computed=computed)
        said.append("".join(traceback.format_exception(caught.value)))
    assert [secret in text for text in said] == [False, False]


def test_an_id_that_can_be_none_is_refused_by_the_name_that_its_caller_gives_it(shop: Shop) -> None:
    with pytest.raises(cachekeeper.InvalidId, match="cart_id"):
        shop.keeper().save(CART, "", {"items": {}}, field="cart_id")
    assert shop.db["carts"].count_documents({}) == 0
