"""Log a failure without its secrets: the text of our own errors, and only the class and the place of all others."""

from __future__ import annotations

from cachekeeper.errors import CachekeeperError
from cachekeeper.metrics import logger, where_raised


def failure_text(error: BaseException) -> str:
    """Return what a log line may say of an error. The text of other errors than ours may contain a token."""
    return str(error) if isinstance(error, CachekeeperError) else type(error).__name__


def log_failure(message: str, *args: object, error: BaseException) -> None:
    """Log `message % args` and `error`: ours as a warning, any other as an error with the place where it was raised."""
    if isinstance(error, CachekeeperError):
        logger.warning(f"{message}: %s", *args, failure_text(error))  # a constant of the caller
    else:
        logger.error(f"{message}: %s\n%s", *args, failure_text(error), where_raised(error))
