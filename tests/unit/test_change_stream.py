"""Which events a change in MongoDB makes: the policy of `producers`, and what a change tells of itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import Int64, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from cachekeeper.errors import InvalidEvent, RegistrationError
from cachekeeper.model.changes import UNKNOWN, Change, Watch
from cachekeeper.model.commands import InvalidateAll
from cachekeeper.model.events import CollectionChanged
from cachekeeper.model.registry import Registry, load_registry
from cachekeeper.model.sources import ABSENT
from cachekeeper.values.ids import IdType
from producers import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated
from producers.change_stream import WATCHES

if TYPE_CHECKING:
    from cachekeeper.model.events import Event

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ENDS = datetime(2030, 1, 1, tzinfo=UTC)
WATCH = {watch.collection: watch for watch in WATCHES}
Told = dict[str, Any]


def inserted(document: Told) -> Told:
    return {"operationType": "insert", "fullDocument": document}


def replaced(document: Told, before: Told | None = None) -> Told:
    return {"operationType": "replace", "fullDocument": document, "fullDocumentBeforeChange": before}


def updated(
    changed: Told, *removed: str, before: Told | None = None, after: Told | None = None, cut: tuple[str, ...] = ()
) -> Told:
    told = {
        "updatedFields": changed,
        "removedFields": list(removed),
        "truncatedArrays": [{"field": field, "newSize": 1} for field in cut],
    }
    return {
        "operationType": "update",
        "updateDescription": told,
        "fullDocument": after,
        "fullDocumentBeforeChange": before,
    }


def deleted(before: Told | None = None) -> Told:
    return {"operationType": "delete", "fullDocumentBeforeChange": before}


def events_of(collection: str, told: Told, document_id: object = 7, ids: IdType | None = None) -> list[Event]:
    watch = WATCH[collection]
    change = Change.of({"documentKey": {"_id": document_id}, "wallTime": WHEN, **told}, ids or watch.ids)
    return list(watch.events(change))


def said(collection: str, told: Told, document_id: object = 7) -> list[Event]:
    """The events, without what is new in each."""
    return [event.model_copy(update={"id": ""}) for event in events_of(collection, told, document_id)]


def plain(*events: Event) -> list[Event]:
    return [event.model_copy(update={"id": "", "time": WHEN}) for event in events]


def user(name: str, version: int | None = None) -> UserUpdated:
    return UserUpdated(user_id="7", name=name, version=version)


GONE = UserDeleted(user_id="7")


@pytest.mark.parametrize(
    ("told", "events"),
    [
        # An insert carries its version.
        (inserted({"_id": 7, "name": "Ann", "version": 1}), [user("Ann", 1)]),
        (inserted({"_id": 7, "name": "Ann", "version": Int64(1)}), [user("Ann", 1)]),
        (inserted({"_id": 7, "name": "Ann", "version": 1.0}), [user("Ann", 1)]),
        (inserted({"_id": 7, "name": "Ann", "version": True}), [user("Ann")]),
        (inserted({"_id": 7, "name": "Ann"}), [user("Ann")]),
        (inserted({"_id": 7}), [GONE]),
        # An update, if it brings the version, and what was before does not say otherwise.
        (updated({"name": "Bo", "version": 2}), [user("Bo", 2)]),
        (updated({"name": "Bo"}), [user("Bo")]),
        (updated({"name": "Bo"}, before={"version": 1}, after={"name": "Bo", "version": 2}), [user("Bo")]),
        (updated({"name": "Bo", "version": 2}, before={"name": "A", "version": 1}), [user("Bo", 2)]),
        (updated({"name": "Bo", "version": 2}, before={"name": "A"}), [user("Bo", 2)]),
        (updated({"name": "Bo", "version": 2}, before={"name": "A", "version": 2.0}), [user("Bo")]),
        (updated({"name": "Bo", "version": 2}, before={"name": "A", "version": 3}), [user("Bo")]),
        (updated({"name": "Bo"}, "version", before={"name": "A", "version": 3}), [user("Bo")]),
        # A replacement only if the version before it is known, and smaller.
        (replaced({"name": "Bo", "version": 2}), [user("Bo")]),
        (replaced({"name": "Bo", "version": 2}, {"name": "A", "version": 1}), [user("Bo", 2)]),
        (replaced({"name": "Bo", "version": 2}, {"name": "A", "version": 2}), [user("Bo")]),
        (replaced({"name": "Bo", "version": 2}, {"name": "A"}), [user("Bo", 2)]),
        # What leaves the name alone is none of the view's business.
        (updated({"mail": "x", "version": 2}), []),
        (updated({"names": "x"}, "nam"), []),
        # A name that is not known, or none.
        (updated({"version": 2}, "name"), [GONE]),
        (updated({"name": None, "version": 2}), [GONE]),
        (updated({"name": 5}), [GONE]),
        (updated({"name.first": "x", "version": 2}), [GONE]),
        (updated({}, "name.first"), [GONE]),
        (updated({}, cut=("name",)), [GONE]),
        (updated({"name": "B\ufffd", "version": 2}), [GONE]),
        (updated({"name": "B\0", "version": 2}), [GONE]),
        (updated({"name": "B" * 70_000, "version": 2}), [GONE]),
        (deleted(), [GONE]),
        (deleted({"name": "A", "version": 1}), [GONE]),
    ],
)
def test_users(told: Told, events: list[Event]) -> None:
    assert said("users", told) == plain(*events)


def product(name: str, version: int | None = None, **previous: Any) -> ProductChanged:
    return ProductChanged(product_id="7", name=name, version=version, **previous)


ALL = CollectionChanged(collection="products")


@pytest.mark.parametrize(
    ("told", "events"),
    [
        (inserted({"name": "Lamp", "version": 1}), [product("Lamp", 1, previous_name=None)]),
        (inserted({"price": 5}), []),
        # A rename, with and without an image of what was before.
        (updated({"name": "Desk"}, before={"name": "Lamp"}), [product("Desk", previous_name="Lamp")]),
        (updated({"name": "Desk"}, before={"price": 1}), [product("Desk", previous_name=None)]),
        (updated({"name": "Desk"}), [product("Desk")]),
        (updated({"name": "Desk"}, after={"name": "Desk"}), [product("Desk")]),
        (replaced({"name": "Desk"}, {"name": "Lamp"}), [product("Desk", previous_name="Lamp")]),
        (replaced({"name": "Desk"}), [product("Desk")]),
        (replaced({"name": "Desk"}, {"name": "L\ufffd"}), [product("Desk")]),
        # No rename, although all that searches hold of it has changed.
        (updated({"price": 1}, before={"name": "Lamp"}), [product("Lamp", previous_name="Lamp")]),
        (updated({"price": 1}, after={"name": "Lamp"}), [product("Lamp", previous_name="Lamp")]),
        (updated({"price": 1}, before={"price": 2}), []),
        (
            updated({"version": 2}, before={"name": "Lamp", "version": 1}),
            [product("Lamp", 2, previous_name="Lamp")],
        ),
        # Nobody knows which product this is: the safe rule.
        (updated({"price": 1}), [ALL]),
        (updated({"name": ["Lamp"]}, before={"name": "Lamp"}), [ALL]),
        (updated({"name.0": "Desk"}, before={"name": ["Lamp"]}), [ALL]),
        # Gone, for all that searches find.
        (deleted({"name": "Lamp"}), [ProductChanged(product_id="7", deleted=True, name="Lamp")]),
        (deleted({"price": 1}), []),
        (deleted(), [ProductChanged(product_id="7", deleted=True)]),
        (updated({}, "name", before={"name": "Lamp"}), [ProductChanged(product_id="7", deleted=True, name="Lamp")]),
        (updated({}, "name"), [ProductChanged(product_id="7", deleted=True)]),
    ],
)
def test_products(told: Told, events: list[Event]) -> None:
    found = said("products", told)
    assert found == plain(*events)
    # Omitted and null differ: the one drops every search, the other says that it is new.
    assert ["previous_name" in each.model_fields_set for each in found] == [
        "previous_name" in each.model_fields_set for each in events
    ]


def test_a_name_that_no_event_carries_is_left_to_the_safe_rule() -> None:
    with pytest.raises(InvalidEvent, match="name: must be at most"):
        events_of("products", inserted({"name": "x" * 70_000}))


@pytest.mark.parametrize(
    ("told", "ended"),
    [
        (updated({"ended_at": WHEN}, "data"), True),
        (updated({"data": {"cart": [1]}, "version": 5}), False),
        (updated({"ended_at": None}), False),
        (updated({}, "ended_at"), False),
        (inserted({"ended_at": WHEN}), True),
        (inserted({}), False),
        (replaced({"ended_at": WHEN}), True),
        (replaced({}), False),
        (deleted({"ended_at": WHEN}), False),
        (deleted(), False),
    ],
)
def test_sessions(told: Told, ended: bool) -> None:  # noqa: FBT001
    assert said("sessions", told) == (plain(UserLoggedOut(session_id="7")) if ended else [])


@pytest.mark.parametrize(
    ("told", "until"),
    [
        (inserted({"expires_at": ENDS}), ENDS),
        (inserted({"expires_at": ENDS + timedelta(milliseconds=999)}), ENDS + timedelta(milliseconds=999)),
        (inserted({"expires_at": 1_924_992_000.5}), None),  # a number is no date: the block stands
        (inserted({"expires_at": None}), None),
        (inserted({}), None),
        (inserted({"expires_at": "soon"}), None),
        (updated({"expires_at": ENDS}), ENDS),
        (updated({}, "expires_at"), None),
        (replaced({"expires_at": ENDS}), ENDS),
        (updated({"why": "x"}), "nothing"),
        (deleted(), "nothing"),
    ],
)
def test_tokens(told: Told, until: datetime | str | None) -> None:
    wanted = [] if isinstance(until, str) else [UserLoggedOut(token_id="t1", token_expires_at=until)]
    assert said("blocked_tokens", told, "t1") == plain(*wanted)


@pytest.mark.parametrize("collection", ["users", "sessions", "blocked_tokens"])
def test_a_document_that_no_key_reaches_makes_no_event(collection: str) -> None:
    assert events_of(collection, inserted({"name": "A", "ended_at": WHEN}), "two words") == []


def test_ids_are_those_of_the_keys() -> None:
    object_id = ObjectId()
    told = inserted({"name": "A"})

    def found(document_id: object, ids: IdType) -> list[str]:
        return [event.user_id for event in events_of("users", told, document_id, ids) if isinstance(event, UserUpdated)]

    assert found(object_id, IdType.AUTO) == [str(object_id)]
    assert found(42.0, IdType.AUTO) == ["42"]
    assert found("42", IdType.AUTO) == []  # `user:42:name` is the integer's
    assert found("42", IdType.STR) == ["42"]
    assert found(42, IdType.STR) == []
    # A token's id is text, whatever it looks like.
    assert [event.model_dump()["token_id"] for event in events_of("blocked_tokens", inserted({}), "42")] == ["42"]


def test_a_change_without_a_time_is_one_of_now() -> None:
    told = {"operationType": "insert", "documentKey": {"_id": 1}, "fullDocument": {}}
    assert Change.of(told, IdType.AUTO).time.tzinfo is UTC


def test_every_product_has_a_label() -> None:
    for document_id, label in ((ObjectId("0" * 24), "0" * 24), ({"a": 1}, "unnameable"), (None, "None")):
        (event,) = events_of("products", inserted({"name": "Lamp"}), document_id)
        assert event.model_dump()["product_id"] == label


NAMES = st.one_of(st.none(), st.text(max_size=3), st.integers(), st.lists(st.text(max_size=1), max_size=1))
DOCUMENTS = st.fixed_dictionaries({}, optional={"name": NAMES, "version": st.integers(0, 3)})


def update_of(before: Told, after: Told) -> Told:
    """What the server tells of an update."""
    changed = {name: value for name, value in after.items() if name not in before or before[name] != value}
    return updated(changed, *(before.keys() - after.keys()))


@given(DOCUMENTS, DOCUMENTS, st.booleans(), st.booleans())
def test_what_a_change_says_is_true_or_unknown(before: Told, after: Told, images: bool, replace: bool) -> None:  # noqa: FBT001
    told = replaced(after) if replace else update_of(before, after)
    if images:
        told |= {"fullDocument": after, "fullDocumentBeforeChange": before}
    change = Change.of({"documentKey": {"_id": 1}, **told}, IdType.AUTO)
    assert change.before("name") in ((before.get("name", ABSENT),) if images else (before.get("name", ABSENT), UNKNOWN))
    assert change.after("name") in (after.get("name", ABSENT), UNKNOWN)
    if change.raised("version") is not None:
        assert change.raised("version") == after["version"]
        if images:
            assert "version" not in before or after["version"] > before["version"]
        else:
            assert after["version"] != before.get("version")


def test_a_collection_is_watched_once() -> None:
    registry = load_registry(["producers"])
    with pytest.raises(RegistrationError, match="watch users: that collection is watched already"):
        registry.add_watch(Watch(collection="users", fields=(), events=lambda _: ()))


def test_a_changed_collection_is_every_view_of_it_whatever_package_it_is_from() -> None:
    registry = load_registry(["producers", "lookups", "worker"])

    def dropped(collection: str) -> list[str]:
        commands = registry.commands(CollectionChanged(collection=collection))
        return [command.view.name for command in commands if isinstance(command, InvalidateAll)]

    assert dropped("users") == ["user_name"]
    assert dropped("products") == ["search"]
    assert dropped("sessions") == ["session"]
    assert dropped("blocked_tokens") == ["blocked"]
    assert dropped("orders") == []
    assert Registry().commands(CollectionChanged(collection="users")) == []
