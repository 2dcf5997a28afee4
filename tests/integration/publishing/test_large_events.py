"""Events that are too large for a broker: refused where they are published, and not by a broker each time.

RabbitMQ 4 takes messages of 16 MiB at most where nothing is said; 3.10 is told the same here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest
from kombu import Connection

from cachekeeper.broker.names import QUEUE
from cachekeeper.errors import InvalidEvent
from cachekeeper.model.events import Event
from cachekeeper.publishing.buffered import BufferedPublisher
from cachekeeper.publishing.publisher import LONGEST_EVENT, Publisher, event_text
from cachekeeper.settings import PublisherSettings
from producers import UserUpdated
from testkit.patient_publishing import PUBLISH_SECONDS
from testkit.servers import RabbitServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from cachekeeper.devservers import FoundServer, Guardian


class PageWritten(Event):
    """Of a service's own: the fields of those that are shipped have limits."""

    type: Literal["page.written"] = "page.written"
    text: str


def of_size(size: int) -> PageWritten:
    """An event that is so many bytes as JSON."""
    around = len(event_text(PageWritten(id="e1", text="")))
    return PageWritten(id="e1", text="x" * (size - around))


@pytest.fixture(scope="module")
def settings(guardian: Guardian, rabbit_found: FoundServer) -> Iterator[PublisherSettings]:
    """Of publishers to a RabbitMQ with the limit of RabbitMQ 4."""
    server = RabbitServer(guardian, rabbit_found, message_bytes=16 * 1024 * 1024)
    server.start()
    yield PublisherSettings(broker_url=server.url, publish_timeout_seconds=PUBLISH_SECONDS)
    server.kill()


def taken(settings: PublisherSettings) -> int:
    """How many messages the broker has; it has none afterwards."""
    with Connection(settings.broker_url) as connection:
        channel: Any = connection.default_channel
        return int(channel.queue_purge(QUEUE))


@pytest.fixture
def publisher(settings: PublisherSettings) -> Iterator[Publisher]:
    publisher = Publisher(settings)
    yield publisher
    publisher.close()


def test_the_largest_event_is_taken_by_rabbitmq_4(settings: PublisherSettings, publisher: Publisher) -> None:
    event = of_size(LONGEST_EVENT)
    assert len(event_text(event)) == LONGEST_EVENT
    publisher.publish(event)
    assert taken(settings) == 1


@pytest.mark.parametrize("size", [LONGEST_EVENT + 1, 17 * 1024 * 1024])
def test_a_larger_one_is_refused_and_holds_up_nobody(
    settings: PublisherSettings, publisher: Publisher, size: int
) -> None:
    """In a buffer it would be published again and again, and all behind it would wait."""
    with BufferedPublisher(publisher) as buffered:
        with pytest.raises(InvalidEvent, match=f"event: must be at most {LONGEST_EVENT} bytes as JSON, is {size}"):
            buffered.publish(of_size(size))
        buffered.publish(UserUpdated(user_id="2", name="Ada", version=1))
        buffered.flush()
    assert taken(settings) == 1
