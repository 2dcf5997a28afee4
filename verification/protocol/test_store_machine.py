"""The store on every server does what the model does, in long sequences of steps (`store_machine.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verification.protocol.store_machine import holds

if TYPE_CHECKING:
    from cachekeeper.devservers import RedisServer


def test_the_store_does_what_the_model_does(any_redis: RedisServer) -> None:
    with any_redis.client() as client:
        holds(client, examples=150)
