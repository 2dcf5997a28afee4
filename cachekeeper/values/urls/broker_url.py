"""The URL of a broker (RabbitMQ or Redis), and how TLS verifies that broker."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

from cachekeeper.values.urls.checking import UnusableUrl, check_url
from cachekeeper.values.urls.options import check_numbered_database, check_options, check_port, has_tls

if TYPE_CHECKING:
    from collections.abc import Mapping

_AMQP_OPTIONS = frozenset({"heartbeat", "login_method"})
_TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"})
_VERIFICATION = {
    **dict.fromkeys(("none", "CERT_NONE"), ssl.CERT_NONE),
    **dict.fromkeys(("optional", "CERT_OPTIONAL"), ssl.CERT_OPTIONAL),
    **dict.fromkeys(("required", "CERT_REQUIRED"), ssl.CERT_REQUIRED),
}


def broker_url(text: Any) -> str:
    """Check the URL of a broker and return it, as `check_url` does."""
    return check_url(str(text), ("amqp", "amqps", "redis", "rediss"), _check)


def _check(url: str) -> None:
    """Raise an error if publishers and workers cannot use `url` as their broker."""
    parts = urlsplit(url)
    check_port(url)
    options = check_options(url, _AMQP_OPTIONS if parts.scheme.startswith("amqp") else frozenset(), _TLS_OPTIONS)
    if parts.scheme.startswith("redis"):
        check_numbered_database(url)
    if options.get("ssl_cert_reqs", "none") not in _VERIFICATION:
        raise UnusableUrl("has a wrong ssl_cert_reqs: write required, optional or none")
    if options.get("ssl_check_hostname", "true").lower() not in {"true", "false"}:
        raise UnusableUrl("has a wrong ssl_check_hostname: write true or false")
    if not options.get("heartbeat", "0").isdecimal():
        raise UnusableUrl("has a wrong heartbeat: write a whole number of seconds")
    if options.get("login_method", "PLAIN") not in {"AMQPLAIN", "EXTERNAL", "PLAIN"}:
        raise UnusableUrl("has a wrong login_method: write AMQPLAIN, EXTERNAL or PLAIN")


def broker_tls(url: str) -> Mapping[str, Any] | None:
    """Return how TLS verifies the broker of a checked URL, by redis-py's option names; None if the scheme has no TLS.

    Unless the URL says otherwise, a trusted authority must have signed the broker's certificate, and the certificate
    must be for the URL's host.
    """
    parts = urlsplit(url)
    if not has_tls(parts.scheme):
        return None
    options = {name: value for name, (value, *_) in parse_qs(parts.query).items() if name in _TLS_OPTIONS}
    verification = _VERIFICATION[options.get("ssl_cert_reqs", "required")]
    named = options.get("ssl_check_hostname", "true").lower() == "true"
    return {
        **options,
        "ssl_cert_reqs": verification,
        "ssl_check_hostname": named and verification != ssl.CERT_NONE,
    }


def without_tls_options(url: str) -> str:
    """Return the URL of a broker without its TLS options, for kombu, which gets these options in another way."""
    parts = urlsplit(url)
    kept = [pair for pair in parse_qsl(parts.query) if pair[0] not in _TLS_OPTIONS]
    return urlunsplit(parts._replace(query=urlencode(kept)))
