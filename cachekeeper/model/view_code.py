"""Calls of the code that a view brings along, its loader and its codec, whose mistakes name the view."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from bson.errors import BSONError

from cachekeeper.errors import DamagedDocument, Unavailable, ViewFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachekeeper.values.codecs import Codec

PASSED_ON = (DamagedDocument, Unavailable)
"""All else that a view's own code raises is its own, errors of ours for other ids and texts included."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def encoded(view: str, codec: Codec[object], value: object) -> bytes:
    """The bytes for a value. Raises DamagedDocument, ViewFailed: the codec cannot write it."""
    try:
        raw: object = codec.encode(value)
    except PASSED_ON:
        raise
    except Exception as error:
        raise failed(view, "codec, encoding a value,", error) from error
    raw = not_awaitable(view, "codec's encode", raw)
    if not isinstance(raw, bytes):
        raise ViewFailed(f"view {view}: its codec must give bytes, got {type(raw).__name__}")
    return raw


def readable(view: str, codec: Codec[object], value: object) -> bytes:
    """The bytes for a loaded value, once the codec has read them: else every hit on them would be damage.

    Raises:
        DamagedDocument, ViewFailed: the codec cannot write it, or not read it again.
    """
    raw = encoded(view, codec, value)
    decoded(view, codec, raw)
    return raw


def decoded(view: str, codec: Codec[T_co], raw: bytes) -> T_co:
    """The value in bytes that a load has just brought.

    Raises:
        ViewFailed: the codec raised, its own `DamagedValue` included: it is no damage at a key.
    """
    try:
        value = codec.decode(raw)
    except Exception as error:
        raise failed(view, "codec, decoding what it had encoded,", error) from error
    return not_awaitable(view, "codec's decode", value)


def decoder_of(codec: Codec[T_co]) -> Callable[[bytes], T_co]:
    """The codec's `decode` for hits, which are not looked at: one that is written with `async` raises instead."""
    if not inspect.iscoroutinefunction(codec.decode):
        return codec.decode

    def decode(_: bytes) -> T_co:
        raise TypeError("decode must not be a coroutine function")

    return decode


def not_awaitable(view: str, part: str, value: T) -> T:
    """`value`, which a view's own code gave. Raises ViewFailed: it is not the value yet, but must be awaited for it."""
    if not inspect.isawaitable(value):
        return value
    if inspect.iscoroutine(value):
        value.close()  # else Python warns that it was never awaited
    raise ViewFailed(f"view {view}: its {part} gave a {type(value).__name__}: write it without async")


def failed(view: str, part: str, error: Exception) -> ViewFailed:
    """The error that names the view and the part of its own code that raised."""
    # Without the error's own text, which may hold a value.
    return ViewFailed(f"view {view}: its {part} raised {type(error).__name__}")


def is_of_the_document(error: ViewFailed, documents: object) -> bool:
    """Whether a view's code failed for what no driver can read: raw documents are read when they are looked into."""
    if not isinstance(error.__cause__, BSONError):
        return False
    try:
        _read_all(documents)
    except BSONError:
        return True
    return False  # it is the code's own: `ObjectId("bad")`


def _read_all(value: object) -> None:
    if isinstance(value, Mapping):
        for inner in value.values():
            _read_all(inner)
    elif isinstance(value, list):
        for inner in value:
            _read_all(inner)


def damaged(view: str, collection: str, error: Exception | None = None) -> DamagedDocument:
    """The error that names the view and the collection of a document that cannot be cached."""
    # Documents are read field by field; other drivers store text that is not UTF-8.
    problem = str(error) if isinstance(error, DamagedDocument) else "the document holds what no driver can read"
    return DamagedDocument(f"view {view}, collection {collection}: {problem}")
