"""What operators write into settings: text without blanks around it, and URLs that their own libraries can read.

No message here quotes what was given: it may hold a password.
"""

from __future__ import annotations

import re
import ssl
import unicodedata
from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, parse_qsl, unquote, unquote_plus, urlencode, urlsplit, urlunsplit

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri as parse_mongodb_url
from pymongo.uri_parser import split_options as split_mongodb_options
from redis import ConnectionPool, RedisError
from redis.connection import SSLConnection
from redis.connection import parse_url as parse_redis_url

_HIDDEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
"""Unicode's categories of what cannot be seen: control characters, what has no width, what is not assigned or for
private use, ends of lines. Also bytes of the environment that are no UTF-8."""

_FILLERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters, marks and a sign of other categories that cannot be seen either (Unicode: default ignorable)."""

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
            if _is_hidden(character):
                raise ValueError(
                    f"has a character inside that cannot be seen (U+{ord(character):04X}): write it without"
                )
    return text


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN or _FILLERS.match(character) is not None


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
        if any(_is_blank(character) or _is_hidden(character) for character in plain):
            raise ValueError("has a blank or what cannot be seen, escaped, in its host or its database")
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        plain = stripped(text)
        if name.lower() not in _FREE_TEXT and (plain != text or any(map(_is_hidden, plain))):
            raise ValueError(f"has the option {_shown(name)} with a blank at its end, or with what cannot be seen")


_FREE_TEXT = frozenset({
    *("authmechanismproperties", "password", "ssl_ca_data", "ssl_password", "tlscertificatekeyfilepassword"),
    "username",
})  # fmt: skip
"""Options, in small letters, whose values are as they are."""


def _shown(name: str) -> str:
    # A name as options have it can be no part of a password: that would have an @ behind it.
    return name if re.fullmatch(r"[A-Za-z_]{1,40}", name) else "(not shown)"


# Whatever else a URL sets would win over what this library sets, time limits and retries among them.
_REDIS_OPTIONS = frozenset(
    {"client_name", "db", "health_check_interval", "max_connections", "password", "socket_keepalive", "username"}
)
# redis-py does not look at ssl_validate_ocsp where it is text, and for a stapled answer needs objects and pyOpenSSL.
_REDIS_TLS = frozenset(name for name in signature(SSLConnection).parameters if re.match("ssl_(?!.*ocsp)", name))
_AMQP_OPTIONS = frozenset({"heartbeat", "login_method"})
_BROKER_TLS = frozenset({"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"})
_VERIFICATION = {
    **dict.fromkeys(("none", "CERT_NONE"), ssl.CERT_NONE),
    **dict.fromkeys(("optional", "CERT_OPTIONAL"), ssl.CERT_OPTIONAL),
    **dict.fromkeys(("required", "CERT_REQUIRED"), ssl.CERT_REQUIRED),
}


def check_redis(url: str) -> None:
    """Raise what keeps a client of Redis from being made with `url`."""
    scheme = urlsplit(url).scheme
    plain = url.replace("+cluster://", "://", 1)
    found = _check_options(url, _REDIS_OPTIONS, _REDIS_TLS)
    if scheme != "unix":
        _check_port(url)
        _check_database(url)
    if not re.fullmatch(r"[0-9]+", found.get("db", "0")):
        raise NotTaken("has a db that is no number of a database, such as 0")
    if "db" in found and scheme != "unix" and urlsplit(url).path.strip("/"):
        raise NotTaken("names its database twice, in its path and by db")
    for name in ("health_check_interval", "max_connections"):
        if not re.fullmatch(r"[0-9]{1,9}", found.get(name, "0")):
            raise NotTaken(f"has a {name} that is no whole number, or too large")
    if not _PLAIN.fullmatch(found.get("client_name", "-")):
        raise NotTaken("has a client_name with blanks or letters that are not ASCII, which Redis refuses")
    options = parse_redis_url(plain)  # type: ignore[no-untyped-call]  # redis-py types it not
    if scheme.endswith("+cluster") and options.get("db"):
        raise NotTaken("must not name a database: a Cluster has only the first")
    connection = ConnectionPool.from_url(plain).make_connection()  # to nothing yet; it refuses wrong values
    if isinstance(connection, SSLConnection):
        _check_tls(connection)


def _check_tls(connection: SSLConnection) -> None:
    """Make the TLS context as redis-py does once it is connected: there, what is wrong is an error of every lookup."""
    context = ssl.create_default_context()
    path = connection.ca_path
    if path is not None and not Path(path).is_dir():
        raise NotTaken("has an ssl_ca_path that is no directory")
    for name, value, use in (
        ("ssl_ca_data", connection.ca_data, lambda data: context.load_verify_locations(cadata=data)),
        ("ssl_min_version", connection.ssl_min_version, partial(setattr, context, "minimum_version")),
        ("ssl_ciphers", connection.ssl_ciphers, context.set_ciphers),
    ):
        try:
            if value is not None:
                use(value)
        except (OSError, OverflowError, TypeError, ValueError):
            raise NotTaken(f"has an {name} that OpenSSL does not take; {_EXAMPLES[name]}") from None


_EXAMPLES = {
    "ssl_ca_data": "it is certificates as PEM text, escaped",
    "ssl_min_version": "771 is TLS 1.2, and 772 is 1.3",
    "ssl_ciphers": "write names as OpenSSL lists them, with : between",
}


def _check_options(url: str, known: frozenset[str], tls: frozenset[str]) -> Mapping[str, str]:
    """The options of a URL, each of which must be known, once there, and have a value.

    Args:
        url: with its options.
        known: names of options.
        tls: more of them, for schemes with TLS.
    """
    parts = urlsplit(url)
    options = parse_qs(parts.query, keep_blank_values=True)
    for name, values in options.items():
        if name not in known | tls:
            may = ", ".join(sorted(known | (tls if _has_tls(parts.scheme) else frozenset()))) or "none"
            raise NotTaken(f"has the unknown option {_shown(name)}; it may have {may}")
        if name in tls and not _has_tls(parts.scheme):
            raise NotTaken(f"has {name}, which needs TLS: begin the URL with {parts.scheme}s://")
        if len(values) > 1 or not values[0]:
            raise NotTaken(f"has the option {name} twice, or without a value")
    found = {name: value for name, (value,) in options.items()}
    _check_certificates(found)
    return found


def _has_tls(scheme: str) -> bool:
    return scheme.partition("+")[0] in {"rediss", "amqps"}


def _check_certificates(options: Mapping[str, str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authorities, certificate, key = (options.get(f"ssl_{name}") for name in ("ca_certs", "certfile", "keyfile"))
    try:
        if authorities is not None:
            context.load_verify_locations(authorities)
    except (OSError, ValueError):
        raise NotTaken("has an ssl_ca_certs that is no file with certificates") from None
    if key is not None and certificate is None:
        raise NotTaken("has an ssl_keyfile without an ssl_certfile")
    try:
        if certificate is not None:  # without a password given, OpenSSL would ask a terminal for that of a key
            context.load_cert_chain(certificate, key, options.get("ssl_password", ""))
    except (OSError, ValueError):
        raise NotTaken("has an ssl_certfile or an ssl_keyfile that cannot be read") from None


def _check_port(url: str) -> None:
    if urlsplit(url).port == 0:  # which raises where it is no number, or too large
        raise NotTaken("has the port 0, on which no server listens")


def _check_database(url: str) -> None:
    # redis-py takes anything else for 0, and kombu fails at its first connection.
    if not re.fullmatch(r"/?|/[0-9]+", urlsplit(url).path):
        raise NotTaken("must name its database by a number, as in redis://host:6379/0")


def check_broker(url: str) -> None:
    """Raise what keeps publishers and workers from using `url` as their broker."""
    parts = urlsplit(url)
    _check_port(url)
    options = _check_options(url, _AMQP_OPTIONS if parts.scheme.startswith("amqp") else frozenset(), _BROKER_TLS)
    if parts.scheme.startswith("redis"):
        _check_database(url)
    if options.get("ssl_cert_reqs", "none") not in _VERIFICATION:
        raise NotTaken("must have required, optional or none as its ssl_cert_reqs")
    if options.get("ssl_check_hostname", "true").lower() not in {"true", "false"}:
        raise NotTaken("must have true or false as its ssl_check_hostname")
    if not options.get("heartbeat", "0").isdecimal():
        raise NotTaken("must have a whole number of seconds as its heartbeat")
    if options.get("login_method", "PLAIN") not in {"AMQPLAIN", "EXTERNAL", "PLAIN"}:
        raise NotTaken("has a login_method that is none of AMQPLAIN, EXTERNAL, PLAIN")


def broker_tls(url: str) -> Mapping[str, Any] | None:
    """How the broker of a checked URL is verified, by redis-py's names; None where its scheme has no TLS.

    Its certificate must be of an authority that is trusted, and of its host, unless the URL says otherwise.
    """
    parts = urlsplit(url)
    if not _has_tls(parts.scheme):
        return None
    options = {name: value for name, (value, *_) in parse_qs(parts.query).items() if name in _BROKER_TLS}
    verification = _VERIFICATION[options.get("ssl_cert_reqs", "required")]
    named = options.get("ssl_check_hostname", "true").lower() == "true"
    return {
        **options,
        "ssl_cert_reqs": verification,
        "ssl_check_hostname": named and verification != ssl.CERT_NONE,
    }


def without_tls_options(url: str) -> str:
    """The URL of a broker as kombu is given it, which has a word of its own about those options."""
    parts = urlsplit(url)
    kept = [pair for pair in parse_qsl(parts.query) if pair[0] not in _BROKER_TLS]
    return urlunsplit(parts._replace(query=urlencode(kept)))


def check_mongodb(url: str) -> None:
    """Raise what keeps a client of MongoDB from being made with `url`, or where it names no database."""
    path = urlsplit(url).path
    if not path.strip("/"):
        raise NotTaken("must name its database, as in mongodb://host:27017/shop")
    # MongoDB takes more: also `shop;` and, for a forgotten question mark, `shop&w=1`.
    if not re.fullmatch(r"/[\w-]+", unquote_plus(path)):
        raise NotTaken("must name a database of letters, digits, - and _, with ? before its options")
    if url.startswith("mongodb+srv:"):
        url = _without_srv(url)
    options = parse_mongodb_url(url, warn=False)["options"]
    if "tlsCertificateKeyFile" in options:  # without a password given, OpenSSL would ask a terminal for that of a key
        password = options.get("tlsCertificateKeyFilePassword", "")
        ssl.create_default_context().load_cert_chain(options["tlsCertificateKeyFile"], password=password)
    client: MongoClient[Any] = MongoClient(url, connect=False)  # makes the TLS context, and connects to nothing
    client.close()


def _without_srv(url: str) -> str:
    """A `mongodb+srv` URL as one without, so that it can be checked and the name server is not asked."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if "," in host or ":" in host or re.fullmatch(r"[0-9.]+", host):
        raise NotTaken(
            "must name one host and no port, as in mongodb+srv://db.example.com/shop: the name server has the rest"
        )
    options = split_mongodb_options(parts.query, warn=False) if parts.query else {}
    if options.get("directConnection"):
        raise NotTaken("has directConnection, which mongodb+srv:// does not take")
    if options.get("srvMaxHosts") and (options.get("replicaSet") or options.get("loadBalanced")):
        raise NotTaken("has srvMaxHosts, which goes with neither replicaSet nor loadBalanced")
    if "srvServiceName" in options and not re.fullmatch(r"[A-Za-z0-9-]{1,15}", options["srvServiceName"]):
        raise NotTaken("has an srvServiceName that is no name of a service")
    kept = [part for part in parts.query.split("&") if not part.lower().startswith("srv")]
    return urlunsplit(parts._replace(scheme="mongodb", query="&".join(kept)))


def redis_url(text: Any) -> str:
    """The URL of a Redis server or Cluster, as `check_url`."""
    return check_url(str(text), ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster"), check_redis)


def broker_url(text: Any) -> str:
    """The URL of a broker, as `check_url`."""
    return check_url(str(text), ("amqp", "amqps", "redis", "rediss"), check_broker)


def mongodb_url(text: Any) -> str:
    """The URL of a MongoDB database, as `check_url`."""
    return check_url(str(text), ("mongodb", "mongodb+srv"), check_mongodb)
