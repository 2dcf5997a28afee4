"""Events: strict at the door, tolerant of newer producers behind it, and silent about tokens."""

import json
import pickle
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from cachekeeper.errors import InvalidEvent, UnknownEvent
from cachekeeper.model import registry as registries
from cachekeeper.model.events import Event
from producers import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated
from worker.handlers import on_user_logged_out, on_user_updated

REGISTRY = registries.load_registry(["producers"])
TOKEN = "correct-horse-battery-staple"
GOOD: dict[str, dict[str, Any]] = {
    "user.updated": {"user_id": "42", "name": "Ada", "version": 7},
    "user.deleted": {"user_id": "42"},
    "user.logged_out": {"session_id": "s1", "token_id": "t1", "token_expires_at": "2031-01-01T00:00:00Z"},
    "product.changed": {"product_id": "p1", "name": "Lamp", "previous_name": None},
}
CLASSES: dict[str, type[Event]] = {
    "user.updated": UserUpdated,
    "user.deleted": UserDeleted,
    "user.logged_out": UserLoggedOut,
    "product.changed": ProductChanged,
}
LONE = "\ud800"


def make(kind: str, **fields: object) -> Event:
    """At the producer's door."""
    return CLASSES[kind](**{**GOOD[kind], **fields})


def decode(kind: str, **fields: object) -> Event:
    """At the worker's door, as it comes over the wire."""
    return REGISTRY.decode(json.loads(json.dumps({"type": kind, **GOOD[kind], **fields})))


DOORS: list[Callable[..., Event]] = [make, decode]
both_doors = pytest.mark.parametrize("door", DOORS, ids=["producer", "worker"])


def refused(door: Callable[..., Event], kind: str, field: str, **fields: object) -> str:
    """What is said of the wrong field; no exception of the chain holds a value."""
    with pytest.raises(InvalidEvent) as caught:
        door(kind, **fields)
    assert caught.value.field == field
    assert field in str(caught.value)
    return str(caught.value)


@both_doors
@pytest.mark.parametrize("kind", GOOD)
def test_good_events_are_good(door: Callable[..., Event], kind: str) -> None:
    event = door(kind)
    assert type(event) is CLASSES[kind]
    assert event.type == kind


@pytest.mark.parametrize("kind", GOOD)
def test_the_wire_gives_back_the_same_event(kind: str) -> None:
    event = make(kind)
    wire = json.loads(json.dumps(event.to_wire()))
    again = REGISTRY.decode(wire)
    assert again == event
    assert again.model_fields_set >= event.model_fields_set - {"id", "time"}


def test_an_event_names_itself_once_and_for_all() -> None:
    first, second = make("user.deleted"), make("user.deleted")
    assert first.id != second.id
    assert REGISTRY.decode(first.to_wire()).id == first.id


def test_a_null_that_was_given_survives_and_one_that_was_not_does_not_appear() -> None:
    # null: the product is new. Omitted: nobody knows what it was called.
    assert ProductChanged(product_id="1", name="Lamp", previous_name=None).to_wire()["previous_name"] is None
    assert "previous_name" not in ProductChanged(product_id="1", name="Lamp").to_wire()
    again = REGISTRY.decode(ProductChanged(product_id="1", name="Lamp").to_wire())
    assert "previous_name" not in again.model_fields_set


@both_doors
@pytest.mark.parametrize(("kind", "missing"), [(kind, name) for kind in ("user.updated",) for name in GOOD[kind]])
def test_missing_fields(door: Callable[..., Event], kind: str, missing: str) -> None:
    fields = {name: value for name, value in GOOD[kind].items() if name != missing}
    if missing == "version":
        assert CLASSES[kind](**fields).version is None
        return
    with pytest.raises(InvalidEvent, match=f"{missing}: is missing"):
        CLASSES[kind](**fields) if door is make else REGISTRY.decode({"type": kind, **fields})


@pytest.mark.parametrize("kind", GOOD)
def test_a_producer_misspells_no_field(kind: str) -> None:
    assert "is not a field" in refused(make, kind, "usr_id", usr_id="42")


@pytest.mark.parametrize("kind", GOOD)
def test_a_worker_drops_what_a_newer_producer_added(kind: str) -> None:
    event = decode(kind, id="e1", time=0, added_in_2031={"a": [1]})
    assert event == decode(kind, id="e1", time=0)
    assert not hasattr(event, "added_in_2031")


@pytest.mark.parametrize("body", [None, 5, "text", [], ["user.updated"], True])
def test_what_is_no_object_is_no_event(body: object) -> None:
    with pytest.raises(InvalidEvent, match="event: must be an object"):
        REGISTRY.decode(body)


