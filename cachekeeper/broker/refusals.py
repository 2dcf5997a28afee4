"""Describes in one sentence what a broker refuses permanently (a password, a right, a limit); pauses before a retry."""

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
"""A connection that consumed for longer than this was not refused."""

_ACCESS_REFUSED, _PRECONDITION_FAILED = 403, 406
_OTHER_VHOST = "name a separate vhost in CACHEKEEPER_BROKER_URL"
_CURES = {
    404: "it was deleted while it was in use; nothing to do, since it is made again",
    405: "another connection has declared it as exclusive; end that connection, or " + _OTHER_VHOST,
    506: "RabbitMQ is short of memory, disk or processes; see its log",
    530: "create the vhost that CACHEKEEPER_BROKER_URL names, or give the user access to it",
    540: "this RabbitMQ has no quorum queues; use RabbitMQ 3.8 or later, with the plugins that they need",
    541: "RabbitMQ had an internal error; see its log",
}
# Code 406 has many causes: an argument differs, a message is too large, or an acknowledgement came too late.
_DIFFERS = "stop all workers and publishers and delete that queue or exchange (it is made again), or " + _OTHER_VHOST
_PRECONDITIONS = (
    ("larger than", "raise max_message_size in RabbitMQ, or publish smaller events"),
    ("timed out", "raise consumer_timeout in RabbitMQ: a worker held an event longer than that during an outage"),
)
_LIMIT = re.compile(r"\blimit\b.*\breached\b|\breached\b.*\b(?:limit|maximum|channel_max)\b")
_RAISE_LIMIT = "raise that limit in RabbitMQ (see rabbitmqctl list_user_limits, list_vhost_limits), or use less of it"
_QUOTED = re.compile(r"'[^']*'")
_PLACE = re.compile(r"in vhost '([^']+)' refused for user '([^']+)'")
# Patterns match anywhere in a name. `amq.default` is RabbitMQ's name for the exchange that clients call "".
_GRANT = r"run rabbitmqctl set_permissions -p {vhost} {user} cachekeeper 'cachekeeper|^amq\.default$' cachekeeper"
_WRONG_LOGIN = "the broker refuses the login: the user or the password in CACHEKEEPER_BROKER_URL is wrong or missing"
_LOGIN_ERRORS = AuthenticationError, AuthenticationWrongNumberOfArgsError

