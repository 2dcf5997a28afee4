"""Documents that drivers in other languages write, and that pymongo cannot read."""

from typing import Any

import bson
from bson.raw_bson import RawBSONDocument

GARBLED = "garbled here"
"""The text that `garbled` replaces."""


def garbled(document: dict[str, Any]) -> Any:
    """Return the document, as it goes to MongoDB, with bytes that are not UTF-8 in place of `GARBLED`."""
    return RawBSONDocument(bson.encode(document).replace(GARBLED.encode(), b"\xff" * len(GARBLED)))
