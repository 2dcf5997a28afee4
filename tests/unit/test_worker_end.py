"""The end of a worker: its last acknowledgements are sent, and where that fails it is said and the worker ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery.worker.consumer import Consumer as CeleryConsumer

from cachekeeper.consuming.consumer import Consumer
from testkit.counting import counted

if TYPE_CHECKING:
    from collections.abc import Callable


class Broker:
    """What is gathered for it."""

    def __init__(self, answer: Callable[[], None]) -> None:
        self.send = answer


def end(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], None]) -> None:
    """End a worker whose last acknowledgements meet this answer; Celery's own end must follow."""
    ended: list[Any] = []

    def celerys_own(consumer: CeleryConsumer) -> None:
        ended.append(consumer)

    monkeypatch.setattr(CeleryConsumer, "shutdown", celerys_own)
    consumer: Any = Consumer.__new__(Consumer)
    consumer.connection_errors, consumer.channel_errors = (ConnectionError,), (KeyError,)
    consumer._acknowledgements, consumer._looping = Broker(answer), False
    consumer.shutdown()
    assert ended == [consumer]


def test_they_are_sent_before_the_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    with counted() as counts:
        end(monkeypatch, lambda: sent.append("all"))
    assert sent == ["all"]
    assert counts["answer_unheard"] == 0


@pytest.mark.parametrize("error", [ConnectionResetError, KeyError])
def test_those_that_are_lost_are_counted_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    def lose() -> None:
        raise error("a token, perhaps")

    with counted() as counts:
        end(monkeypatch, lose)
    assert counts["answer_unheard"] == 1
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        f"while the worker stopped, messages were not acknowledged or put back ({error.__name__}); they come again"
    )


def test_a_fault_of_ours_is_no_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise TypeError

    with pytest.raises(TypeError):
        end(monkeypatch, fail)
