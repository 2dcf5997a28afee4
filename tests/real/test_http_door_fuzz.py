"""The HTTP door under schemathesis: requests that fit its description, and others; the same ones each time."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cachekeeper.door import Door
from cachekeeper.embedded import RedisServer
from cachekeeper.registry import Registry
from producers import UserLoggedOut
from tests.real.doors import KEY, bodies, serving, settings

EXAMPLES = 30
# Not among them: that whatever fits the description is taken. It cannot say all, such as which headers the binary mode
# wants, or that a logout names a session or a token.
HELD = [
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.mark.parametrize("mode", GenerationMode)
def test_whatever_is_sent_is_taken_or_refused_as_described(redis_server: RedisServer, mode: GenerationMode) -> None:
    registry = Registry()
    registry.add_event(UserLoggedOut)  # of each type of field one; the time goes into what schemathesis makes of them
    answered: dict[int, int] = {}
    accepted = 0
    with serving(Door(settings(redis_server.url, http_batch_limit_events=5), registry=registry)) as url:
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
            answered[response.status_code] = answered.get(response.status_code, 0) + 1
            case.validate_response(response, checks=HELD)
            if response.status_code == 202:
                accepted += response.json()["accepted"]

        send()
    assert len(bodies(redis_server)) == accepted
    assert answered.keys() >= {202, 400} if mode is GenerationMode.POSITIVE else answered.keys() >= {400}
