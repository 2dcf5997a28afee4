"""The change stream on real servers: what is written to MongoDB alone reaches the keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument

from cachekeeper.relays.change_stream_relay import ChangeRelay
from lookups import read_session, read_user, save_session, search_products
from testkit.counting import counted
from tests.integration.relays.stream_lab import StreamLab, in_an_hour

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cachekeeper.model.events import Event


def keep_images(lab: StreamLab, collection: str = "products") -> None:
    lab.db.create_collection(collection, changeStreamPreAndPostImages={"enabled": True})


def test_a_user_changed_in_mongodb_alone(stream_lab: StreamLab) -> None:
    users = stream_lab.db["users"]
    users.insert_one({"_id": 1, "name": "Ann", "version": 1})
    stream = stream_lab.begun()
    steps: list[tuple[Callable[[], object], list[tuple[str, int | None]]]] = [
        (lambda: users.update_one({"_id": 1}, {"$set": {"name": "Bea"}, "$inc": {"version": 1}}), [("updated", 2)]),
        # As a pipeline. The server tells it as a replacement, which is shorter; so of the version before it nothing.
        (lambda: users.update_one({"_id": 1}, [{"$set": {"name": "Cat", "version": 3}}]), [("updated", None)]),
        # The version is there, but an old one.
        (lambda: users.update_one({"_id": 1}, {"$set": {"name": "Dot", "version": 3}}), [("updated", None)]),
        # Nobody knows which version was there before.
        (lambda: users.replace_one({"_id": 1}, {"name": "Eve", "version": 9}), [("updated", None)]),
        (lambda: users.update_one({"_id": 1}, {"$set": {"mail": "x"}, "$inc": {"version": 1}}), []),
        (lambda: users.update_one({"_id": 1}, {"$unset": {"name": 1}, "$inc": {"version": 1}}), [("deleted", None)]),
        (lambda: users.update_one({"_id": 1}, {"$set": {"name": "Gil"}, "$inc": {"version": 1}}), [("updated", 12)]),
        (lambda: users.delete_one({"_id": 1}), [("deleted", None)]),
        (lambda: users.insert_one({"_id": 1, "name": "Hal", "version": 13}), [("updated", 13)]),
    ]
    for change, told in steps:
        read_user(1, keeper=stream_lab.keeper)  # fills the key
        change()
        stream_lab.drain(stream)
        assert [(event["type"].removeprefix("user."), event.get("version")) for event in stream_lab.told()] == told
        stream_lab.apply()
        assert read_user(1, keeper=stream_lab.keeper) == (users.find_one({"_id": 1}) or {}).get("name")


def cached_searches(lab: StreamLab) -> set[str]:
    return {key.decode().removeprefix("search:") for key in lab.shop.redis.scan_iter("search:*")}


SEARCHES = ("lamp", "desk", "cup")


def searched(lab: StreamLab) -> None:
    for text in SEARCHES:
        search_products(text, keeper=lab.keeper)


@pytest.mark.parametrize("images", [True, False])
def test_a_product_changed_in_mongodb_alone(stream_lab: StreamLab, images: bool) -> None:  # noqa: FBT001
    """With images exactly the searches concerned go, without them every search, where the old name is not known."""
    if images:
        keep_images(stream_lab)
    products = stream_lab.db["products"]
    products.insert_many([{"_id": 1, "name": "Lamp"}, {"_id": 2, "name": "Cup"}])
    stream = stream_lab.begun()
    steps: list[tuple[Callable[[], object], set[str], bool]] = [
        (lambda: products.insert_one({"_id": 3, "name": "Lamp 2"}), {"desk", "cup"}, True),
        (lambda: products.update_one({"_id": 1}, {"$set": {"name": "Desk"}}), {"cup"}, False),
        (lambda: products.update_one({"_id": 1}, {"$set": {"price": 5}}), {"lamp", "cup"}, False),
        (lambda: products.update_one({"_id": 1}, {"$inc": {"version": 1}}), {"lamp", "cup"}, False),
        (lambda: products.replace_one({"_id": 1}, {"name": "Desk", "price": 6}), {"lamp", "cup"}, False),
        (lambda: products.delete_one({"_id": 1}), {"lamp", "cup"}, False),
    ]
    for change, left, without_images in steps:
        searched(stream_lab)
        assert cached_searches(stream_lab) == set(SEARCHES)
        change()
        stream_lab.drain(stream)
        stream_lab.apply()
        assert cached_searches(stream_lab) == (left if images or without_images else set())
        for text in SEARCHES:
            found = [product["_id"] for product in search_products(text, keeper=stream_lab.keeper)]
            wanted = products.find({"name": {"$regex": text, "$options": "i"}}, {"_id": 1}).sort("_id")
            assert found == [product["_id"] for product in wanted]


def test_a_session_that_another_service_ends_in_mongodb(stream_lab: StreamLab) -> None:
    stream = stream_lab.begun()
    save_session("s1", {"cart": [1]}, keeper=stream_lab.keeper)
    stream_lab.drain(stream)
    assert stream_lab.told() == []  # a save is no event: whoever saves writes the key
    stream_lab.db["sessions"].update_one({"_id": "s1"}, {"$set": {"ended_at": datetime.now(UTC)}})
    stream_lab.drain(stream)
    assert stream_lab.told() == [{"type": "user.logged_out", "session_id": "s1"}]
    stream_lab.apply()
    assert stream_lab.shop.redis.get("session:s1") is None
    assert read_session("s1", keeper=stream_lab.keeper) is None
    stream_lab.drain(stream)
    assert stream_lab.told() == []  # what the worker writes for it is no further event
    stream_lab.db["sessions"].delete_one({"_id": "s1"})
    stream_lab.drain(stream)
    assert stream_lab.told() == []


def test_a_token_that_another_service_blocks_in_mongodb(stream_lab: StreamLab) -> None:
    stream = stream_lab.begun()
    tokens, soon, later = stream_lab.db["blocked_tokens"], in_an_hour(), in_an_hour() + timedelta(hours=1)
    tokens.insert_one({"_id": "t1", "expires_at": soon})
    stream_lab.drain(stream)
    assert stream_lab.apply() == 1
    first = stream_lab.shop.redis.pttl("blocked:t1")
    tokens.update_one({"_id": "t1"}, {"$set": {"expires_at": later}})
    stream_lab.drain(stream)
    assert stream_lab.apply() == 1
    assert stream_lab.shop.redis.pttl("blocked:t1") > first + 3_500_000
    tokens.update_one({"_id": "t1"}, {"$set": {"expires_at": None}})
    stream_lab.drain(stream)
    assert stream_lab.apply() == 1
    assert stream_lab.shop.redis.pttl("blocked:t1") == -1
    tokens.delete_one({"_id": "t1"})
    stream_lab.drain(stream)
    assert stream_lab.told() == []


def test_ids_are_those_of_the_settings(stream_lab: StreamLab) -> None:
    stream = stream_lab.begun(id_types={"user_name": "str"})
    stream_lab.db["users"].insert_many([{"_id": "42", "name": "Ann"}, {"_id": 42, "name": "Bea"}])
    stream_lab.drain(stream)
    assert [event["user_id"] for event in stream_lab.told()] == ["42"]
    assert stream_lab.told()[0]["name"] == "Ann"


def test_a_name_that_is_not_utf8_stops_nothing(stream_lab: StreamLab) -> None:
    """Other drivers store such text; one document must not be the end of the stream."""
    stream = stream_lab.begun()
    broken = bson.encode({"_id": 1, "name": "A??", "version": 1}).replace(b"??", b"\xff\xfe")
    stream_lab.db["users"].insert_one(RawBSONDocument(broken))
    stream_lab.db["users"].insert_one({"_id": 2, "name": "Bea", "version": 1})
    stream_lab.drain(stream)
    assert [event["type"] for event in stream_lab.told()] == ["user.deleted", "user.updated"]


def test_a_change_that_makes_no_event_drops_the_view(stream_lab: StreamLab) -> None:
    stream = stream_lab.begun()
    with counted() as seen:
        stream_lab.db["products"].insert_one({"name": "x" * 70_000})
        stream_lab.drain(stream)
    assert stream_lab.lost() == ["products"]
    assert seen["change_stream_collection_lost"] == 1


class TakesTheVersionOfTheDocument(ChangeRelay):
    """A known-bad relay: an event has the document's version, whether or not this change raised it."""

    def _events(self, found: Mapping[str, Any]) -> list[Event]:
        version = (found.get("fullDocument") or {}).get("version")
        return [event.model_copy(update={"version": version}) for event in super()._events(found)]