_COMMAND = re.compile(r"the '([a-z|]+)' command")
_PIPELINE = re.compile(r"^Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
"""redis-py puts this before the text of Redis. It contains arguments, which may be parts of a message."""
_UNKNOWN_COMMAND = re.compile(r"^unknown command ['`]([A-Za-z]{1,20})['`]")
_WRONG_TYPE = re.compile(r"(?:^|: -?)WRONGTYPE ")
_REDIS_CURES = {
    "OOM": ("it has reached its maxmemory", "raise maxmemory; do not let it evict, since eviction loses events"),
    "READONLY": ("it is a read-only replica", "name the primary in CACHEKEEPER_BROKER_URL"),
    "NOREPLICAS": (
        "it takes no writes, because fewer replicas are connected than min-replicas-to-write",
        "connect more replicas, or lower min-replicas-to-write",
    ),
    "MISCONF": ("it takes no writes, because it could not save to its disk", "see its log, and make room on the disk"),
    "MOVED": ("it is a Redis Cluster", "name a single server in CACHEKEEPER_BROKER_URL"),
    "DENIED": ("it is in protected mode", "set a password for it, or change its bind setting"),
}
_PASSING_CODES = frozenset({"BUSY", "NOSCRIPT", "UNBLOCKED"})
"""Codes that mean an outage, and for which redis-py has no exception class. (It has one for LOADING.)"""

SOME_WRONG_KEY = "one of cachekeeper's keys holds a value of another type"
_OF_ITS_OWN = "delete that key, or name another database in CACHEKEEPER_BROKER_URL"


class WrongKey(ResponseError):
    """One of this library's keys in the broker holds a value of another type. The text names the key and the type."""


def is_wrong_type(error: ResponseError) -> bool:
    """Whether Redis says that a key holds a value of another type. Redis does not name the key."""
    return _WRONG_TYPE.search(str(error)) is not None


def refusal(error: BaseException) -> str | None:
    """Say in one sentence what the broker refuses and what to do; None for an outage.

    Args:
        error: an error of kombu, py-amqp or redis-py, or an error whose `__cause__` is one. The sentence contains
            RabbitMQ's text, which names the queue, the vhost, the user or the argument that differs, and never a
            password. From Redis's text it contains only names of commands and error codes.
    """
    cause = error.__cause__
    return _refusal(error) or (None if cause is None else _refusal(cause))


def _refusal(error: BaseException) -> str | None:
    code, text = getattr(error, "reply_code", None), getattr(error, "reply_text", "")
    if isinstance(error, _LOGIN_ERRORS) or (code == _ACCESS_REFUSED and "Login" in text):
        return _WRONG_LOGIN
    if isinstance(code, int) and (cure := _rabbit_cure(code, str(text))) is not None:
        return f"RabbitMQ refuses: {text}; {cure}"
    if isinstance(error, ResponseError) and (said := _redis_refusal(error)) is not None:
        return f"Redis refuses: {said[0]}; {said[1]}"
    return None


def _rabbit_cure(code: int, text: str) -> str | None:
    if _LIMIT.search(_QUOTED.sub("", text)):  # 530 and 406 stand for limits and for other causes
        return _RAISE_LIMIT
    if code == _ACCESS_REFUSED:
        place = _PLACE.search(text)
        vhost, user = (shlex.quote(name) for name in place.groups()) if place else ("VHOST", "USER")
        return _GRANT.format(vhost=vhost, user=user)
    if code == _PRECONDITION_FAILED:
        return next((cure for part, cure in _PRECONDITIONS if part in text), _DIFFERS)
    return _CURES.get(code)


def _redis_refusal(error: ResponseError) -> tuple[str, str] | None:  # noqa: PLR0911  # a line for each kind
    """The cause and the cure; None for an outage."""
    text = _PIPELINE.sub("", str(error))
    if isinstance(error, WrongKey) or is_wrong_type(error):
        return str(error) if isinstance(error, WrongKey) else SOME_WRONG_KEY, _OF_ITS_OWN
    if isinstance(error, NoPermissionError) or is_permission(text):
        return _permission(text)
    if text == "DB index is out of range":
        return (
            "it has no database with the number in CACHEKEEPER_BROKER_URL",
            "use a lower one, or raise `databases` in its configuration",
        )
    if unknown := _UNKNOWN_COMMAND.search(text):
        return f"it does not know the command {unknown[1].upper()}", "use Redis 6.2 or later, without renamed commands"
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
        return f"{who} a channel", "grant it &/N.cachekeeper.pidbox, where N is the database number"
    return f"{who} a key of cachekeeper", "grant it ~*cachekeeper*"


class ReconnectPause:
    """Waits before a worker connects to the broker again, longer after each failure.

    If an error comes after the login, Celery connects again at once. A queue with other arguments, or a missing
    permission, fails every connection, so without a pause there would be dozens of logins a second. Such an error comes
    within moments. If a connection consumed for longer, the next attempt follows at once: there is no pause when the
    broker restarts, or when the network breaks connections repeatedly.

    Args:
        maybe_stop: called repeatedly during the wait; raises if the worker must stop.
    """

    def __init__(self, maybe_stop: Callable[[], None]) -> None:
        self._maybe_stop = maybe_stop
        self._failures = 0
        self._connected_at: float | None = None
        self._said = ""

    def connected(self) -> None:
        """Note that the worker is connected and begins to consume."""
        self._connected_at = time.monotonic()

    def failed(self, error: BaseException) -> float:
        """Log why the connection failed, and wait.

        Args:
            error: the error that ended the connection.

        Returns:
            The length of the pause in seconds.
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
