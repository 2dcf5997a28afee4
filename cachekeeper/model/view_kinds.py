"""The data by which each kind of view answers for itself: what a key holds, and how the view is dropped."""

from enum import Enum, IntEnum


class Holds(Enum):
    """The content of a view's keys. It decides how the view is read, warmed and audited."""

    DOCUMENT = "document"
    """A value of one document."""
    TEXT = "text"
    """A value of all documents that a text finds."""
    BLOCK = "block"
    """A block, until it ends."""


class Drop(IntEnum):
    """How a view is dropped. Several views are dropped in this order: the last kind may have to wait for MongoDB."""

    READY = 0
    """Its *ready* key is deleted, so that an absent key no longer means 'not blocked'. One command, the most urgent."""
    KEYS = 1
    """Its keys are invalidated."""
    KEYS_OF_DOCUMENTS = 2
    """MongoDB is asked which keys have a document, and these are invalidated. Only Redis has the other values."""
