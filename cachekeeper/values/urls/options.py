"""Checks for the URLs of Redis and of brokers: their options, certificates, port and database."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from cachekeeper.values.urls.checking import UnusableUrl, shown

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_options(url: str, known: frozenset[str], tls: frozenset[str]) -> Mapping[str, str]:
    """Return the options of a URL. Each must be known, occur once, and have a value.

    Args:
        url: the URL with its options.
        known: the names of options that it may have.
        tls: the names of more options, which it may have if its scheme has TLS.

    Raises:
        UnusableUrl: an option cannot be used.
    """
    parts = urlsplit(url)
    options = parse_qs(parts.query, keep_blank_values=True)
    for name, values in options.items():
        if name not in known | tls:
            may = ", ".join(sorted(known | (tls if has_tls(parts.scheme) else frozenset()))) or "none"
            raise UnusableUrl(f"has the unknown option {shown(name)}; it may have {may}")
        if name in tls and not has_tls(parts.scheme):
            raise UnusableUrl(f"has the option {name}, which needs TLS: begin the URL with {parts.scheme}s://")
        if len(values) > 1 or not values[0]:
            raise UnusableUrl(f"has the option {name} twice, or without a value: write it once, with a value")
    found = {name: value for name, (value,) in options.items()}
    _check_certificates(found)
    return found


def has_tls(scheme: str) -> bool:
    """Whether a scheme of Redis or of a broker uses TLS."""
    return scheme.partition("+")[0] in {"rediss", "amqps"}


def _check_certificates(options: Mapping[str, str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authorities, certificate, key = (options.get(f"ssl_{name}") for name in ("ca_certs", "certfile", "keyfile"))
    try:
        if authorities is not None:
            context.load_verify_locations(authorities)
    except (OSError, ValueError):
        raise UnusableUrl("has an ssl_ca_certs that is not a readable file of certificates") from None
    if key is not None and certificate is None:
        raise UnusableUrl("has an ssl_keyfile without an ssl_certfile: add the file of the certificate")
    try:
        if certificate is not None:  # without this password, OpenSSL would ask a terminal for the key's
            context.load_cert_chain(certificate, key, options.get("ssl_password", ""))
    except (OSError, ValueError):
        raise UnusableUrl("has an ssl_certfile or an ssl_keyfile that cannot be loaded: check both files") from None


def check_port(url: str) -> None:
    """Refuse a port on which no server can listen."""
    if urlsplit(url).port == 0:  # `port` raises if it is not a number, or too large
        raise UnusableUrl("has the port 0, on which no server can listen: write the server's port")


def check_numbered_database(url: str) -> None:
    """Refuse a Redis database that is not a number."""
    # redis-py reads anything else as 0, and kombu fails at its first connection.
    if not re.fullmatch(r"/?|/[0-9]+", urlsplit(url).path):
        raise UnusableUrl("must name its database by a number, as in redis://host:6379/0")
