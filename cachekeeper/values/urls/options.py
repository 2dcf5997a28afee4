"""What is checked of the URLs of Redis and of brokers: their options, certificates, port and database."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from cachekeeper.values.urls.checking import NotTaken, shown

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_options(url: str, known: frozenset[str], tls: frozenset[str]) -> Mapping[str, str]:
    """The options of a URL, each of which must be known, once there, and have a value.

    Args:
        url: with its options.
        known: names of options.
        tls: more of them, for schemes with TLS.

    Raises:
        NotTaken: one of them cannot be used.
    """
    parts = urlsplit(url)
    options = parse_qs(parts.query, keep_blank_values=True)
    for name, values in options.items():
        if name not in known | tls:
            may = ", ".join(sorted(known | (tls if has_tls(parts.scheme) else frozenset()))) or "none"
            raise NotTaken(f"has the unknown option {shown(name)}; it may have {may}")
        if name in tls and not has_tls(parts.scheme):
            raise NotTaken(f"has {name}, which needs TLS: begin the URL with {parts.scheme}s://")
        if len(values) > 1 or not values[0]:
            raise NotTaken(f"has the option {name} twice, or without a value")
    found = {name: value for name, (value,) in options.items()}
    _check_certificates(found)
    return found


def has_tls(scheme: str) -> bool:
    """Whether a scheme of Redis or of a broker is one with TLS."""
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


def check_port(url: str) -> None:
    """Refuse a port on which no server listens."""
    if urlsplit(url).port == 0:  # which raises where it is no number, or too large
        raise NotTaken("has the port 0, on which no server listens")


def check_numbered_database(url: str) -> None:
    """Refuse the name of a database of Redis that is no number."""
    # redis-py takes anything else for 0, and kombu fails at its first connection.
    if not re.fullmatch(r"/?|/[0-9]+", urlsplit(url).path):
        raise NotTaken("must name its database by a number, as in redis://host:6379/0")