@pytest.mark.parametrize("kind", ["user.renamed", "", "USER.UPDATED", 5, [], {}, True])
def test_unknown_types(kind: object) -> None:
    with pytest.raises(UnknownEvent) as caught:
        REGISTRY.decode({"type": kind, "user_id": "42"})
    assert caught.value.field == "type"
    assert "user.updated" in str(caught.value)  # and which there are


def test_a_missing_type() -> None:
    with pytest.raises(InvalidEvent, match="type: is missing"):
        REGISTRY.decode({"user_id": "42"})


@both_doors
@pytest.mark.parametrize("version", [True, False, 5.5, "5", "", -1, -1.0, 2**53, 2.0**53, 10**30, [5], {}])
def test_wrong_versions(door: Callable[..., Event], version: object) -> None:
    refused(door, "user.updated", "version", version=version)


@pytest.mark.parametrize("version", [float("nan"), float("inf"), datetime.now(UTC)])
def test_wrong_versions_that_json_cannot_say(version: object) -> None:
    refused(make, "user.updated", "version", version=version)


@both_doors
@pytest.mark.parametrize(("version", "meant"), [(5.0, 5), (0, 0), (2**53 - 1, 2**53 - 1), (None, None)])
def test_good_versions(door: Callable[..., Event], version: object, meant: int | None) -> None:
    found = door("user.updated", version=version).version
    assert found == meant
    assert type(found) is type(meant)  # 5.0 becomes 5: it will stand in Redis as text


def test_a_deletion_has_no_version() -> None:
    refused(make, "user.deleted", "version", version=5)


IDS = [
    "",
    "x" * 513,
    "é" * 257,
    "a{b",
    "a}b",
    "a b",
    "a\tb",
    "a\nb",
    "a\r",
    "\u00a0",
    "\u2028",
    "a\0b",
    "a\x7f",
    "a\x85b",
    f"a{LONE}",
    5.5,
    True,
    [],
    {},
]


@both_doors
@pytest.mark.parametrize("value", IDS, ids=repr)
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("user.updated", "user_id"),
        ("user.deleted", "user_id"),
        ("user.logged_out", "session_id"),
        ("user.logged_out", "token_id"),
        ("user.logged_out", "user_id"),
        ("product.changed", "product_id"),
        ("user.deleted", "id"),
    ],
)
def test_wrong_ids(door: Callable[..., Event], kind: str, field: str, value: object) -> None:
    refused(door, kind, field, **{field: value})


@both_doors
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("tenant:42", "tenant:42"),
        ("urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8", "urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        (42, "42"),
        (-7, "-7"),
        (2**70, str(2**70)),
        ("x" * 512, "x" * 512),
        ("é" * 256, "é" * 256),
        ("a%b/ä?*[1]", "a%b/ä?*[1]"),
    ],
)
def test_good_ids(door: Callable[..., Event], value: object, text: str) -> None:
    assert door("user.deleted", user_id=value).user_id == text  # type: ignore[attr-defined]  # it has one


@both_doors
@pytest.mark.parametrize("name", [5, None, True, ["Ada"], "a\0b", LONE, "x" * 65537, "é" * 32769])
@pytest.mark.parametrize("kind", ["user.updated", "product.changed"])
def test_wrong_names(door: Callable[..., Event], kind: str, name: object) -> None:
    refused(door, kind, "event" if kind == "product.changed" and name is None else "name", name=name)


@both_doors
@pytest.mark.parametrize("name", ["", " ", "{x}", "a\nb", "\U0001d518", "x" * 65536, "C++ .* (a+)+$"])
def test_good_names(door: Callable[..., Event], name: str) -> None:
    assert door("user.updated", name=name).name == name  # type: ignore[attr-defined]  # it has one


@both_doors
@pytest.mark.parametrize(
    "moment",
    [
        1_900_000_000_000,  # milliseconds
        1_900_000_000_000.0,
        1_900_000_000_000.5,
        1e308,
        10**15,
        True,
        "1900000000",
        "2031-01-01T00:00:00",  # no zone
        "2031-01-01",
        "tomorrow",
        "",
        [],
    ],
)
@pytest.mark.parametrize(
    ("kind", "field"), [("user.logged_out", "token_expires_at"), ("user.updated", "time")], ids=["expiry", "time"]
)
def test_wrong_times(door: Callable[..., Event], kind: str, field: str, moment: object) -> None:
    said = refused(door, kind, field, **{field: moment})
    if isinstance(moment, int) and moment > 10**11:
        assert "milliseconds" in said


