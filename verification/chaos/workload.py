"""What is changed and looked up. Every value names its key and its number, so that any answer can be judged."""

from __future__ import annotations

from typing import NamedTuple

USERS = 4
PRODUCTS = 4
SESSIONS = 4
WRITERS = 2
READERS = 2

WORDS = ("lamp", "desk", "sofa", "vase", "bulb")
TEXTS = (*WORDS, *(f"p{number}" for number in range(PRODUCTS)), "LAMP desk")
"""What is searched for."""

ENDED = 1_000_000
"""The number of a session's end: above that of every save."""

BLOCKED = "blocked"
"""The state of a token that is void."""

BLOCK_SECONDS = 2 * 3600
"""From the change that voids a token until it expires by itself. (A copy that is published later says an hour less.)"""

BOARD = SESSIONS + WRITERS
"""Numbers that writers share with readers: the generation of each session, how many tokens each writer has voided."""


def user_id(tag: str, number: int) -> str:
    """The id of a user of one run."""
    return f"{tag}u{number}"


def product_id(tag: str, number: int) -> str:
    """The id of a product of one run."""
    return f"{tag}p{number}"


def session_id(tag: str, number: int, generation: int) -> str:
    """The id of a session. One that has ended never comes back: the next generation does."""
    return f"{tag}s{number}.{generation}"


def token_id(tag: str, writer: int, number: int) -> str:
    """The id of a token."""
    return f"{tag}t{writer}.{number}"


def user_name(document_id: str, number: int) -> str:
    """The name that a user's change of this number sets."""
    return f"{document_id} #{number}"


def product_name(number: int, words: tuple[str, str]) -> str:
    """A product's name."""
    return f"{words[0].capitalize()} {words[1]} p{number}"


def finds(text: str, name: str) -> bool:
    """Whether a search for `text` finds a product of that name."""
    return text.lower() in name.lower()


class Kind:
    """Kinds of keys, short in journals."""

    USER = "u"
    SESSION = "s"
    TOKEN = "t"  # noqa: S105  # a kind of key
    PRODUCT = "p"
    SEARCH = "q"


class Read(NamedTuple):
    """One lookup.

    Attributes:
        kind: of `Kind`.
        key: the id or the text.
        started, ended: monotonic nanoseconds.
        found: a name or None; (id, number) or None; True or False; ((id, name, number), …).
        error: the type of the error in its place; it begins with `!` where no such error is allowed.
    """

    kind: str
    key: str
    started: int
    ended: int
    found: object
    error: str | None = None


class Change(NamedTuple):
    """One change of one key.

    Attributes:
        kind, key: as of a read; `Kind.PRODUCT` in the place of a search.
        number: counts the changes of the key from 1.
        state: what readers find then: a name, a number, `BLOCKED`; None for 'does not exist'.
        started: monotonic nanoseconds, before the first attempt.
        committed: monotonic nanoseconds, after MongoDB's acknowledgement; None: given up.
        wall: milliseconds since 1970 before and after it.
        event: the id of its event; None: another one makes it (the change stream), or none is needed.
        acknowledged: whether `committed` is the acknowledgement, too (`save_session`, `block_token`).
        refused: whether it was not made because the session has ended, as it should be.
    """

    kind: str
    key: str
    number: int
    state: str | int | None
    started: int
    committed: int | None
    wall: tuple[int, int]
    event: str | None = None
    acknowledged: bool = False
    refused: bool = False

    @property
    def given_up(self) -> bool:
        """Whether its writer tried until its time was up: nobody knows whether it was made."""
        return self.committed is None and not self.refused


class Ack(NamedTuple):
    """A worker's writes for an event have returned.

    Attributes:
        at: monotonic nanoseconds.
        event: its id.
        kind: of `Kind`.
        key: the id that it is about.
        name: the name that it carries.
        wall: when it happened, milliseconds since 1970.
        outbox: whether it came as a record of the outbox; else it is a plain copy, which nobody is promised.
    """

    at: int
    event: str
    kind: str
    key: str
    name: str | None
    wall: int
    outbox: bool = False
