"""Changes of one document, as MongoDB's change stream reports them, and the events that they make. No I/O here."""

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
    """A value that the stream does not report. A later read of the document would show later changes, too."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN

OPERATIONS = frozenset({"insert", "update", "replace", "delete"})
"""The operations that change one document."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one document.

    Attributes:
        operation: `insert`, `update`, `replace` or `delete`.
        id: the document's id as it stands in keys; None where no key can hold its `_id`.
        label: the id as a text for information only; every document has one.
        time: when the change happened, by MongoDB's clock.
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
        """Make a change from a change document.

        Args:
            found: the change document, as the stream delivers it.
            ids: how an `_id` maps to the id in a key.
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
        """Whether this change may have changed the field. Only an update can report that it did not."""
        if self.operation != "update":
            return True
        inside = f"{field}."
        return any(name == field or name.startswith(inside) for name in self._names())

    def after(self, field: str) -> object:
        """The field's value after this change, or `ABSENT`, or `UNKNOWN`."""
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
        return _in(self._after, field)  # the document right after this change, if the server kept it

    def before(self, field: str) -> object:
        """The field's value before this change, or `ABSENT`, or `UNKNOWN`."""
        if self.operation == "insert":
            return ABSENT
        if self._before is None and not self.touches(field):
            return _in(self._after, field)
        return _in(self._before, field)

    def raised(self, field: str) -> int | None:
        """The version in `field` if this change raised it, else None.

        An event must not repeat the version of an earlier change: the protocol would take it for a duplicate of the
        earlier event, and ignore it.
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
    """The events that the changes of a collection make.

    Attributes:
        collection: its name.
        fields: the fields that `events` reads. The stream sends only these of the documents before and after.
        events: makes events from a change, without I/O. Where it raises `InvalidEvent`, every cached value of the
            collection is dropped.
        ids: how the collection's `_id`s map to ids.
        view: the name of a view. Where the setting `ID_TYPES` has an entry for it, that entry replaces `ids`.
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
