"""The HTTP door under schemathesis: requests that fit its description, and others; the same ones each time."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup, ServerError
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cachekeeper.devservers import RedisServer
from cachekeeper.http_api import Door
from cachekeeper.model.events import Event
from cachekeeper.model.registry import Registry
from producers import UserUpdated
from testkit.doors import KEY, bodies, serving, settings

EXAMPLES = 20
# Not among them: that whatever fits the description is taken. It cannot say all, such as which headers the binary mode
# wants, or how many bytes an id may have.
HELD = [
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]


def fuzz(server: RedisServer, mode: GenerationMode) -> tuple[set[int], int]:
    """Which statuses there were, and how many events were accepted."""
    registry = Registry()
    registry.add_event(UserUpdated)  # alone: the time goes into what schemathesis makes of each field
    statuses, accepted = set[int](), 0
    with serving(Door(settings(server.url, http_batch_limit_events=5), registry=registry)) as url:
        described = schemathesis.openapi.from_url(f"{url}/openapi.json")

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(described["/events"]["POST"].as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case[Any]) -> None:
            nonlocal accepted
            response = case.call(headers={"Authorization": f"Bearer {KEY}"}, timeout=30)
            statuses.add(response.status_code)
            case.validate_response(response, checks=HELD)
            if response.status_code == 202:
                accepted += response.json()["accepted"]

        send()
    return statuses, accepted


@pytest.mark.parametrize("mode", GenerationMode)
def test_whatever_is_sent_is_taken_or_refused_as_described(redis_server: RedisServer, mode: GenerationMode) -> None:
    statuses, accepted = fuzz(redis_server, mode)
    assert {400} <= statuses
    assert 202 in statuses or mode is GenerationMode.NEGATIVE
    assert len(bodies(redis_server)) == accepted


def _stumbling(*_: object, **__: object) -> list[Event]:
    """Known bad: takes for granted that every event has what it should have."""
    raise KeyError("user_id")


def test_a_door_that_stumbles_is_found(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cachekeeper.http_api.app.read_events", _stumbling)
    with pytest.raises(FailureGroup) as caught:
        fuzz(redis_server, GenerationMode.POSITIVE)
    assert any(isinstance(failure, ServerError) for failure in caught.value.exceptions)
