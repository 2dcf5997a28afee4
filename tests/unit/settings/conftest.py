"""Fixtures of the tests of settings."""

import os

import pytest

from cachekeeper.settings import PREFIX


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing but what the test sets."""
    for name in os.environ:
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    return monkeypatch
