"""The keys and values that writers change and readers look up. Each value names its key and number, to be judged."""

from __future__ import annotations

from typing import NamedTuple

USERS = 4
PRODUCTS = 4
SESSIONS = 4
WRITERS = 2
READERS = 2

WORDS = ("lamp", "desk", "sofa", "vase", "bulb")
TEXTS = (*WORDS, *(f"p{number}" for number in range(PRODUCTS)), "LAMP desk")
"""The texts that readers search for."""

ENDED = 1_000_000
"""The number of a session's end. It is higher than the number of every save."""

BLOCKED = "blocked"
"""The state of a blocked token."""

BLOCK_SECONDS = 2 * 3600
"""Seconds from the change that blocks a token until the token expires. (A copy published later says an hour less.)"""

BOARD = SESSIONS + WRITERS
"""Count of the numbers that writers share with readers: each session's generation, and each writer's blocked tokens."""


def user_id(tag: str, number: int) -> str:
    """The id of a user of one run."""
    return f"{tag}u{number}"


def product_id(tag: str, number: int) -> str:
    """The id of a product of one run."""
    return f"{tag}p{number}"


def session_id(tag: str, number: int, generation: int) -> str:
    """The id of a session. An ended session never comes back; the next generation takes its place."""
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
    """Kinds of keys, short for the journals."""

    USER = "u"
    SESSION = "s"
    TOKEN = "t"  # noqa: S105  # a kind of key
    PRODUCT = "p"
    SEARCH = "q"


class Read(NamedTuple):
    """One lookup.

    Attributes:
        kind: a kind of `Kind`.
        key: the id, or the search text.
        started, ended: monotonic nanoseconds.
        found: a name or None; (id, number) or None; True or False; ((id, name, number), …).
        error: the type of the error if there was no answer. It begins with `!` if that error is not allowed.
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
        kind, key: as in a read, but with `Kind.PRODUCT` instead of a search.
        number: counts the changes of the key from 1.
        state: what readers find afterwards: a name, a number, `BLOCKED`; None for 'does not exist'.
        started: monotonic nanoseconds, before the first attempt.
        committed: monotonic nanoseconds, after MongoDB's acknowledgement; None: given up or refused.
        wall: milliseconds since 1970, before and after the change.
        event: the id of its event; None if the change stream makes the event. An acknowledged change needs no event.
        acknowledged: whether the commit is also the acknowledgement (`save_session`, `block_token`).
        refused: whether the product rightly refused it because the session has ended.
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
        """Whether its writer gave up after its time limit. It is then unknown whether the change was made."""
        return self.committed is None and not self.refused


class Ack(NamedTuple):
    """A worker's writes for an event have returned.

    Attributes:
        at: monotonic nanoseconds.
        event: the id of the event.
        kind: a kind of `Kind`.
        key: the id that the event is about.
        name: the name that the event carries.
        wall: the event's time, milliseconds since 1970.
        outbox: whether it came as a record of the outbox. Else it is a plain copy, which is not promised to arrive.
    """

    at: int
    event: str
    kind: str
    key: str
    name: str | None
    wall: int
    outbox: bool = False
