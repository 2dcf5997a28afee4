"""What is checked of every URL: that there is one, of a known scheme, with what must be escaped escaped."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pymongo.errors import PyMongoError
from redis import RedisError

from cachekeeper.errors import SettingsError
from cachekeeper.values.visible_text import clean, is_blank, is_hidden, stripped

if TYPE_CHECKING:
    from collections.abc import Callable


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
    _check_one(url, schemes)
    if any(character.isspace() for character in url):
        raise ValueError("has a blank inside: a blank in a password is written %20")
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in schemes or not (parts.netloc or parts.scheme == "unix"):
        raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    _check_escapes(url, parts)
    try:
        (parts.hostname or "").encode("idna")
        check(url)
    except NotTaken:
        raise
    except (ValueError, TypeError, PyMongoError, RedisError):
        raise ValueError("cannot be read as a URL: its port, its options or the escaping in it are wrong") from None
    except OSError:
        raise ValueError("names a file that cannot be read, or that holds no certificate") from None
    return url


_LISTS = {
    "amqp": "must be the URL of one broker: for several, name a load balancer or a DNS name; a ; in a password is %3B",
    "redis": "must be the URL of one server; that of a Cluster begins with redis+cluster:// and names one of its nodes",
    "mongodb": "must be one URL: it names the members of a replica set, as in mongodb://a,b/shop",
}


def _check_one(url: str, schemes: tuple[str, ...]) -> None:
    """Refuse a list, before a sign in it is taken for one of a password, or its half for the whole."""
    kind = next(kind for kind in _LISTS if kind in schemes)
    listed = url.count("://") > 1
    if kind != "mongodb":
        server = url.partition("://")[2].partition("/")[0].partition("?")[0]
        listed = listed or re.search("[,;]", server.partition("@")[2] or server) is not None
    # kombu begins another broker at each ; wherever it stands.
    if listed or (kind == "amqp" and ";" in url):
        raise ValueError(_LISTS[kind])


class NotTaken(ValueError):
    """Its text quotes nothing of the URL but the names of its options."""


def _check_escapes(url: str, parts: SplitResult) -> None:
    # Each of / ? # ends what is before the path: of `amqp://me:12#34@broker//` the host would be `me`, and 12 its port.
    cut = parts.scheme != "unix" and "@" in parts.path + parts.query
    if "#" in url or cut:
        raise ValueError("has a sign, in its password perhaps, to be escaped: / as %2F, ? as %3F, # as %23, @ as %40")
    # What is escaped in a user's name or password may be anything; a host or a database has no such character.
    for text in (parts.netloc.rpartition("@")[2], "" if parts.scheme == "unix" else parts.path):
        plain = unquote(text)
        if any(is_blank(character) or is_hidden(character) for character in plain):
            raise ValueError("has a blank or what cannot be seen, escaped, in its host or its database")
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        plain = stripped(text)
        if name.lower() not in _FREE_TEXT and (plain != text or any(map(is_hidden, plain))):
            raise ValueError(f"has the option {shown(name)} with a blank at its end, or with what cannot be seen")


_FREE_TEXT = frozenset({
    *("authmechanismproperties", "password", "ssl_ca_data", "ssl_password", "tlscertificatekeyfilepassword"),
    "username",
})  # fmt: skip
"""Options, in small letters, whose values are as they are."""


def shown(name: str) -> str:
    """The name of an option, if it can be shown."""
    # A name as options have it can be no part of a password: that would have an @ behind it.
    return name if re.fullmatch(r"[A-Za-z_]{1,40}", name) else "(not shown)"


def checked(name: str, check: Callable[[str], str], url: str) -> str:
    """A URL as its setting has it.

    Args:
        name: of the setting, without `CACHEKEEPER_`.
        check: answers the URL as it is used; raises ValueError.
        url: of a server.

    Raises:
        SettingsError: the check refuses it.
    """
    try:
        return check(url)
    except ValueError as error:
        raise SettingsError(f"CACHEKEEPER_{name}: {error}") from None
