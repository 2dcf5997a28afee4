"""Sources of views in MongoDB, as plain values: the query to run, and how to read the answer. No I/O here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final


class Absent(Enum):
    """The answer 'does not exist' of the database. It is neither a value nor an outage."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT

StoredDocument = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Find:
    """One query.

    Attributes:
        collection: its name.
        filter: MongoDB's filter.
        fields: the fields to return beside `_id`; None for all.
        limit: the most documents to return; 0 for all.
    """

    collection: str
    filter: Mapping[str, Any]
    fields: tuple[str, ...] | None = None
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """One document by its `_id`.

    Attributes:
        collection: its name.
        value: returns what the view caches of a document, or `ABSENT` where the document means 'does not exist'.
        fields: the fields that `value` reads.
        ends: a date field. From that date on the document counts as absent, and its value must not stay in the cache.
            None: the document has no such field.
    """

    collection: str
    value: Callable[[StoredDocument], object]
    fields: tuple[str, ...]
    ends: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """All documents that a text finds, with all their fields, in the order of `_id`.

    Attributes:
        collection: its name.
        filter: returns MongoDB's filter for a folded text.
        value: returns what the view caches of the documents.
    """

    collection: str
    filter: Callable[[str], Mapping[str, Any]]
    value: Callable[[Sequence[StoredDocument]], object] = list