def changed_without_a_version(lab: StreamLab, kind: type[ChangeRelay]) -> str | None:
    """What readers see after a change that left the version as it was."""
    keep_images(lab, "users")
    lab.db["users"].insert_one({"_id": 1, "name": "Ann", "version": 1})
    stream = lab.begun(kind)
    read_user(1, keeper=lab.keeper)
    lab.db["users"].update_one({"_id": 1}, {"$set": {"name": "Bea"}})
    lab.drain(stream)
    lab.apply()
    return read_user(1, keeper=lab.keeper)


def test_an_event_has_a_version_only_if_this_change_raised_it(stream_lab: StreamLab) -> None:
    assert changed_without_a_version(stream_lab, ChangeRelay) == "Bea"


def test_a_version_that_an_earlier_change_brought_leaves_the_old_name(stream_lab: StreamLab) -> None:
    assert changed_without_a_version(stream_lab, TakesTheVersionOfTheDocument) == "Ann"


class LooksTheDocumentUp(ChangeRelay):
    """A known-bad relay: asks what the document is by now."""

    def _watch(self, token: Mapping[str, Any] | None) -> Any:
        database = self._database

        class Looking:
            def watch(self, pipeline: Any, **options: Any) -> Any:
                return database.watch(pipeline, **{**options, "full_document": "updateLookup"})

        self._database = Looking()  # type: ignore[assignment]  # all that is asked of it there
        try:
            return super()._watch(token)
        finally:
            self._database = database


def a_change_read_late(lab: StreamLab, kind: type[ChangeRelay]) -> list[dict[str, Any]]:
    stream = lab.begun(kind)
    lab.db["products"].insert_one({"_id": 1, "name": "Lamp"})
    lab.drain(stream)
    lab.apply()
    lab.db["products"].update_one({"_id": 1}, {"$set": {"price": 5}})  # of the lamp; the stream does not say so
    lab.db["products"].update_one({"_id": 1}, {"$set": {"name": "Desk"}})
    lab.drain(stream)
    return lab.told()


def test_no_later_look_says_what_a_document_was(stream_lab: StreamLab) -> None:
    first, _ = a_change_read_late(stream_lab, ChangeRelay)
    assert first == {"type": "collection.changed", "collection": "products"}


def test_a_later_look_says_that_it_was_something_else(stream_lab: StreamLab) -> None:
    first, _ = a_change_read_late(stream_lab, LooksTheDocumentUp)
    assert (first["name"], first["previous_name"]) == ("Desk", "Desk")
