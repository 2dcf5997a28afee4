"""Changes: what MongoDB's change stream tells of one document, and which events that makes. No I/O here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from cachekeeper.errors import InvalidId
from cachekeeper.model.events import Event
from cachekeeper.model.sources import ABSENT
from cachekeeper.values.ids import IdType, check_id
from cachekeeper.values.versions import as_version


class Unknown(Enum):
    """The stream does not tell, and a later look at the document would tell of later changes."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN

OPERATIONS = frozenset({"insert", "update", "replace", "delete"})
"""Those that change one document."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one document.

    Attributes:
        operation: `insert`, `update`, `replace` or `delete`.
        id: the id by which keys know the document; None where its `_id` can be in none.
        label: the id for the record only: some text for every document.
        time: when, by MongoDB's clock.
    """

    operation: str
    id: str | None
    label: str
    time: datetime
    _after: Mapping[str, Any] | None
    _before: Mapping[str, Any] | None
    _updated: Mapping[str, Any]
    _removed: frozenset[str]
    _truncated: frozenset[str]

    @classmethod
    def of(cls, found: Mapping[str, Any], ids: IdType) -> Change:
        """Read what the stream has.

        Args:
            found: a change document.
            ids: how an `_id` maps to the id of a key.
        """
        document_id = found["documentKey"]["_id"]
        told = found.get("updateDescription") or {}
        time = found.get("wallTime")
        return cls(
            operation=found["operationType"],
            id=ids.text(document_id),
            label=_label(document_id),
            time=time if isinstance(time, datetime) else datetime.now(UTC),
            _after=found.get("fullDocument"),
            _before=found.get("fullDocumentBeforeChange"),
            _updated=told.get("updatedFields") or {},
            _removed=frozenset(told.get("removedFields") or ()),
            _truncated=frozenset(array["field"] for array in told.get("truncatedArrays") or ()),
        )

    def touches(self, field: str) -> bool:
        """Whether the field may be another now. Only an update can tell that it is not."""
        if self.operation != "update":
            return True
        inside = f"{field}."
        return any(name == field or name.startswith(inside) for name in self._names())

    def after(self, field: str) -> object:
        """What the field held after this change: a value, `ABSENT`, or `UNKNOWN`."""
        if self.operation == "delete":
            return ABSENT
        if self.operation != "update":
            return _in(self._after, field)
        if field in self._updated:
            return self._updated[field]
        if field in self._removed:
            return ABSENT
        if self._after is None and not self.touches(field):
            return _in(self._before, field)
        return _in(self._after, field)  # of this very change: the server keeps it, or says nothing

    def before(self, field: str) -> object:
        """What the field held before this change: a value, `ABSENT`, or `UNKNOWN`."""
        if self.operation == "insert":
            return ABSENT
        if self._before is None and not self.touches(field):
            return _in(self._after, field)
        return _in(self._before, field)

    def raised(self, field: str) -> int | None:
        """The version in `field` if this change raised it, else None.

        A version that an earlier change brought must not come with this one: the protocol would take it for a
        duplicate of that one, and ignore it.
        """
        if self.operation == "update" and field not in self._updated:
            return None
        version, before = as_version(self.after(field)), self.before(field)
        if before is UNKNOWN:
            return version if self.operation == "update" else None
        old = as_version(before)
        return version if version is None or old is None or version > old else None

    def _names(self) -> Iterable[str]:
        yield from self._updated
        yield from self._removed
        yield from self._truncated


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What the changes of a collection mean.

    Attributes:
        collection: its name.
        fields: those that `events` looks at; of the documents before and after, no others are sent.
        events: from a change to events, without I/O. Where it raises `InvalidEvent`, everything cached of the
            collection is dropped.
        ids: how its `_id`s map to ids.
        view: the name of a view by which the setting `ID_TYPES` may say something else.
    """

    collection: str
    fields: tuple[str, ...]
    events: Callable[[Change], Iterable[Event]]
    ids: IdType = IdType.AUTO
    view: str | None = None


def _in(document: Mapping[str, Any] | None, field: str) -> object:
    return UNKNOWN if document is None else document.get(field, ABSENT)


def _label(document_id: object) -> str:
    try:
        return check_id(str(document_id))
    except InvalidId:
        return "unnameable"
