"""What the HTTP door says of events that are valid, and cannot be published."""

import pytest

from cachekeeper.errors import InvalidEvent
from cachekeeper.http_api.decoding import texts_of
from cachekeeper.http_api.problems import Problem, Refused
from cachekeeper.model.events import Event
from cachekeeper.publishing import publisher
from producers import UserUpdated

EVENT = UserUpdated(user_id="1", name="Ada")


def test_only_the_length_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "LONGEST_EVENT", 10)
    with pytest.raises(Problem) as told:
        texts_of([EVENT], batched=False)
    assert told.value.status == 413


def test_what_is_wrong_with_the_whole_event_is_not_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that cannot be told is called `event`, as the length is."""

    def refuse(_: Event) -> str:
        raise InvalidEvent("event", "is not of its type")

    monkeypatch.setattr(Event, "wire_text", refuse)
    with pytest.raises(Refused):
        texts_of([EVENT], batched=False)
