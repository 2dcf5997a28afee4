"""Parts of MongoDB's update pipelines that the protocol needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def next_version(field: str) -> Mapping[str, Any]:
    """An expression for the next version of a document.

    The version rises with every write, and also when the document was removed and created again: it is never less than
    the time in milliseconds.

    Args:
        field: the document's version field.
    """
    before = f"${field}"
    return {
        "$max": [
            {"$add": [{"$cond": [{"$isNumber": before}, before, 0]}, 1]},
            {"$toLong": "$$NOW"},
        ]
    }
