"""Warn when Redis refuses for good (password, right, read-only replica), once for each server and cause."""

from __future__ import annotations

import re
import socket
import ssl
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from redis import ConnectionPool, RedisError
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    ClusterDownError,
    InvalidResponse,
    MaxConnectionsError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cachekeeper.metrics import log_once

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_CHAIN = 10
_PASSES = (AskError, BusyLoadingError, ClusterDownError, MaxConnectionsError, NoScriptError, TryAgainError)
"""Errors that pass by themselves: an outage, or the caller tries again."""

_IN_A_SCRIPT = re.compile(r"executing the script|[Nn]o permission|can't run this command|can't access at least one")
_COMMAND = re.compile(r"'([a-z|]+)' command")
_CODE = re.compile(r"^(?:Error running script .*@user_script: ?\d+: -)?([A-Z]{3,})\b")
"""The code at the beginning of a refusal. Redis before 7.0 puts other words before it if a script was refused."""
_NO_CLUSTER = "cluster support disabled"
_RIGHTS = "give it the rights that docs/operations/users.md lists"
_CODES: dict[type[BaseException], str] = {MovedError: "MOVED", OutOfMemoryError: "OOM", ReadOnlyError: "READONLY"}
"""Codes that redis-py removes from the text, by its error class."""

_UNKNOWN_COMMAND = re.compile(r"^unknown command ['`]?([A-Za-z]+)\b")
_WITHOUT_CODE = {
    "DB index is out of range": (
        "it has no database with this number",
        "use a lower number in CACHEKEEPER_REDIS_URL or CACHEKEEPER_SECURITY_REDIS_URL, or raise `databases` of Redis",
    ),
    "SELECT is not allowed": (
        "it is a Cluster, which has only database 0",
        "begin the URL with redis+cluster:// and remove the database number",
    ),
}
"""Refusals without a code of their own, by the beginning of their text. redis-py removes their `ERR`."""

_CURES = {
    "OOM": "raise maxmemory; only a Redis without sessions and blocks may evict keys instead (maxmemory-policy)",
    "READONLY": "name the primary in the URL, not a replica",
    "MISCONF": "it cannot save to its disk: see its log, and free disk space",
    "NOAUTH": "put the user name and the password into the URL",
    "MOVED": "it is a Cluster: begin the URL with redis+cluster://",
    "DENIED": "it is in protected mode: give it a password, or change its bind addresses",
}
_TLS = "use redis:// if the port has no TLS; if it has TLS, use rediss:// and check the certificates"
_SEE = "see its configuration and its log"


def is_pool_full(error: BaseException | None) -> bool:
    """Return whether `error` says that no connection was free. The server was not asked then.

    redis-py's `BlockingConnectionPool` has no error class of its own for this.
    """
    if isinstance(error, MaxConnectionsError):
        return True
    return type(error) is RedisConnectionError and str(error) == "No connection available."


def server_name(source: Any) -> str:
    """Return where a client connects, without the password: host and port, or a path; the database if it is not 0."""
    pool = getattr(source, "connection_pool", None)
    if isinstance(pool, ConnectionPool):
        options = pool.connection_kwargs
        place = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        return f"{place}, database {database}" if (database := options.get("db")) else str(place)
    return str(getattr(source, "name", "a Cluster"))


def warn_if_refused(server: str, error: BaseException) -> None:
    """Warn, once per cause, if `error` says that `server` refuses this process, or that its address is wrong.

    The server's own words stay out of the log, because they may quote arguments. Only a command's name is taken.
    """
    for one in _chain(error):
        found = _refusal(one)
        if found is not None:
            cause, cure = found
            log_once(f"refused:{server}:{cause}", "Redis at %s: %s; %s", server, cause, cure)
            return


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Return the error and its causes. The first cause comes first, because it says the most."""
    chain: list[BaseException] = []
    while error is not None and len(chain) < _LONGEST_CHAIN:
        chain.append(error)
        error = error.__cause__ or _during(error)
    return reversed(chain)


def _during(error: BaseException) -> BaseException | None:
    """Return the error that this library or the client was handling when it raised `error`; None if there is none.

    A caller may be handling an error, too, when it makes the call. That error says nothing about this server:

        caller: catches its own error, and looks something up      lookup: Redis does not answer, `error` is raised

    The first frame of an error's traceback is the function that handles the error. If `error` was raised below that
    function, its own traceback contains the same frame. The caller's frame is not in it.
    """
    context = error.__context__
    if context is None or context.__traceback__ is None:
        return None
    handler = context.__traceback__.tb_frame
    return context if any(frame is handler for frame, _ in walk_tb(error.__traceback__)) else None


def _refusal(error: BaseException) -> tuple[str, str] | None:  # noqa: PLR0911  # one return per kind
    """Return cause and cure, or None for an outage."""
    match error:
        case socket.gaierror():
            return "its host name is unknown", "correct the host in the URL, or repair DNS"
        case ssl.SSLCertVerificationError():
            return "its certificate is not trusted", "name its certificate authority with ssl_ca_certs=FILE in the URL"
        case FileNotFoundError() | PermissionError() | IsADirectoryError():
            return "a file that the URL names cannot be read", "correct ssl_ca_certs, ssl_certfile, ssl_keyfile or path"
        case ssl.SSLError():
            return "TLS fails", _TLS
        case AuthenticationError() | AuthenticationWrongNumberOfArgsError():
            return "it refuses the user name or the password", "correct them in the URL"
        case InvalidResponse():
            return "it does not answer like a Redis server", "correct the host and the port in the URL"
        case MovedError():  # before _PASSES: redis-py derives it from AskError
            return _answered(error)
        case RedisError() if not isinstance(error, (*_PASSES, RedisConnectionError, RedisTimeoutError)):
            return _answered(error)
    return None


def _answered(error: RedisError) -> tuple[str, str] | None:
    """Return cause and cure if a server answered with an error; None if the error is about one key alone.

    An error without a text of its own is named by its class. Without a warning, lookups would go to MongoDB unnoticed.
    """
    text = str(error)
    if isinstance(error, NoPermissionError) or is_permission(text):
        command = _COMMAND.search(text)
        what = f"the command {command[1]}" if command else "a command or a key"
        return f"its user has no permission for {what}", _RIGHTS
    if _NO_CLUSTER in text:
        return "it is not a Cluster", "begin the URL with redis:// (or rediss://), without +cluster"
    if unknown := _UNKNOWN_COMMAND.search(text):
        return f"it does not know the command {unknown[1]}", "use Redis 6.2 or later, and do not rename its commands"
    for beginning, found in _WITHOUT_CODE.items():
        if text.startswith(beginning):
            return found
    code = redis_code(error, text)
    if code in {"WRONGTYPE", "NOSCRIPT"}:
        return None
    return f"it refuses commands ({code or type(error).__name__})", _CURES.get(code, _SEE)


def is_permission(text: str) -> bool:
    """Return whether Redis says that its user lacks a right. redis-py has no class for it if a script was refused."""
    return _IN_A_SCRIPT.search(text) is not None


def redis_code(error: BaseException, text: str) -> str:
    """Return the code at the beginning of a refusal of Redis, such as READONLY; "" if it has none.

    Args:
        error: the error of redis-py, which removes some codes from the text.
        text: its text.
    """
    found = _CODE.search(text)
    return _CODES.get(type(error)) or (found[1] if found else "")
