"""The HTTP door before it publishes: reading CloudEvents as the standard words them, and what refusals say."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import jsonschema
import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from cachekeeper.http_api.decoding import read_events
from cachekeeper.http_api.messages import BATCHED, BINARY, MOST_FAULTS, STRUCTURED, media_type, read_message
from cachekeeper.http_api.openapi import document
from cachekeeper.http_api.problems import LONGEST_FIELD, Fault, Problem, Refused, problem_response
from cachekeeper.model.events import Event
from cachekeeper.model.registry import load_registry
from cachekeeper.settings import DoorSettings
from producers import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated

REGISTRY = load_registry(("producers",))
SETTINGS = DoorSettings(broker_url="redis://127.0.0.1:1", http_api_keys=("key-0123456789ab",))
MOST = 5
TIME = "2026-01-31T12:00:00.123456Z"
MOMENT = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "7f3",
    "source": "/shop",
    "type": "user.updated",
    "time": TIME,
    "data": {"user_id": 42, "name": "Ada", "version": 7},
}
WANTED = UserUpdated(id="7f3", time=MOMENT, user_id="42", name="Ada", version=7)
SECRET = "s3cr3t"


def raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("utf-8")) for name, value in headers.items()]


def read(headers: dict[str, str], body: bytes) -> list[Event]:
    """As the application reads a request."""
    kind = media_type(raw(headers))
    return read_events(REGISTRY, read_message(kind, raw(headers), body, MOST), batched=kind == BATCHED)


def structured(event: object, kind: str = STRUCTURED) -> list[Event]:
    return read({"content-type": kind}, json.dumps(event).encode())


def batched(*events: object) -> list[Event]:
    return structured(list(events), BATCHED)


def binary(event: dict[str, Any], **headers: str) -> list[Event]:
    attributes = {f"ce-{name}": str(value) for name, value in event.items() if name != "data"}
    return read({"content-type": BINARY, **attributes, **headers}, json.dumps(event["data"]).encode())


def faults(call: Callable[[], object]) -> list[tuple[int | None, str]]:
    with pytest.raises(Refused) as caught:
        call()
    return [(fault.index, fault.field) for fault in caught.value.faults]


# --- what is taken ---------------------------------------------------------------------------------------------------

_IDS = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="{}"), min_size=1, max_size=40)
_NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
_TIMES = st.datetimes(timezones=st.just(UTC))
_VERSIONS = st.none() | st.integers(0, 2**53 - 1)
EVENTS = st.one_of(
    st.builds(UserUpdated, id=_IDS, time=_TIMES, user_id=_IDS, name=_NAMES, version=_VERSIONS),
    st.builds(UserDeleted, id=_IDS, time=_TIMES, user_id=_IDS),
    st.builds(UserLoggedOut, id=_IDS, time=_TIMES, token_id=_IDS, token_expires_at=_TIMES, session_id=_IDS),
    st.builds(ProductChanged, id=_IDS, time=_TIMES, product_id=_IDS, name=_NAMES, previous_name=st.none() | _NAMES),
)


@given(EVENTS)
def test_what_the_package_writes_is_the_same_event_in_every_mode(event: Event) -> None:
    wire = event.to_wire()
    attributes = {"id": event.id, "type": event.type, "time": event.time, "source": "/ä %", "datacontenttype": BINARY}
    data = {name: value for name, value in wire.items() if name not in {"id", "type", "time"}}
    messages: list[HTTPMessage] = [
        write(CloudEvent(dict(attributes), data), JSONFormat()) for write in (to_binary, to_structured)
    ]
    batch = HTTPMessage({"content-type": BATCHED}, b"[" + messages[1].body + b"]")
    for message in (*messages, batch):
        (found,) = read(message.headers, message.body)
        assert found == event
        # What was not said is still not said: no previous name is another thing than none.
        assert found.to_wire() == wire


@pytest.mark.parametrize("exp", [1_924_991_999.5, 1_924_991_999.000_001, 1_924_992_000.0, 1_924_992_000])
def test_a_fraction_of_exp_is_rounded_up_in_every_mode(exp: float) -> None:
    event = {**GOOD, "type": "user.logged_out", "data": {"token_id": "t1", "token_expires_at": exp}}
    (batched,) = read({"content-type": BATCHED}, json.dumps([event]).encode())
    for found in (*structured(event), *binary(event), batched):
        assert isinstance(found, UserLoggedOut)
        assert found.token_expires_at == datetime(2031, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"time": "2026-01-31t13:00:00.123456789+01:00"}, {}),
        ({"subject": None, "dataschema": None, "datacontenttype": None}, {}),
        ({"subject": "42", "dataschema": "/schemas/1", "datacontenttype": "text/json; charset=utf-8"}, {}),
        ({"traceparent": "00-1", "sampledrate": 5, "partitionkey": True}, {}),
        ({"data": {"user_id": "42", "name": "Ada", "version": 7.0}}, {}),
        ({"data": None, "data_base64": base64.b64encode(json.dumps(GOOD["data"]).encode()).decode()}, {}),
        ({"id": "ä☃"}, {"id": "ä☃"}),
    ],
)
def test_structured_as_the_standard_has_it(change: dict[str, Any], differs: dict[str, Any]) -> None:
    assert structured({**GOOD, **change}) == [WANTED.model_copy(update=differs)]


@pytest.mark.parametrize(
    ("headers", "differs"),
    [
        ({"ce-id": '"7f3"'}, {}),
        ({"ce-id": '"a\\"b\\\\c"'}, {"id": 'a"b\\c'}),
        ({"ce-id": "%C3%A4%E2%98%83"}, {"id": "ä☃"}),
        ({"ce-id": "%2541"}, {"id": "%41"}),  # one round of decoding, no more
        ({"CE-ID": "7f3", "ce-time": "2026-01-31t12:00:00.123456z"}, {}),
        ({"content-type": "application/vnd.shop+json; charset=UTF-8", "ce-traceparent": "00-1", "cell": "x"}, {}),
        ({"ce-trace-id": "x", "ce-foo_bar": "\u00e9", "ce-": "x"}, {}),  # no names of attributes
        ({"content-type": "application/json; charset=utf8"}, {}),
        ({"content-type": 'application/json;charset="UTF8"'}, {}),
    ],
)
def test_binary_as_the_standard_has_it(headers: dict[str, str], differs: dict[str, Any]) -> None:
    event = {name: value for name, value in GOOD.items() if f"ce-{name}" not in {key.lower() for key in headers}}
    assert binary(event, **headers) == [WANTED.model_copy(update=differs)]


def test_the_content_type_decides_and_not_the_headers() -> None:
    headers = {"content-type": f"{STRUCTURED.upper()}; charset=utf-8", "ce-id": "another", "ce-specversion": "0.3"}
    assert read(headers, json.dumps(GOOD).encode()) == [WANTED]


def test_an_event_without_a_time_happens_now() -> None:
    before = datetime.now(UTC)
    events = [*structured({**GOOD, "time": None}), *binary({name: GOOD[name] for name in GOOD if name != "time"})]
    assert all(before <= event.time <= datetime.now(UTC) for event in events)


def test_batches() -> None:
    assert batched() == []
    assert batched(*[GOOD] * MOST) == [WANTED] * MOST
    with pytest.raises(Problem) as caught:
        batched(*[GOOD] * (MOST + 1))
    assert caught.value.status == 413


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["id", "source", "type", "specversion"])
@pytest.mark.parametrize("how", [structured, binary], ids=["structured", "binary"])
def test_what_the_standard_requires_is_never_made_up(how: Callable[[dict[str, Any]], object], name: str) -> None:
    # The package makes up an id and a version for an event that has none.
    assert CloudEvent({"source": "/shop", "type": "user.updated"}).get_id()
    assert faults(lambda: how({key: value for key, value in GOOD.items() if key != name})) == [(None, name)]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"specversion": "0.3"}, "specversion"),
    ({"specversion": 1.0}, "specversion"),
    ({"id": ""}, "id"),
    ({"id": 5}, "id"),
    ({"id": "a b"}, "id"),
    ({"id": "\ud800"}, "id"),
    ({"source": ""}, "source"),
    ({"source": {}}, "source"),
    ({"type": "user.vanished"}, "type"),
    ({"type": 5}, "type"),
    ({"time": "2026-01-31"}, "time"),
    ({"time": "2026-01-31T12:00:00"}, "time"),
    ({"time": "2026-02-31T12:00:00Z"}, "time"),
    ({"time": "٢026-01-31T12:00:00Z"}, "time"),
    ({"time": 1769860800}, "time"),
    ({"time": "0001-01-01T00:00:00+23:59"}, "time"),
    ({"subject": 5}, "subject"),
    ({"dataschema": ""}, "dataschema"),
    ({"datacontenttype": "application/xml"}, "datacontenttype"),
    ({"datacontenttype": 5}, "datacontenttype"),
    ({"comExampleExtension": "x"}, "comExampleExtension"),
    ({"data": None}, "data"),
    ({"data": "text"}, "data"),
    ({"data": [1]}, "data"),
    ({"data_base64": "e30="}, "data_base64"),
    ({"data": None, "data_base64": "e30"}, "data_base64"),
    ({"data": None, "data_base64": "e3!0="}, "data_base64"),
    ({"data": None, "data_base64": 5}, "data_base64"),
    ({"data": None, "data_base64": "bm8="}, "data_base64"),
    ({"data": {"name": "Ada"}}, "data.user_id"),
    ({"data": {"user_id": 42, "name": 5}}, "data.name"),
    ({"data": {"user_id": 42, "name": "Ada", "version": "7"}}, "data.version"),
    ({"data": {"user_id": 42, "name": "Ada", "nickname": "A"}}, "data.nickname"),
    ({"data": {"user_id": 42, "name": "Ada", "self": "A"}}, "data.self"),
    ({"data": {"user_id": 42, "name": "Ada", "id": "7f3"}}, "data.id"),
    ({"data": {"user_id": 42, "name": "Ada", "type": "user.deleted"}}, "data.type"),
    ({"type": "user.logged_out", "data": {}}, "data"),
    ({"type": "user.deleted", "data": {"user_id": 42, "version": 3}}, "data.version"),
]


@pytest.mark.parametrize(("change", "field"), WRONG, ids=[f"{field}-{n}" for n, (_, field) in enumerate(WRONG)])
def test_wrong_events_are_refused_by_the_field(change: dict[str, Any], field: str) -> None:
    assert faults(lambda: structured({**GOOD, **change})) == [(None, field)]
    assert faults(lambda: batched(GOOD, {**GOOD, **change})) == [(1, field)]


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"ce-specversion": "0.3"}, "specversion"),
        ({"ce-id": ""}, "id"),
        ({"ce-id": "ä"}, "id"),
        ({"ce-id": "%ff"}, "id"),
        ({"ce-time": "now"}, "time"),
        ({"ce-data": "x"}, "data"),
    ],
)
def test_wrong_headers_are_refused_by_the_attribute(headers: dict[str, str], field: str) -> None:
    event = {name: value for name, value in GOOD.items() if f"ce-{name}" not in headers or name == "data"}
    assert faults(lambda: binary(event, **headers)) == [(None, field)]


def test_an_attribute_that_is_there_twice_is_refused() -> None:
    twice = [*raw({f"ce-{name}": str(GOOD[name]) for name in GOOD}), (b"ce-id", b"other")]
    assert faults(lambda: read_message(BINARY, twice, b"{}", MOST)) == [(None, "id")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"\xff",
        json.dumps(GOOD).encode("utf-16"),
        b"[" * 100_000,
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
    ids=["nothing", "half", "nan", "infinity", "latin", "utf-16", "deep", "digits"],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    for kind in (STRUCTURED, BATCHED):
        assert faults(lambda kind=kind: read({"content-type": kind}, body)) == [(None, "body")]  # type: ignore[misc]
    headers = {f"ce-{name}": str(GOOD[name]) for name in GOOD if name != "data"}
    assert faults(lambda: read({"content-type": BINARY, **headers}, body)) == [(None, "data")]


@pytest.mark.parametrize("found", [{}, 5, "text", None])
def test_a_batch_is_an_array_of_objects(found: object) -> None:
    assert faults(lambda: structured(found, BATCHED)) == [(None, "body")]
    assert faults(lambda: batched(GOOD, [GOOD])) == [(1, "event")]


def test_all_wrong_events_of_a_batch_are_named_up_to_a_number() -> None:
    wrong = {**GOOD, "data": {}}
    assert faults(lambda: batched(wrong, GOOD, wrong)) == [(0, "data.user_id"), (2, "data.user_id")]
    body = json.dumps([{"id": 5}] * 100).encode()
    assert len(faults(lambda: read_message(BATCHED, [], body, 100))) < MOST_FAULTS + 5


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": ""},
        {"content-type": "text/plain"},
        {"content-type": "application/xml", "ce-id": "1"},
        {"content-type": "application/cloudevents"},
        {"content-type": "application/cloudevents+xml"},
        {"content-type": "application/cloudevents-batch+protobuf"},
        {"content-type": f"{STRUCTURED}; charset=utf-16"},
        {"content-type": STRUCTURED, "content-encoding": "gzip"},
    ],
)
def test_other_content_types_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Problem) as caught:
        media_type(raw(headers))
    assert caught.value.status == 415
    with pytest.raises(Problem):
        media_type([(b"content-type", STRUCTURED.encode())] * 2)


@pytest.mark.parametrize("event", [GOOD, {**GOOD, "type": "user.logged_out", "data": {"token_id": "t"}}])
def test_no_value_stands_in_a_refusal(event: dict[str, Any]) -> None:
    """A secret with something that is refused, in each place that a value can have."""
    said, tries = "", 0
    bads: list[Any] = [f"{SECRET} {{}}\n", f"{SECRET}\ud800", [SECRET], {"x": SECRET}]
    for bad in bads:
        changes = [{name: bad} for name in [*event, "subject", "data_base64"]]
        fields = ["user_id", "name", "version", "session_id", "token_id", "token_expires_at"]
        changes += [{"data": {**event["data"], name: bad}} for name in fields]
        for change in changes:
            try:
                structured({**event, **change})
            except Refused as refused:
                problem = Problem(HTTPStatus.BAD_REQUEST, "no", faults=refused.faults)
                said += str(refused) + bytes(problem_response(problem).body).decode()
                tries += 1
    assert tries > 40
    assert SECRET not in said


@pytest.mark.parametrize("field", ["x\ud800", "x" * 10_000, 'x"\n'])
def test_the_name_of_a_field_may_be_anything(field: str) -> None:
    with pytest.raises(Refused) as caught:
        structured({**GOOD, "data": {**GOOD["data"], field: 1}})
    response = problem_response(Problem(HTTPStatus.BAD_REQUEST, "no", faults=caught.value.faults))
    (error,) = json.loads(bytes(response.body))["errors"]
    assert error["field"].startswith("data.x")
    assert len(error["field"]) <= LONGEST_FIELD + 1


def test_a_fault_without_a_batch_has_no_index() -> None:
    assert Fault("id", "is missing").shown() == {"field": "id", "detail": "is missing"}
    assert Fault("id", "is missing", 0).shown() == {"index": 0, "field": "id", "detail": "is missing"}


# --- the description -------------------------------------------------------------------------------------------------

DESCRIPTION = document(REGISTRY, SETTINGS)


def described(event: object) -> bool:
    schema = {"$ref": "#/components/schemas/Event", "components": DESCRIPTION["components"]}
    return not list(jsonschema.Draft202012Validator(schema).iter_errors(event))


def test_the_description_has_every_event() -> None:
    assert described(GOOD)
    assert {kind.__name__ for kind in REGISTRY.events.values()} <= DESCRIPTION["components"]["schemas"].keys()
    assert DESCRIPTION["paths"].keys() == {"/events", "/healthz", "/readyz", "/openapi.json"}
    assert json.loads(json.dumps(DESCRIPTION)) == DESCRIPTION


@given(EVENTS)
def test_what_is_taken_is_described(event: Event) -> None:
    wire = event.to_wire()
    attributes = {name: wire.pop(name) for name in ("id", "type", "time")}
    assert described({"specversion": "1.0", "source": "/shop", **attributes, "data": wire})


@pytest.mark.parametrize(
    "field", ["data.user_id", "data.name", "data.version", "data.nickname", "data.id", "specversion"]
)
def test_what_is_refused_for_its_form_is_not_described(field: str) -> None:
    wrong = [{**GOOD, **change} for change, at in WRONG if at == field]
    assert wrong
    assert [event for event in wrong if described(event)] == []


def test_a_header_for_the_data_is_told_what_the_data_is() -> None:
    with pytest.raises(Refused) as caught:
        binary(GOOD, **{"ce-data": "{}"})
    (fault,) = caught.value.faults
    assert (fault.field, fault.detail) == ("data", "is not an attribute: in the binary mode the body is the data")
