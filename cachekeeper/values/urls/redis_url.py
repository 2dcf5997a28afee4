"""The URL of a Redis server or Cluster, which redis-py can read."""

import re
import ssl
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis import ConnectionPool
from redis.connection import SSLConnection
from redis.connection import parse_url as parse_redis_url

from cachekeeper.values.urls.checking import UnusableUrl, check_url
from cachekeeper.values.urls.options import check_numbered_database, check_options, check_port
from cachekeeper.values.visible_text import PLAIN_TEXT

# Other options in a URL would override those that this library sets, such as time limits and retries.
_REDIS_OPTIONS = frozenset(
    {"client_name", "db", "health_check_interval", "max_connections", "password", "socket_keepalive", "username"}
)
# redis-py ignores ssl_validate_ocsp if it is text. To check a stapled answer, it needs objects and pyOpenSSL.
_REDIS_TLS = frozenset(name for name in signature(SSLConnection).parameters if re.match("ssl_(?!.*ocsp)", name))


def redis_url(text: Any) -> str:
    """Check the URL of a Redis server or Cluster and return it, as `check_url` does."""
    return check_url(str(text), ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster"), _check)


def _check(url: str) -> None:
    """Raise an error if no Redis client can be made with `url`."""
    scheme = urlsplit(url).scheme
    plain = url.replace("+cluster://", "://", 1)
    found = check_options(url, _REDIS_OPTIONS, _REDIS_TLS)
    if scheme != "unix":
        check_port(url)
        check_numbered_database(url)
    if not re.fullmatch(r"[0-9]+", found.get("db", "0")):
        raise UnusableUrl("has a wrong db: write the number of a database, such as 0")
    if "db" in found and scheme != "unix" and urlsplit(url).path.strip("/"):
        raise UnusableUrl("names its database twice, in its path and in the option db: remove one of them")
    for name in ("health_check_interval", "max_connections"):
        if not re.fullmatch(r"[0-9]{1,9}", found.get(name, "0")):
            raise UnusableUrl(f"has a wrong {name}: write a whole number of at most 9 digits")
    if not PLAIN_TEXT.fullmatch(found.get("client_name", "-")):
        raise UnusableUrl("has a client_name that Redis would refuse: write ASCII letters, digits and signs, no blanks")
    options = parse_redis_url(plain)  # type: ignore[no-untyped-call]  # redis-py has no types
    if scheme.endswith("+cluster") and options.get("db"):
        raise UnusableUrl("must not name a database: a Cluster has only database 0")
    connection = ConnectionPool.from_url(plain).make_connection()  # does not connect yet, but refuses wrong values
    if isinstance(connection, SSLConnection):
        _check_tls(connection)


def _check_tls(connection: SSLConnection) -> None:
    """Make the TLS context as redis-py does when it connects. If found only then, an error would fail every lookup."""
    context = ssl.create_default_context()
    path = connection.ca_path
    if path is not None and not Path(path).is_dir():
        raise UnusableUrl("has an ssl_ca_path that is not a directory: name a directory of certificates")
    for name, value, use in (
        ("ssl_ca_data", connection.ca_data, lambda data: context.load_verify_locations(cadata=data)),
        ("ssl_min_version", connection.ssl_min_version, partial(setattr, context, "minimum_version")),
        ("ssl_ciphers", connection.ssl_ciphers, context.set_ciphers),
    ):
        try:
            if value is not None:
                use(value)
        except (OSError, OverflowError, TypeError, ValueError):
            raise UnusableUrl(f"has an {name} that OpenSSL does not accept; {_EXAMPLES[name]}") from None


_EXAMPLES = {
    "ssl_ca_data": "write certificates as PEM text, escaped",
    "ssl_min_version": "write 771 for TLS 1.2, or 772 for TLS 1.3",
    "ssl_ciphers": "write names as OpenSSL lists them, with : between them",
}
