"""The URL of a MongoDB database, which pymongo can read."""

import re
import ssl
from typing import Any
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from pymongo import MongoClient
from pymongo.uri_parser import parse_uri as parse_mongodb_url
from pymongo.uri_parser import split_options as split_mongodb_options

from cachekeeper.values.urls.checking import UnusableUrl, check_url


def mongodb_url(text: Any) -> str:
    """Check the URL of a MongoDB database and return it, as `check_url` does."""
    return check_url(str(text), ("mongodb", "mongodb+srv"), _check)


def _check(url: str) -> None:
    """Raise an error if no MongoDB client can be made with `url`, or if it does not name a database."""
    path = urlsplit(url).path
    if not path.strip("/"):
        raise UnusableUrl("must name its database, as in mongodb://host:27017/shop")
    # MongoDB accepts more names: also `shop;` and, if the question mark is missing, `shop&w=1`.
    if not re.fullmatch(r"/[\w-]+", unquote_plus(path)):
        raise UnusableUrl("must name a database with letters, digits, - and _ only; write ? before the options")
    if url.startswith("mongodb+srv:"):
        url = _without_srv(url)
    options = parse_mongodb_url(url, warn=False)["options"]
    if "tlsCertificateKeyFile" in options:  # without this password, OpenSSL would ask a terminal for the key's
        password = options.get("tlsCertificateKeyFilePassword", "")
        ssl.create_default_context().load_cert_chain(options["tlsCertificateKeyFile"], password=password)
    client: MongoClient[Any] = MongoClient(url, connect=False)  # makes the TLS context and does not connect
    client.close()


def _without_srv(url: str) -> str:
    """Turn a `mongodb+srv` URL into a `mongodb` URL, so that it can be checked without asking the name server."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    if "," in host or ":" in host or re.fullmatch(r"[0-9.]+", host):
        raise UnusableUrl(
            "must name one host and no port, as in mongodb+srv://db.example.com/shop: the name server knows the rest"
        )
    options = split_mongodb_options(parts.query, warn=False) if parts.query else {}
    if options.get("directConnection"):
        raise UnusableUrl("has directConnection, which mongodb+srv:// does not allow: remove the option")
    if options.get("srvMaxHosts") and (options.get("replicaSet") or options.get("loadBalanced")):
        raise UnusableUrl("has srvMaxHosts together with replicaSet or loadBalanced: remove one of the two")
    if "srvServiceName" in options and not re.fullmatch(r"[A-Za-z0-9-]{1,15}", options["srvServiceName"]):
        raise UnusableUrl("has a wrong srvServiceName: write 1 to 15 letters, digits and -")
    kept = [part for part in parts.query.split("&") if not part.lower().startswith("srv")]
    return urlunsplit(parts._replace(scheme="mongodb", query="&".join(kept)))
