"""Fixtures of the relays' tests."""

from tests.integration.relays.outbox_lab import lab

__all__ = ["lab"]
