"""What a view reads from MongoDB, as values: a query to run, and what to make of the answer. No I/O here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final


class Absent(Enum):
    """The database says that it does not exist. Distinct from every value, and from an outage."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT

StoredDocument = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Find:
    """One query.

    Attributes:
        collection: its name.
        filter: as MongoDB takes it.
        fields: the fields wanted beside `_id`; None for all.
        limit: at most so many documents; 0 for all.
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
        value: what the view caches of a document, or `ABSENT` where the document means 'does not exist'.
        fields: what `value` looks at.
        ends: a date field after which the document counts as absent, and its value may not stand; None for no such
        field.
    """

    collection: str
    value: Callable[[StoredDocument], object]
    fields: tuple[str, ...]
    ends: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """All documents that a text finds, in the order of `_id`, whole.

    Attributes:
        collection: its name.
        filter: from the folded text to what MongoDB takes.
        value: what the view caches of them.
    """

    collection: str
    filter: Callable[[str], Mapping[str, Any]]
    value: Callable[[Sequence[StoredDocument]], object] = list
