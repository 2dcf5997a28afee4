"""Says once, for each server and cause, that Redis refuses this process: what a retry does not mend."""

from __future__ import annotations

import re
import socket
import ssl
from typing import TYPE_CHECKING, Any

from redis import ConnectionPool
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    ClusterDownError,
    MaxConnectionsError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from cachekeeper.metrics import log_once

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_CHAIN = 10
_PASSES = (BusyLoadingError, ClusterDownError, MaxConnectionsError, TryAgainError)
"""What ends by itself, and is an outage."""

_IN_A_SCRIPT = re.compile(r"executing the script|[Nn]o permission|can't run this command|can't access at least one")
_COMMAND = re.compile(r"'([a-z|]+)' command")
_CODE = re.compile(r"^(?:Error running script .*@user_script: ?\d+: -)?([A-Z]{3,})\b")
"""The code a refusal begins with. Redis before 7.0 puts words of its own before it, where a script met the refusal."""
_RIGHTS = "give it the rights that docs/operations.md lists"
_CODES: dict[type[BaseException], str] = {OutOfMemoryError: "OOM", ReadOnlyError: "READONLY"}
"""Where redis-py takes the code off the text."""

_CURES = {
    "OOM": "raise maxmemory, or let it evict",
    "READONLY": "name the primary in the URL, not a replica",
    "MISCONF": "it cannot save to its disk: see its log",
    "NOAUTH": "put the user name and the password into the URL",
    "MOVED": "it is a Cluster: begin the URL with redis+cluster://",
    "DENIED": "it is in protected mode: give it a password, or bind it otherwise",
}


def server_name(source: Any) -> str:
    """Where a client connects to, without the password: host and port, or a path."""
    pool = getattr(source, "connection_pool", None)
    if isinstance(pool, ConnectionPool):
        options = pool.connection_kwargs
        return str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")
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
            return (
                "TLS fails",
                "use redis:// where the port speaks no TLS, rediss:// and its certificates where it does",
            )
        case AuthenticationError() | AuthenticationWrongNumberOfArgsError():
            return "it refuses the user name or the password", "correct them in the URL"
        case _ if isinstance(error, _PASSES) or not isinstance(error, ResponseError):
            return None
    text = str(error)
    if isinstance(error, NoPermissionError) or _IN_A_SCRIPT.search(text):
        command = _COMMAND.search(text)
        what = f"the command {command[1]}" if command else "a command or a key"
        return f"its user has no permission for {what}", _RIGHTS
    found = _CODE.search(text)
    code = _CODES.get(type(error)) or (found[1] if found else "")
    if code in {"", "WRONGTYPE", "NOSCRIPT"}:
        return None
    return f"it refuses commands ({code})", _CURES.get(code, "see its configuration and its log")
