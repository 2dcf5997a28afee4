"""What a broker refuses for good (a password, a right, a limit), in one sentence; and the pause before the next try."""

from __future__ import annotations

import re
import shlex
import time
from typing import TYPE_CHECKING

from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    ClusterCrossSlotError,
    NoPermissionError,
    ResponseError,
)

from cachekeeper.metrics import COUNTERS, logger
from cachekeeper.protocol.refusals import is_permission, redis_code
from cachekeeper.runtime.backoff import growing

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 15.0
_LOOK_SECONDS = 0.2
_WORKED_SECONDS = 2.0
"""A connection that consumed for so long was not refused."""

_ACCESS_REFUSED, _PRECONDITION_FAILED = 403, 406
_OTHER_VHOST = "give the broker a vhost of its own in CACHEKEEPER_BROKER_URL"
_CURES = {
    404: "it was deleted while it was in use; it is made again",
    405: "another connection has declared it for itself alone (exclusive): end that connection, or " + _OTHER_VHOST,
    506: "RabbitMQ is short of memory, disk or processes: see its log",
    530: "create the vhost that CACHEKEEPER_BROKER_URL names, or let the user into it",
    540: "this RabbitMQ is too old or lacks a plugin: it must know quorum queues (3.8 or later)",
    541: "RabbitMQ failed by itself: see its log",
}
# Of 406, which has many causes: what differs, and what is too large or too slow.
_DIFFERS = "delete that queue or exchange while no worker and no publisher runs (it is made anew), or " + _OTHER_VHOST
_PRECONDITIONS = (
    ("larger than", "raise max_message_size in RabbitMQ, or publish smaller events"),
    ("timed out", "raise consumer_timeout in RabbitMQ: an event waited longer than that for a server"),
)
_LIMIT = re.compile(r"\blimit\b.*\breached\b|\breached\b.*\b(?:limit|maximum|channel_max)\b")
_RAISE_LIMIT = "raise that limit in RabbitMQ (list_user_limits, list_vhost_limits), or use less of it"
_QUOTED = re.compile(r"'[^']*'")
_PLACE = re.compile(r"in vhost '([^']+)' refused for user '([^']+)'")
# Patterns match anywhere in a name. `amq.default` is the exchange that is called "" by all others.
_GRANT = r"run rabbitmqctl set_permissions -p {vhost} {user} cachekeeper 'cachekeeper|^amq\.default$' cachekeeper"
_WRONG_LOGIN = "the broker refuses the login: the user or the password in CACHEKEEPER_BROKER_URL is wrong or missing"
_LOGIN_ERRORS = AuthenticationError, AuthenticationWrongNumberOfArgsError

