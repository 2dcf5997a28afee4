"""The URL of a broker, RabbitMQ or Redis, and how TLS verifies that broker."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

from cachekeeper.values.urls.checking import NotTaken, check_url
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
    """The URL of a broker, as `check_url`."""
    return check_url(str(text), ("amqp", "amqps", "redis", "rediss"), _check)


def _check(url: str) -> None:
    """Raise what keeps publishers and workers from using `url` as their broker."""
    parts = urlsplit(url)
    check_port(url)
    options = check_options(url, _AMQP_OPTIONS if parts.scheme.startswith("amqp") else frozenset(), _TLS_OPTIONS)
    if parts.scheme.startswith("redis"):
        check_numbered_database(url)
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
    """The URL of a broker as kombu is given it, which has a word of its own about those options."""
    parts = urlsplit(url)
    kept = [pair for pair in parse_qsl(parts.query) if pair[0] not in _TLS_OPTIONS]
    return urlunsplit(parts._replace(query=urlencode(kept)))
