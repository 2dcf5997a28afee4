"""Fixtures of the tests of consuming."""

from tests.integration.consuming.dead_letter_desk import desk
from tests.integration.consuming.redis_consuming import broker_client

__all__ = ["broker_client", "desk"]
