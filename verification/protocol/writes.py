"""The writes to the database, and the events that tell of them.

There are 42 legal sequences of three writes that begin with a document that has a version:

    U  an update that raises the version        always legal (after a deletion: re-creation, which goes on counting)
    S  a change that does not raise it          needs a document with a version
    N  a write that leaves no version behind    always legal (after a deletion: re-creation)
    D  deletion                                 needs a document

After 'has a version' four kinds may follow, after 'has no version' three (no S), after 'deleted' two (U, N). Over three
writes that makes 13 + 13 + 9 + 7 = 42. More kinds are for deadlines:

    X  a session ends: from then on the database has nothing; its event is `expire(now)`; only X may follow
    T  a deadline ahead is set, event `expire(at)`; values loaded or published from then on carry it as their own end
    t  the same, but only the event carries the deadline; the values do not
    P  the deadline passes (no event: it is acknowledged together with T); no write follows
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import NamedTuple

from verification.protocol.cells import Change, Deadline, Expire, Invalidate

Event = Change | Invalidate | Expire


class Write(NamedTuple):
    """One state of the database.

    Attributes:
        letter: its kind.
        text: a description for people.
        content: writes with equal contents give equal answers.
        present: False if a load finds nothing.
        version: the version that a load finds, if any.
        event: the published event; None if none is published.
        told_by: the write whose event acknowledges this one; None if it needs no acknowledgement.
        promises: whether that acknowledgement promises that no read gets an older answer. (A deadline ahead does not
            change the answer, and so promises nothing. The same holds for a change that leaves the answer as it was.)
    """

    letter: str
    text: str
    content: int
    present: bool
    version: int | None
    event: Event | None
    told_by: int | None
    promises: bool


class History(NamedTuple):
    """One sequence of writes; `writes[0]` is there from the beginning."""

    name: str
    writes: tuple[Write, ...]

    def ends(self, write: int, now: int) -> Deadline:
        """Return the own end of the value that `write` made, as seen at the time of write `now`."""
        letters = self.letters
        if "T" not in letters or write < letters.index("T"):
            return Deadline.NONE
        return Deadline.PAST if letters[now] == "P" else Deadline.AHEAD

    def event(self, write: int, now: int) -> Event:
        """Return the step for the event of `write`, if it arrives at the time of write `now`."""
        event = self.writes[write].event
        if isinstance(event, Change):
            return replace(event, ends=self.ends(write, now))
        if isinstance(event, Expire) and self.letters[now] == "P":
            return Expire(Deadline.PAST)
        if event is None:
            raise LookupError(f"write {write} publishes nothing")
        return event

    def same(self, one: int, other: int) -> bool:
        """Return whether two writes left the same answer."""
        return self.writes[one].content == self.writes[other].content

    @property
    def letters(self) -> str:
        return "".join(write.letter for write in self.writes)


class Publishing:
    """The rules by which a change becomes an event. A wrong variant overrides one of them."""

    def next_version(self, counted: int, *, present: bool) -> int:  # noqa: ARG002 - for variants
        """Return the version of the next update; `counted` is the highest version so far."""
        return counted + 1

    def of_same(self, write: int, version: int) -> Event:  # noqa: ARG002 - for variants
        """Return the event of a change that did not raise the version."""
        return Invalidate()

    def of_deletion(self, last: int | None) -> Event:  # noqa: ARG002 - for variants
        return Invalidate()

    def of_rename(self, *, old: bool, new: bool) -> Event | None:
        """Return the event of a rename. `old`, `new`: whether the search text occurs in the old and the new name."""
        return Invalidate() if old or new else None


RIGHT = Publishing()


def history(letters: str, publishing: Publishing = RIGHT) -> History:
    """Return the history of the writes `letters`, after a first document with version 1."""
    writes = [
        Write("·", "a document with version 1", 0, present=True, version=1, event=None, told_by=None, promises=True)
    ]
    counted = 1
    for at, letter in enumerate(letters, 1):
        before = writes[-1]
        version, present = before.version, before.present
        event: Event | None
        told_by: int | None = at
        match letter:
            case "U":
                version = publishing.next_version(counted, present=present)
                counted = max(counted, version)
                text = f"{'update' if present else 're-creation'}: version {version}"
                present, event = True, Change(version, at)
            case "S":
                if version is None:
                    raise ValueError(f"{letters}: S needs a document with a version before it")
                text, event = f"change that keeps version {version}", publishing.of_same(at, version)
            case "N":
                text = "a document without version"
                version, present, event = None, True, Invalidate()
            case "D":
                text, event = "deletion", publishing.of_deletion(version)
                version, present = None, False
            case "X":
                text, event = "the session ends", Expire(Deadline.PAST)
                version, present = None, False
            case "T" | "t":
                text, event = "a deadline is set", Expire(Deadline.AHEAD)
            case "P":
                text, event, told_by = "time passes the deadline", None, letters.lower().index("t") + 1
                version, present = None, False
            case _:
                raise ValueError(letter)
        content = before.content if letter in "Tt" else at
        writes.append(Write(letter, text, content, present, version, event, told_by, promises=letter not in "Tt"))
    return History(letters, tuple(writes))


_NEXT = {"versioned": "USND", "bare": "UND", "deleted": "UN"}
_AFTER = {"U": "versioned", "S": "versioned", "N": "bare", "D": "deleted"}


def legal(length: int, state: str = "versioned") -> list[str]:
    """Return all legal sequences of `length` writes of the kinds U, S, N, D."""
    if length == 0:
        return [""]
    return [kind + rest for kind in _NEXT[state] for rest in legal(length - 1, _AFTER[kind])]


SEQUENCES = legal(3)
# Sessions that end, and deadlines, with every change around them. `sessions` has no deletion event.
ENDINGS = [sequence + "X" for sequence in legal(2) if "D" not in sequence]
DEADLINES = [form.replace("*", kind) for form in ("*TP", "T*P", "*TX") for kind in "USN"]
TOLD_DEADLINES = [sequence.replace("T", "t") for sequence in DEADLINES]


def renames(publishing: Publishing = RIGHT) -> list[History]:
    """Return histories of one cached search and one product whose name changes three times.

    Each name contains the search text or not. If it does not, the answer is always the same one, without the product.
    Histories in which no name contains the text are left out.
    """
    histories = []
    for names in product((True, False), repeat=4):
        if not any(names):
            continue
        writes = []
        for at, new in enumerate(names):
            text = "product: its name holds the text" if new else "product: its name does not hold the text"
            event = publishing.of_rename(old=names[at - 1], new=new) if at else None
            untouched = at == 0 or not (names[at - 1] or new)
            told_by = None if event is None else at  # a change without effect on this search needs no acknowledgement
            content = at if new else -1
            writes.append(
                Write(
                    "r", text, content, present=True, version=None, event=event, told_by=told_by, promises=not untouched
                )
            )
        histories.append(History("".join("+" if name else "-" for name in names), tuple(writes)))
    return histories
