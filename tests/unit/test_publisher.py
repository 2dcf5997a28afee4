"""What a publisher does before it needs a broker."""

import json

import pytest

from cachekeeper.errors import InvalidEvent, SettingsError
from cachekeeper.publishing.publisher import BYTES_PER_MESSAGE, EVENTS_PER_MESSAGE, Publisher, event_text, packed
from cachekeeper.settings import PublisherSettings, Settings
from producers import UserDeleted, UserUpdated

EVENT = UserDeleted(user_id="42")


def test_a_service_that_only_publishes_needs_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "MONGODB_URL", "BROKER_URL", "PUBLISH_TIMEOUT_SECONDS"):
        monkeypatch.delenv(f"CACHEKEEPER_{name}", raising=False)
    with pytest.raises(SettingsError) as caught:
        Publisher().publish(EVENT)
    assert str(caught.value).splitlines()[1:] == ["  CACHEKEEPER_BROKER_URL: is not set: it has no default, so set it"]


def test_settings_without_a_broker() -> None:
    settings = Settings(redis_url="redis://cache", mongodb_url="mongodb://db/shop", broker_url=None)
    with pytest.raises(SettingsError, match="CACHEKEEPER_BROKER_URL"):
        Publisher(settings).publish(EVENT)


def test_a_broker_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHEKEEPER_BROKER_URL", "redis://127.0.0.1:1/database")
    with pytest.raises(SettingsError, match="CACHEKEEPER_BROKER_URL"):
        Publisher().publish(EVENT)


@pytest.mark.parametrize("value", [{"type": "user.deleted", "user_id": "42"}, None, "user.deleted", UserDeleted])
def test_only_events_are_published(value: object) -> None:
    publisher = Publisher(PublisherSettings(broker_url="redis://127.0.0.1:1"))
    with pytest.raises(InvalidEvent, match="event: must be an Event"):
        publisher.publish(value)  # type: ignore[arg-type]  # on purpose


def test_nothing_to_publish_needs_no_broker() -> None:
    assert Publisher(PublisherSettings(broker_url="redis://127.0.0.1:1")).publish_many([]) == 0


@pytest.mark.parametrize("count", [1, EVENTS_PER_MESSAGE - 1, EVENTS_PER_MESSAGE, EVENTS_PER_MESSAGE + 1, 1234])
def test_messages_are_cut_by_count(count: int) -> None:
    events = [UserDeleted(user_id=str(number)) for number in range(count)]
    batches = list(packed(map(event_text, events)))
    assert all(0 < len(batch) <= EVENTS_PER_MESSAGE for batch in batches)
    assert len(batches) == -(-count // EVENTS_PER_MESSAGE)
    assert [json.loads(text)["user_id"] for batch in batches for text in batch] == [event.user_id for event in events]


def test_messages_are_cut_by_size() -> None:
    events = [UserUpdated(user_id=str(number), name="x" * 50_000, version=1) for number in range(20)]
    batches = list(packed(map(event_text, events)))
    assert all(sum(map(len, batch)) <= BYTES_PER_MESSAGE for batch in batches)
    assert len(batches) == 4
    assert [json.loads(text)["user_id"] for batch in batches for text in batch] == [event.user_id for event in events]


def test_the_largest_event_there_can_be_fits_into_a_message() -> None:
    large = UserUpdated(user_id="x" * 512, name="\U0001f600" * 16_384, version=1)  # 12 bytes a character as JSON
    assert [len(batch) for batch in packed(map(event_text, [large, large, EVENT]))] == [1, 2]
