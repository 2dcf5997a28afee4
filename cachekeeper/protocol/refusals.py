"""What Redis refuses for good (a password, a right, a read-only replica), said once for each server and cause."""

from __future__ import annotations

import re
import socket
import ssl
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
"""What ends by itself: an outage, or the caller tries again."""

_IN_A_SCRIPT = re.compile(r"executing the script|[Nn]o permission|can't run this command|can't access at least one")
_COMMAND = re.compile(r"'([a-z|]+)' command")
_CODE = re.compile(r"^(?:Error running script .*@user_script: ?\d+: -)?([A-Z]{3,})\b")
"""The code a refusal begins with. Redis before 7.0 puts words of its own before it, where a script met the refusal."""
_NO_CLUSTER = "cluster support disabled"
_RIGHTS = "give it the rights that docs/operations.md lists"
_CODES: dict[type[BaseException], str] = {MovedError: "MOVED", OutOfMemoryError: "OOM", ReadOnlyError: "READONLY"}
"""Where redis-py takes the code off the text."""

_UNKNOWN_COMMAND = re.compile(r"^unknown command ['`]?([A-Za-z]+)\b")
_WITHOUT_CODE = {
    "DB index is out of range": (
        "it has no database of this number",
        "name a lower one in CACHEKEEPER_REDIS_URL or CACHEKEEPER_SECURITY_REDIS_URL, or raise its databases",
    ),
    "SELECT is not allowed": (
        "it is a Cluster, which has only the first database",
        "begin the URL with redis+cluster:// and name no database",
    ),
}
"""How texts begin whose code is `ERR`, which redis-py takes off."""

_CURES = {
    "OOM": "raise maxmemory, or let it evict",
    "READONLY": "name the primary in the URL, not a replica",
    "MISCONF": "it cannot save to its disk: see its log",
    "NOAUTH": "put the user name and the password into the URL",
    "MOVED": "it is a Cluster: begin the URL with redis+cluster://",
    "DENIED": "it is in protected mode: give it a password, or bind it otherwise",
}
_TLS = "use redis:// where the port speaks no TLS, rediss:// and its certificates where it does"
_SEE = "see its configuration and its log"


def is_pool_full(error: BaseException | None) -> bool:
    """Whether `error` says that no connection was free. The server was not asked then.

    redis-py's `BlockingConnectionPool` has no class of its own for it.
    """
    if isinstance(error, MaxConnectionsError):
        return True
    return type(error) is RedisConnectionError and str(error) == "No connection available."


def server_name(source: Any) -> str:
    """Where a client connects to, without the password: host and port, or a path; a database that is not the first."""
    pool = getattr(source, "connection_pool", None)
    if isinstance(pool, ConnectionPool):
        options = pool.connection_kwargs
        place = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
        return f"{place}, database {database}" if (database := options.get("db")) else str(place)
    return str(getattr(source, "name", "a Cluster"))


def warn_if_refused(server: str, error: BaseException) -> None:
    """Warn, the first time, where `error` says that `server` refuses this process, or cannot be reached as it is named.

    The server's own words stay out of the log, since they may quote arguments; only the name of a command is taken.
    """
    for one in _chain(error):
        found = _refusal(one)
        if found is not None:
            cause, cure = found
            log_once(f"refused:{server}:{cause}", "Redis at %s: %s; %s", server, cause, cure)
            return


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came of, the first cause first: it says the most."""
    chain: list[BaseException] = []
    while error is not None and len(chain) < _LONGEST_CHAIN:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return reversed(chain)


def _refusal(error: BaseException) -> tuple[str, str] | None:  # noqa: PLR0911  # a line for each kind
    """Cause and cure, or None: an outage."""
    match error:
        case socket.gaierror():
            return "its host name is unknown", "correct the host in the URL, or the name service"
        case ssl.SSLCertVerificationError():
            return "its certificate is not trusted", "name its authority by ssl_ca_certs=FILE in the URL"
        case FileNotFoundError() | PermissionError() | IsADirectoryError():
            return "a file that the URL names cannot be read", "correct ssl_ca_certs, ssl_certfile, ssl_keyfile or path"
        case ssl.SSLError():
            return "TLS fails", _TLS
        case AuthenticationError() | AuthenticationWrongNumberOfArgsError():
            return "it refuses the user name or the password", "correct them in the URL"
        case InvalidResponse():
            return "its answers are not those of a Redis", "correct the host and the port in the URL"
        case MovedError():  # to redis-py a kind of AskError, which passes
            return _answered(error)
        case RedisError() if not isinstance(error, (*_PASSES, RedisConnectionError, RedisTimeoutError)):
            return _answered(error)
    return None


def _answered(error: RedisError) -> tuple[str, str] | None:
    """Cause and cure where a server answered with an error; None where it is about one key alone.

    What has no line of its own is said by its class: without a warning, lookups would go to MongoDB unnoticed.
    """
    text = str(error)
    if isinstance(error, NoPermissionError) or is_permission(text):
        command = _COMMAND.search(text)
        what = f"the command {command[1]}" if command else "a command or a key"
        return f"its user has no permission for {what}", _RIGHTS
    if _NO_CLUSTER in text:
        return "it is no Cluster", "begin the URL with redis:// (or rediss://), without +cluster"
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
    """Whether Redis says that its user lacks a right; where a script met that, redis-py has no type for it."""
    return _IN_A_SCRIPT.search(text) is not None


def redis_code(error: BaseException, text: str) -> str:
    """The code that a refusal of Redis begins with, such as READONLY; "" where it has none.

    Args:
        error: as redis-py raised it, which takes some codes off.
        text: its text.
    """
    found = _CODE.search(text)
    return _CODES.get(type(error)) or (found[1] if found else "")
