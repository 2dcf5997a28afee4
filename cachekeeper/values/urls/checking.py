"""Checks for every URL: that it is one URL, that its scheme is known, and that special characters are escaped."""

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
    """Clean a URL, check it, and return it.

    Args:
        text: the URL as the operator wrote it.
        schemes: the schemes that it may have.
        check: raises an error where the library that uses the URL would.

    Raises:
        ValueError: the URL cannot be used. The message quotes only the names of options from the URL.
    """
    url = clean(text)
    _check_one(url, schemes)
    if any(character.isspace() for character in url):
        raise ValueError("has a blank inside: remove it, or write it as %20 if it is part of the password")
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
    except UnusableUrl:
        raise
    except (ValueError, TypeError, PyMongoError, RedisError):
        raise ValueError("cannot be read as a URL: correct its port, its options or its escaping") from None
    except OSError:
        raise ValueError("names a certificate file that cannot be read, or a file without a certificate") from None
    return url


_LISTS = {
    "amqp": "must be the URL of one broker: for several, name a load balancer or a DNS name; a ; in a password is %3B",
    "redis": "must be the URL of one server; for a Cluster, begin it with redis+cluster:// and name one of its nodes",
    "mongodb": "must be one URL: name all members of a replica set in it, as in mongodb://a,b/shop",
}


def _check_one(url: str, schemes: tuple[str, ...]) -> None:
    """Refuse a list of URLs or hosts. Later checks would read a separator as part of a password, or only the first."""
    kind = next(kind for kind in _LISTS if kind in schemes)
    listed = url.count("://") > 1
    if kind != "mongodb":
        server = url.partition("://")[2].partition("/")[0].partition("?")[0]
        listed = listed or re.search("[,;]", server.partition("@")[2] or server) is not None
    # kombu begins another broker at every ; in the URL.
    if listed or (kind == "amqp" and ";" in url):
        raise ValueError(_LISTS[kind])


class UnusableUrl(ValueError):
    """The URL cannot be used. The text quotes only the names of options from the URL."""


def _check_escapes(url: str, parts: SplitResult) -> None:
    # Each of / ? # ends the part before the path: in `amqp://me:12#34@broker//` the host would be `me` with port 12.
    cut = parts.scheme != "unix" and "@" in parts.path + parts.query
    if "#" in url or cut:
        raise ValueError(
            "has an unescaped sign, probably in its password: write / as %2F, ? as %3F, # as %23, @ as %40"
        )
    # A user name or a password may contain any escaped character. A host or a database contains no blank.
    for text in (parts.netloc.rpartition("@")[2], "" if parts.scheme == "unix" else parts.path):
        plain = unquote(text)
        if any(is_blank(character) or is_hidden(character) for character in plain):
            raise ValueError("has an escaped blank or invisible character in its host or its database: remove it")
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        plain = stripped(text)
        if name.lower() not in _FREE_TEXT and (plain != text or any(map(is_hidden, plain))):
            raise ValueError(
                f"has a blank at an end of its option {shown(name)}, or an invisible character in it: remove it"
            )


_FREE_TEXT = frozenset({
    *("authmechanismproperties", "password", "ssl_ca_data", "ssl_password", "tlscertificatekeyfilepassword"),
    "username",
})  # fmt: skip
"""Options whose values may contain any character; their names in lower case."""


def shown(name: str) -> str:
    """The name of an option, if a message may show it."""
    # Part of a password with an unescaped ? does not come here: an @ follows it, and `_check_escapes` refuses that.
    return name if re.fullmatch(r"[A-Za-z_]{1,40}", name) else "(not shown)"


def checked(name: str, check: Callable[[str], str], url: str) -> str:
    """Check a URL as its setting is checked, and return it.

    Args:
        name: the name of the setting, without `CACHEKEEPER_`.
        check: returns the URL to use, or raises ValueError.
        url: the URL of a server.

    Raises:
        SettingsError: `check` refuses the URL.
    """
    try:
        return check(url)
    except ValueError as error:
        raise SettingsError(f"CACHEKEEPER_{name}: {error}") from None