@both_doors
@pytest.mark.parametrize(
    ("moment", "meant"),
    [
        (1_924_992_000, datetime(2031, 1, 1, tzinfo=UTC)),
        (1_924_992_000.0, datetime(2031, 1, 1, tzinfo=UTC)),
        (1_924_991_999.000_001, datetime(2031, 1, 1, tzinfo=UTC)),
        (1_924_991_999.5, datetime(2031, 1, 1, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        ("2031-01-01T00:00:00Z", datetime(2031, 1, 1, tzinfo=UTC)),
        ("2031-01-01T02:00:00+02:00", datetime(2031, 1, 1, tzinfo=UTC)),
        ("2031-01-01T00:00:00.5Z", datetime(2031, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
    ],
)
def test_good_times(door: Callable[..., Event], moment: object, meant: datetime) -> None:
    assert door("user.logged_out", token_expires_at=moment).token_expires_at == meant  # type: ignore[attr-defined]


def test_a_time_with_a_zone_is_kept_in_utc() -> None:
    event = make("user.updated", time=datetime(2031, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))))
    assert event.time == datetime(2031, 1, 1, tzinfo=UTC)
    assert event.time.utcoffset() == timedelta(0)


def test_a_logout_names_a_session_or_a_token() -> None:
    assert UserLoggedOut(session_id="1").token_id is None
    assert UserLoggedOut(token_id="1").token_expires_at is None
    with pytest.raises(InvalidEvent, match="session_id, a token_id or both"):
        UserLoggedOut(user_id="1")
    with pytest.raises(InvalidEvent, match="token_expires_at is given without token_id"):
        UserLoggedOut(session_id="1", token_expires_at=1_924_992_000)  # type: ignore[arg-type]  # read as a time


def test_a_product_needs_a_name_unless_it_is_gone() -> None:
    assert ProductChanged(product_id="1", deleted=True).name is None
    with pytest.raises(InvalidEvent, match="name is missing"):
        ProductChanged(product_id="1")
    with pytest.raises(InvalidEvent, match="name is missing"):
        ProductChanged(product_id="1", deleted=False, previous_name="Lamp")


@both_doors
@pytest.mark.parametrize("deleted", [1, 0, "true", "", None, []])
def test_deleted_is_yes_or_no(door: Callable[..., Event], deleted: object) -> None:
    refused(door, "product.changed", "deleted", deleted=deleted)


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(InvalidEvent) as caught:
        UserUpdated(user_id="", name=5, version=True)  # type: ignore[arg-type]  # wrong on purpose
    assert {"user_id", "name", "version"} <= set(str(caught.value).replace(":", "").split())


@both_doors
@pytest.mark.parametrize("field", ["session_id", "token_id"])
def test_no_error_shows_a_token(door: Callable[..., Event], field: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        door("user.logged_out", **{field: TOKEN + " "})
    shown = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in shown
    with pytest.raises(InvalidEvent) as caught:
        door("user.logged_out", **{field: TOKEN, "token_expires_at": TOKEN})
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


def test_events_are_frozen_and_their_errors_travel() -> None:
    event = make("user.updated")
    with pytest.raises(Exception, match="frozen"):
        event.name = "Eve"
    with pytest.raises(InvalidEvent) as caught:
        make("user.updated", version=True)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301  # its own


# --- what is shown --------------------------------------------------------------------------------------------------


def test_a_repr_masks_what_lets_somebody_in() -> None:
    event = UserLoggedOut(session_id="s-secret", token_id="t-secret", user_id="7")
    for shown in (repr(event), str(event), f"{event!r}", repr([event])):
        assert "secret" not in shown
        assert "user_id='7'" in shown


def test_commands_show_no_ids_and_no_values() -> None:
    commands = list(on_user_logged_out(UserLoggedOut(session_id="s-secret", token_id="t-secret")))
    assert len(commands) == 3
    assert "secret" not in repr(commands)
    assert "secret" not in repr(list(on_user_updated(UserUpdated(user_id="1", name="secret", version=1))))


def test_an_event_does_not_change_and_says_so_without_the_value() -> None:
    event = UserLoggedOut(token_id="t")
    with pytest.raises(AttributeError, match="token_id") as caught:
        event.token_id = "secret"  # type: ignore[misc]  # what must not work
    assert "secret" not in str(caught.value)


def test_an_event_without_a_class_of_its_own_is_refused() -> None:
    with pytest.raises(InvalidEvent, match="subclass Event"):
        Event(type="user.renamed")


def test_a_field_named_self_is_an_extra_field() -> None:
    fields: Any = {"self": 1, "user_id": "1", "name": "Ada"}
    with pytest.raises(InvalidEvent, match="self: is not a field"):
        UserUpdated(**fields)
