"""The URL of a MongoDB database, which pymongo can read."""

import re
import ssl
from typing import Any
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from pymongo import MongoClient
from pymongo.uri_parser import parse_uri as parse_mongodb_url
from pymongo.uri_parser import split_options as split_mongodb_options

from cachekeeper.values.urls.checking import NotTaken, check_url


def mongodb_url(text: Any) -> str:
    """The URL of a MongoDB database, as `check_url`."""
    return check_url(str(text), ("mongodb", "mongodb+srv"), _check)


def _check(url: str) -> None:
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
