"""Included in a worker that waits for ten minutes before it acknowledges what would go alone."""

from typing import Any

from cachekeeper.delivery import answers

_answers: Any = answers
_answers._LATEST_SECONDS = 600.0
