"""What a broker refuses whoever asks again: said in one sentence, and asked for again only after a growing pause."""

from __future__ import annotations

import random
import re
import shlex
import time
from typing import TYPE_CHECKING

from redis.exceptions import AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError

from cachekeeper.metrics import COUNTERS, logger

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 15.0
_LOOK_SECONDS = 0.2
_WORKED_SECONDS = 2.0
"""A connection that consumed for so long was not refused."""

_ACCESS_REFUSED, _NOT_FOUND, _PRECONDITION_FAILED, _NOT_ALLOWED = 403, 404, 406, 530
_CURES = {
    _NOT_FOUND: "it was deleted while it was in use; it is made again",
    _PRECONDITION_FAILED: "delete that queue or exchange while no worker and no publisher runs (it is made anew), or "
    "name a vhost of its own in CACHEKEEPER_BROKER_URL",
    _NOT_ALLOWED: "create the vhost that CACHEKEEPER_BROKER_URL names, or let the user into it",
}
_PLACE = re.compile(r"in vhost '([^']+)' refused for user '([^']+)'")
# Patterns match anywhere in a name. `amq.default` is the exchange that is called "" by all others.
_GRANT = r"run rabbitmqctl set_permissions -p {vhost} {user} cachekeeper 'cachekeeper|^amq\.default$' cachekeeper"
_WRONG_LOGIN = "the broker refuses the login: the user or the password in CACHEKEEPER_BROKER_URL is wrong or missing"
_LOGIN_ERRORS = AuthenticationError, AuthenticationWrongNumberOfArgsError
_RIGHTS = "grant it that command, key or channel"
_COMMAND = re.compile(r"the '([a-z|]+)' command|^Command # \d+ \(([A-Z]+)")
"""In the text of Redis, or of redis-py before it; the arguments that follow there may be of a message."""


def refusal(error: BaseException) -> str | None:
    """What the broker refuses, and the cure, in one sentence; None for an outage.

    Args:
        error: of kombu, py-amqp or redis-py. The text of RabbitMQ is part of the sentence: it names the queue, the
            vhost, the user or the argument that differs, and no password.
    """
    code, text = getattr(error, "reply_code", None), getattr(error, "reply_text", "")
    if isinstance(error, _LOGIN_ERRORS) or (code == _ACCESS_REFUSED and "Login" in text):
        return _WRONG_LOGIN
    if code == _ACCESS_REFUSED:
        place = _PLACE.search(text)
        vhost, user = (shlex.quote(name) for name in place.groups()) if place else ("VHOST", "USER")
        return f"RabbitMQ refuses: {text}: {_GRANT.format(vhost=vhost, user=user)}"
    if code in _CURES:
        return f"RabbitMQ refuses: {text}: {_CURES[code]}"
    if isinstance(error, NoPermissionError):
        command = _COMMAND.search(str(error))
        what = "a channel" if "channels" in str(error) else "a key"
        what = (command[1] or command[2]).upper() if command else what
        return f"Redis refuses: the user in CACHEKEEPER_BROKER_URL has no permission for {what}: {_RIGHTS}"
    return None


class ReconnectPause:
    """Waits before a worker connects to the broker again, longer from failure to failure.

    Celery connects again at once after an error that comes once it is connected: a queue with other arguments or a
    missing permission, which the next connection meets as well, makes dozens of logins a second. Such an error comes
    within moments. After a connection that consumed for longer the next attempt is made at once: neither a broker that
    restarts nor a network that breaks connections again and again costs a pause.

    Args:
        maybe_stop: called between naps; raises where the worker is to stop.
    """

    def __init__(self, maybe_stop: Callable[[], None]) -> None:
        self._maybe_stop = maybe_stop
        self._failures = 0
        self._connected_at: float | None = None
        self._said = ""

    def connected(self) -> None:
        """The worker is connected, and begins to consume."""
        self._connected_at = time.monotonic()

    def failed(self, error: BaseException) -> float:
        """The connection failed: say why, and wait.

        Args:
            error: what it failed with.

        Returns:
            For how many seconds it was to wait.
        """
        lasted = 0.0 if self._connected_at is None else time.monotonic() - self._connected_at
        self._connected_at = None
        if lasted > _WORKED_SECONDS:
            self._failures, self._said = 0, ""
        why = refusal(error)
        if why and why != self._said:
            self._said = why
            COUNTERS.add("broker_refused")
            logger.error("events wait in the broker: %s", why)
        pause = 0.0
        if self._failures:
            pause = min(_FIRST_PAUSE_SECONDS * (1 << min(self._failures, 10)), _LONGEST_PAUSE_SECONDS)
            pause *= random.uniform(0.5, 1)  # noqa: S311  # spread, so that workers do not come back together
        self._failures += 1
        self._wait(pause)
        return pause

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._maybe_stop()
            time.sleep(min(left, _LOOK_SECONDS))