_COMMAND = re.compile(r"the '([a-z|]+)' command")
_PIPELINE = re.compile(r"^Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
"""What redis-py puts before the text of Redis. The arguments in it may be of a message."""
_UNKNOWN_COMMAND = re.compile(r"^unknown command ['`]([A-Za-z]{1,20})['`]")
_WRONG_TYPE = re.compile(r"(?:^|: -?)WRONGTYPE ")
_REDIS_CURES = {
    "OOM": ("it is at its maxmemory", "raise that; do not let it evict, which loses events"),
    "READONLY": ("it is a replica that takes no writes", "name the primary in CACHEKEEPER_BROKER_URL"),
    "NOREPLICAS": (
        "it takes no writes, since fewer replicas are connected than min-replicas-to-write",
        "connect them, or lower that setting",
    ),
    "MISCONF": ("it takes no writes, since it could not save to its disk", "see its log; make room on the disk"),
    "MOVED": ("it is a Redis Cluster", "name a single server in CACHEKEEPER_BROKER_URL"),
    "DENIED": ("it is in protected mode", "give it a password, or bind it otherwise"),
}
_PASSING_CODES = frozenset({"BUSY", "NOSCRIPT", "UNBLOCKED"})
"""Without a type of redis-py's own, as LOADING has it: an outage."""

SOME_WRONG_KEY = "a key of cachekeeper's has another type"
_OF_ITS_OWN = "delete it, or give the broker a database of its own"


class WrongKey(ResponseError):
    """A key of this library's name in the broker holds a value of another type. Its text says which, and which type."""


def is_wrong_type(error: ResponseError) -> bool:
    """Whether Redis says that a key holds a value of another type. It does not say which key."""
    return _WRONG_TYPE.search(str(error)) is not None


def refusal(error: BaseException) -> str | None:
    """What the broker refuses, and the cure, in one sentence; None for an outage.

    Args:
        error: of kombu, py-amqp or redis-py, or one of which such a one is the cause. The text of RabbitMQ is part of
            the sentence: it names the queue, the vhost, the user or the argument that differs, and no password. Of the
            text of Redis only names of commands are.
    """
    cause = error.__cause__
    return _refusal(error) or (None if cause is None else _refusal(cause))


def _refusal(error: BaseException) -> str | None:
    code, text = getattr(error, "reply_code", None), getattr(error, "reply_text", "")
    if isinstance(error, _LOGIN_ERRORS) or (code == _ACCESS_REFUSED and "Login" in text):
        return _WRONG_LOGIN
    if isinstance(code, int) and (cure := _rabbit_cure(code, str(text))) is not None:
        return f"RabbitMQ refuses: {text}: {cure}"
    if isinstance(error, ResponseError) and (said := _redis_refusal(error)) is not None:
        return f"Redis refuses: {said[0]}: {said[1]}"
    return None


def _rabbit_cure(code: int, text: str) -> str | None:
    if _LIMIT.search(_QUOTED.sub("", text)):  # one code each is for limits and for much else
        return _RAISE_LIMIT
    if code == _ACCESS_REFUSED:
        place = _PLACE.search(text)
        vhost, user = (shlex.quote(name) for name in place.groups()) if place else ("VHOST", "USER")
        return _GRANT.format(vhost=vhost, user=user)
    if code == _PRECONDITION_FAILED:
        return next((cure for part, cure in _PRECONDITIONS if part in text), _DIFFERS)
    return _CURES.get(code)


def _redis_refusal(error: ResponseError) -> tuple[str, str] | None:  # noqa: PLR0911  # a line for each kind
    """Cause and cure."""
    text = _PIPELINE.sub("", str(error))
    if isinstance(error, WrongKey) or is_wrong_type(error):
        return str(error) if isinstance(error, WrongKey) else SOME_WRONG_KEY, _OF_ITS_OWN
    if isinstance(error, NoPermissionError) or is_permission(text):
        return _permission(text)
    if text == "DB index is out of range":
        return "it has no database of the number in CACHEKEEPER_BROKER_URL", "name a lower one, or raise `databases`"
    if unknown := _UNKNOWN_COMMAND.search(text):
        return f"it does not know the command {unknown[1].upper()}", "use Redis 6.2 or later, with no command renamed"
    if isinstance(error, ClusterCrossSlotError) or text.startswith("SELECT is not allowed in cluster"):
        return _REDIS_CURES["MOVED"]
    code = redis_code(error, text)
    if not code or code in _PASSING_CODES:
        return None
    return _REDIS_CURES.get(code, (f"it refuses commands ({code})", "see its configuration and its log"))


def _permission(text: str) -> tuple[str, str]:
    who = "the user in CACHEKEEPER_BROKER_URL has no permission for"
    if command := _COMMAND.search(text):
        return f"{who} the command {command[1].upper()}", "grant it that command"
    if "channel" in text:
        return f"{who} a channel", "grant it &/N.cachekeeper.pidbox, where N is the number of its database"
    return f"{who} a key, whatever its commands", "grant it ~*cachekeeper*"


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
            pause = growing(self._failures, first=_FIRST_PAUSE_SECONDS, longest=_LONGEST_PAUSE_SECONDS)
        self._failures += 1
        self._wait(pause)
        return pause

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._maybe_stop()
            time.sleep(min(left, _LOOK_SECONDS))
