"""What operators write into settings: text without blanks around it, and URLs that their own libraries can read.

No message here quotes what was given: it may hold a password.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri as parse_mongodb_url
from redis import ConnectionPool, RedisError
from redis.connection import parse_url as parse_redis_url

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what cannot be seen: control characters, what has no width, ends of lines. Also bytes of the
environment that are no UTF-8."""

_PLAIN = re.compile(r"[!-~]+")  # letters, digits and signs of ASCII: nothing to look for


def stripped(text: str) -> str:
    """`text` without the blanks around it, of any kind: ends of lines, byte order marks and what has no width, too.

    A secret made with `echo` ends in a line feed, and one from an editor may begin with a byte order mark:
    `mongodb://host/shop` with either would be another database.
    """
    first, end = 0, len(text)
    while first < end and _is_blank(text[first]):
        first += 1
    while first < end and _is_blank(text[end - 1]):
        end -= 1
    return text[first:end]


def clean(text: str) -> str:
    """`text` without the blanks around it.

    Raises:
        ValueError: a character inside cannot be seen.
    """
    text = stripped(text)
    if not _PLAIN.fullmatch(text):
        for character in text:
            if unicodedata.category(character) in _HIDDEN:
                raise ValueError(f"has a control character inside (U+{ord(character):04X}): write it without")
    return text


def _is_blank(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cf"


def check_url(text: str, schemes: tuple[str, ...], check: Callable[[str], object]) -> str:
    """A URL, cleaned, that its own library can read.

    Args:
        text: as it was written.
        schemes: one of them is its scheme.
        check: raises where the library would.

    Raises:
        ValueError: it cannot be used. The text quotes nothing of the URL but the names of its options.
    """
    url = clean(text)
    if any(character.isspace() for character in url):
        raise ValueError("has a blank inside: a blank in a password is written %20")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in schemes or not (parts.netloc or parts.scheme == "unix"):
        raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    _check_escapes(parts)
    try:
        (parts.hostname or "").encode("idna")
        check(url)
    except NotTaken:
        raise
    except (ValueError, TypeError, PyMongoError, RedisError):
        raise ValueError("cannot be read as a URL: its port, its options or the escaping in it are wrong") from None
    except OSError:
        raise ValueError("names a file that cannot be read") from None
    return url


class NotTaken(ValueError):
    """Its text quotes nothing of the URL but the names of its options."""


def _check_escapes(parts: SplitResult) -> None:
    # What is escaped in a user's name or password may be anything; a host or a database has no such character.
    for text in (parts.netloc.rpartition("@")[2], "" if parts.scheme == "unix" else parts.path):
        plain = unquote(text)
        if any(_is_blank(character) or unicodedata.category(character) in _HIDDEN for character in plain):
            raise ValueError("has a blank or a control character, escaped, in its host or its database")


# Whatever else a URL sets would win over what this library sets, time limits and retries among them.
_REDIS_OPTIONS = frozenset(
    {"client_name", "db", "health_check_interval", "max_connections", "password", "protocol", "socket_keepalive"}
    | {"username"}
)


def check_redis(url: str) -> None:
    """Raise what keeps a client of Redis from being made with `url`."""
    scheme, query = urlsplit(url).scheme, parse_qs(urlsplit(url).query)
    plain = url.replace("+cluster://", "://", 1)
    if any(name not in _REDIS_OPTIONS and not name.startswith("ssl_") for name in query):
        raise NotTaken(f"may have the options {', '.join(sorted(_REDIS_OPTIONS))} and ssl_…, and no others")
    if scheme != "unix":
        _check_database(url)
    options = parse_redis_url(plain)  # type: ignore[no-untyped-call]  # redis-py types it not
    if scheme.endswith("+cluster") and options.get("db"):
        raise NotTaken("must not name a database: a Cluster has only the first")
    ConnectionPool.from_url(plain).make_connection()  # which connects to nothing, and refuses unknown options


def _check_database(url: str) -> None:
    # redis-py takes anything else for 0, and kombu fails at its first connection.
    if not re.fullmatch(r"/?|/[0-9]+", urlsplit(url).path):
        raise NotTaken("must name its database by a number, as in redis://host:6379/0")


def check_broker(url: str) -> None:
    """Raise what keeps publishers and workers from using `url` as their broker."""
    parts = urlsplit(url)
    _ = parts.port  # raises
    if parts.scheme.startswith("redis"):
        _check_database(url)
        known = {"CERT_REQUIRED", "CERT_OPTIONAL", "CERT_NONE", "required", "optional", "none"}
        if not known.issuperset(parse_qs(parts.query).get("ssl_cert_reqs", [])):
            raise NotTaken("has an ssl_cert_reqs that is none of required, optional, none")


def check_mongodb(url: str) -> None:
    """Raise what keeps a client of MongoDB from being made with `url`, or where it names no database."""
    if not urlsplit(url).path.strip("/"):
        raise NotTaken("must name its database, as in mongodb://host:27017/shop")
    if not url.startswith("mongodb+srv:"):  # reading that would ask the name server
        parse_mongodb_url(url, warn=False)


def redis_url(text: Any) -> str:
    """The URL of a Redis server or Cluster, as `check_url`."""
    return check_url(str(text), ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster"), check_redis)


def broker_url(text: Any) -> str:
    """The URL of a broker, as `check_url`."""
    return check_url(str(text), ("amqp", "amqps", "redis", "rediss"), check_broker)


def mongodb_url(text: Any) -> str:
    """The URL of a MongoDB database, as `check_url`."""
    return check_url(str(text), ("mongodb", "mongodb+srv"), check_mongodb)
