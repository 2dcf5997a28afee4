"""By which RabbitMQ a message is put back how."""

from types import SimpleNamespace
from typing import Any

import pytest
from amqp.spec import Basic

from cachekeeper.consuming import acks
from cachekeeper.consuming.acks import spare_deliveries

RABBIT = "RabbitMQ"


class Channel:
    """Notes what is sent over it."""

    def __init__(self, server_properties: dict[str, Any]) -> None:
        self.connection = SimpleNamespace(server_properties=server_properties)
        self.sent: list[tuple[object, ...]] = []

    def send_method(self, method: tuple[int, int], argsig: str, arguments: tuple[object, ...]) -> None:
        self.sent.append((method, argsig, arguments))

    def basic_reject(self, delivery_tag: int, requeue: bool) -> None:  # noqa: FBT001  # as py-amqp's
        self.sent.append((Basic.Reject, "Lb", (delivery_tag, requeue)))


def methods(server_properties: dict[str, Any]) -> set[object]:
    """With which methods a message is put back."""
    channel: Any = Channel(server_properties)
    spare_deliveries(channel)
    channel.basic_reject(7, requeue=True)
    channel.basic_reject(8, True)  # noqa: FBT003  # as py-amqp's callers may
    return {method for method, *_ in channel.sent}


VERSIONS: list[tuple[str, tuple[int, int]]] = [
    ("3.10.8", Basic.Reject),
    ("3.13.7", Basic.Reject),
    ("4.0.5", Basic.Reject),
    ("4.2.9", Basic.Reject),
    ("4.3.0", Basic.Nack),
    ("4.3", Basic.Nack),
    ("4.3.0-rc.1", Basic.Nack),
    ("4.3.1+12.gabc", Basic.Nack),
    ("4.10.1", Basic.Nack),
    ("5.0.0", Basic.Nack),
    ("10.1.0", Basic.Nack),
]


@pytest.mark.parametrize(("version", "wanted"), VERSIONS)
def test_a_version_says_how(version: str, wanted: tuple[int, int]) -> None:
    assert methods({"product": RABBIT, "version": version}) == {wanted}


UNKNOWN: dict[str, dict[str, Any]] = {
    "nothing said": {},
    "no version": {"product": RABBIT},
    "an empty version": {"product": RABBIT, "version": ""},
    "no numbers": {"product": RABBIT, "version": "unknown"},
    "one number": {"product": RABBIT, "version": "5"},
    "garbled": {"product": RABBIT, "version": "4.x.3"},
    "a word before it": {"product": RABBIT, "version": "v4.3.0"},
    "negative": {"product": RABBIT, "version": "-4.3.0"},
    "more digits than a version has": {"product": RABBIT, "version": "4." + "9" * 5000},
    "digits of other scripts": {"product": RABBIT, "version": "\u0664.\u0663.0"},
    "bytes": {"product": RABBIT, "version": b"4.3.0"},
    "a number": {"product": RABBIT, "version": 4.3},
    "a list": {"product": RABBIT, "version": [4, 3]},
    "another product": {"product": "LavinMQ", "version": "5.0.0"},
    "a product that is no text": {"product": [RABBIT], "version": "4.3.0"},
}


@pytest.mark.parametrize("properties", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_where_it_is_not_known_the_method_of_all_versions_is_used(properties: dict[str, Any]) -> None:
    assert methods(properties) == {Basic.Reject}


def test_a_channel_of_another_transport_is_left_alone() -> None:
    channel: Any = Channel({})
    channel.connection = object()  # kombu's for Redis has no such properties
    spare_deliveries(channel)
    channel.basic_reject(7, requeue=True)
    assert channel.sent == [(Basic.Reject, "Lb", (7, True))]


def test_what_is_put_away_is_rejected() -> None:
    channel: Any = Channel({"product": RABBIT, "version": "4.3.0"})
    spare_deliveries(channel)
    channel.basic_reject(7, requeue=False)
    channel.basic_reject(8, requeue=True)
    assert channel.sent == [(Basic.Reject, "Lb", (7, False)), (Basic.Nack, "Lbb", (8, False, True))]


def test_versions_are_not_compared_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: as text, 4.10 is less than 4.3, and 10.1 less than both."""
    monkeypatch.setattr(acks, "_spares_nacks", lambda server: str(server["version"]) >= "4.3")
    wrong = [version for version, wanted in VERSIONS if methods({"version": version}) != {wanted}]
    assert wrong == ["4.10.1", "10.1.0"]
