"""Calls to a view's own code, its loader and its codec, with errors that name the view."""

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
"""Errors that a view's own code raises and that are passed on unchanged.

Every other error is one of that code, and becomes ViewFailed. This includes errors of this library about other ids and
texts.
"""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def encoded(view: str, codec: Codec[object], value: object) -> bytes:
    """Encode a value. Raises DamagedDocument, ViewFailed: the codec cannot encode it."""
    try:
        raw: object = codec.encode(value)
    except PASSED_ON:
        raise
    except Exception as error:
        raise failed(view, "codec (encoding a value)", error) from error
    raw = not_awaitable(view, "codec's encode", raw)
    if not isinstance(raw, bytes):
        raise ViewFailed(f"view {view}: its codec's encode must return bytes, got {type(raw).__name__}")
    return raw


def readable(view: str, codec: Codec[object], value: object) -> bytes:
    """Encode a loaded value, and decode it as a check: every hit on unreadable bytes would be a damaged value.

    Raises:
        DamagedDocument, ViewFailed: the codec cannot encode the value, or cannot decode it again.
    """
    raw = encoded(view, codec, value)
    decoded(view, codec, raw)
    return raw


def decoded(view: str, codec: Codec[T_co], raw: bytes) -> T_co:
    """Decode bytes that a load has just produced.

    Raises:
        ViewFailed: the codec raised. This includes `DamagedValue`: the bytes are not from a key.
    """
    try:
        value = codec.decode(raw)
    except Exception as error:
        raise failed(view, "codec (decoding what it had encoded)", error) from error
    return not_awaitable(view, "codec's decode", value)


def decoder_of(codec: Codec[T_co]) -> Callable[[bytes], T_co]:
    """The codec's `decode`, for hits. Their values are not checked, so an `async` decode is replaced by an error."""
    if not inspect.iscoroutinefunction(codec.decode):
        return codec.decode

    def decode(_: bytes) -> T_co:
        raise TypeError("the codec's decode must not be async")

    return decode


def not_awaitable(view: str, part: str, value: T) -> T:
    """Return `value`, the result of a view's own code. Raises ViewFailed: the result must be awaited."""
    if not inspect.isawaitable(value):
        return value
    if inspect.iscoroutine(value):
        value.close()  # else Python warns that it was never awaited
    raise ViewFailed(f"view {view}: its {part} returned a {type(value).__name__}: write it without async")


def failed(view: str, part: str, error: Exception) -> ViewFailed:
    """Make the error that names the view, and the part of its code that raised."""
    # Without the error's own text, which may hold a value.
    return ViewFailed(f"view {view}: its {part} raised {type(error).__name__}")


def is_of_the_document(error: ViewFailed, documents: object) -> bool:
    """Whether a view's code failed because a document is not readable BSON.

    A raw document is decoded only when a field is read, so that error appears inside the view's code.
    """
    if not isinstance(error.__cause__, BSONError):
        return False
    try:
        _read_all(documents)
    except BSONError:
        return True
    return False  # the code made the error itself, such as by `ObjectId("bad")`


def _read_all(value: object) -> None:
    if isinstance(value, Mapping):
        for inner in value.values():
            _read_all(inner)
    elif isinstance(value, list):
        for inner in value:
            _read_all(inner)


def damaged(view: str, collection: str, error: Exception | None = None) -> DamagedDocument:
    """Make the error that names the view and the collection of a document that cannot be cached."""
    # Documents are decoded when a field is read, and other drivers can store text that is not UTF-8.
    problem = (
        str(error)
        if isinstance(error, DamagedDocument)
        else "the document holds BSON that the driver cannot read, such as text that is not UTF-8; repair it"
    )
    return DamagedDocument(f"view {view}, collection {collection}: {problem}")
