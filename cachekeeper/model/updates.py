"""Pieces of MongoDB's update pipelines that keep what the protocol needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def next_version(field: str) -> Mapping[str, Any]:
    """An expression for a version field's next number.

    It rises with every write, across expiry and removal of the document, too: time never stands still for long.

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
