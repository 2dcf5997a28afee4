"""The protocol's steps as values: the script, its keys, its arguments, and how to parse its answer.

A step does no I/O, so the sync store, a pipeline and an async store can run the same steps. The steps of an event may
be repeated at any time. An `acquire` must not be repeated: a first copy that arrives late would bring back a lease
that an event has destroyed. So no client sends it twice.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Generic, TypeVar

from cachekeeper.protocol.outcomes import (
    Acquired,
    Blocked,
    Changed,
    Expired,
    Filled,
    Found,
    Invalidated,
    LeaseTaken,
    Mended,
    Peeked,
    Readiness,
    Released,
    Stale,
)
from cachekeeper.values.keys import Template, meta_key

Outcome_co = TypeVar("Outcome_co", covariant=True)
Answer = Sequence[Any]
Argument = str | bytes | int


class Script:
    """One `.lua` file, after the prelude and the files that it needs."""

    def __init__(self, name: str, *rests_on: str) -> None:
        folder = resources.files("cachekeeper.protocol").joinpath("lua")
        self.name = name
        self.source = "".join(
            folder.joinpath(f"{each}.lua").read_text("utf-8") for each in ("prelude", *rests_on, name)
        )
        # The script's name on the server. It is computed here, because asking the server would cost a round trip.
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Step(Generic[Outcome_co]):
    """One script call. `keys[0]` decides the Cluster slot."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Argument, ...]
    parse: Callable[[Answer], Outcome_co]


@dataclass(frozen=True, slots=True)
class Value:
    """The result of a load, in the bytes that go to Redis.

    Attributes:
        raw: the plain value.
        version: its version; None if it has none.
        ends: when the value must end, in milliseconds since 1970; None if it has no end of its own.
    """

    raw: bytes
    version: int | None
    ends: int | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """The entry of a text in the filter. It is made before the text may be cached, so that a change finds the text.

    Attributes:
        filter_key: the view's `filter_key`.
        text: the text, folded.
        life_ms: the longest time that a lease plus the value filled under it can live.
    """

    filter_key: str
    text: str
    life_ms: int


_ACQUIRE = Script("acquire", "texts")
_FILL = Script("fill")
_RELEASE = Script("release")
_CHANGE = Script("change")
_INVALIDATE = Script("invalidate")
_INVALIDATE_WITHIN = Script("invalidate_within", "texts")
_EXPIRE = Script("expire")
_READ_UNTIL = Script("read_until")
_BLOCK = Script("block")
_READY = Script("ready")
_MEND = Script("mend")

# How many characters of a name begin a substring in one call. This limits how long one call blocks Redis.
STARTS_PER_CALL = 128


def new_nonce() -> str:
    """Return a random name for a lease. A counter would restart with the server, and then admit an old fill."""
    return secrets.token_hex(12)


def acquire(
    key: str, nonce: str, *, lease_ms: int, refresh: bool = False, registration: Registration | None = None
) -> Step[Found | LeaseTaken | Acquired]:
    """Compete for the right to load `key`. With `refresh`, also if `K` exists; with `registration`, for a text."""
    keys: tuple[str, ...] = (key, meta_key(key))
    args: tuple[Argument, ...] = (nonce, lease_ms, _flag(refresh))
    if registration is not None:
        keys = (*keys, registration.filter_key)
        args = (*args, registration.text, registration.life_ms)
    return Step(_ACQUIRE, keys, args, _read_acquire)


def fill(
    key: str, nonce: str, value: Value, *, ttl_ms: int, marker_ms: int, spare: bool = False
) -> Step[Filled | Stale]:
    """Write what was loaded under the lease `nonce`. With `spare`, keep a value that others have written meanwhile."""
    kind = "unversioned" if value.version is None else "versioned"
    version = "" if value.version is None else value.version
    ends = "" if value.ends is None else value.ends
    return Step(
        _FILL,
        (key, meta_key(key)),
        (nonce, kind, value.raw, version, ttl_ms, marker_ms, ends, _flag(spare)),
        _read_fill,
    )


def fill_absent(key: str, nonce: str, *, ttl_ms: int, spare: bool = False) -> Step[Filled | Stale]:
    """Note that the load under the lease `nonce` found nothing. Never writes a value; `spare` as for `fill`."""
    return Step(_FILL, (key, meta_key(key)), (nonce, "absent", "", "", ttl_ms, 0, "", _flag(spare)), _read_fill)


def release(key: str, nonce: str) -> Step[Released]:
    """Release a lease without a fill."""
    return Step(_RELEASE, (meta_key(key),), (nonce,), lambda answer: Released(_word(answer)))


def change(key: str, value: Value, *, ttl_ms: int, marker_ms: int) -> Step[Changed]:
    """Apply a change with a version, from an event. `value.version` must not be None."""
    if value.version is None:
        raise TypeError("value has no version: use invalidate, since a change without a version is an invalidation")
    ends = "" if value.ends is None else value.ends
    args = (value.version, value.raw, ttl_ms, marker_ms, ends)
    return Step(_CHANGE, (key, meta_key(key)), args, lambda answer: Changed(_word(answer)))


def invalidate(key: str) -> Step[Invalidated]:
    """Apply a change without a version, or drop one key of a view."""
    return Step(_INVALIDATE, (key, meta_key(key)), (), lambda answer: Invalidated(_word(answer)))


def invalidate_within(
    template: Template, limit: int, names: Sequence[str], *, filter_key: str
) -> list[Step[Invalidated]]:
    """Invalidate the key of every text of up to `limit` characters that occurs in one of `names` (folded).

    `filter_key` is the key of the filter in which the texts were registered.

    Long names are split into several steps, so that no step blocks Redis for long. That is safe: each key is deleted
    in one command with its metadata, and nothing is acknowledged before the last step.
    """
    pieces = [
        (STARTS_PER_CALL, name[start : start + STARTS_PER_CALL + limit - 1])
        for name in dict.fromkeys(names)
        for start in range(0, len(name), STARTS_PER_CALL)
    ]
    return [
        Step(
            _INVALIDATE_WITHIN,
            (filter_key,),
            (
                template.prefix,
                template.suffix,
                limit,
                *(part for piece in pieces[at : at + 2] for part in piece),
            ),
            lambda answer: Invalidated(_word(answer)),
        )
        for at in range(0, len(pieces), 2)
    ]


def expire(key: str, *, at_ms: int, keep_ms: int) -> Step[Expired]:
    """Let `K` live no longer than `at_ms`. The deadline is remembered for `keep_ms` beyond it."""
    return Step(_EXPIRE, (key, meta_key(key)), (at_ms, keep_ms), lambda answer: Expired(_word(answer)))


def read_until(key: str) -> Step[Found | Peeked]:
    """Read a key that other services write, too, and check its deadline."""
    return Step(_READ_UNTIL, (key, meta_key(key)), (), _read_peek)


def block(key: str, ends_ms: int | None) -> Step[Blocked]:
    """Block until `ends_ms`; None means forever."""
    return Step(_BLOCK, (key,), ("" if ends_ms is None else ends_ms,), lambda answer: Blocked(_word(answer)))


def declare_ready(warming_key: str, ready_key: str, nonce: str) -> Step[Readiness]:
    """Declare that Redis holds all live blocks, if no flush came during the warming that began with `nonce`."""
    return Step(_READY, (warming_key, ready_key), (nonce,), lambda answer: Readiness(_word(answer)))


def mend(meta: str) -> Step[Mended]:
    """Delete a metadata key that is not a hash, so that cachekeeper did not write it."""
    return Step(_MEND, (meta,), (), lambda answer: Mended(_word(answer)))


def _flag(wanted: bool) -> str:  # noqa: FBT001  # it converts a flag
    return "1" if wanted else ""


def _word(answer: Answer) -> str:
    word = answer[0]
    return word.decode() if isinstance(word, bytes) else str(word)


def _read_acquire(answer: Answer) -> Found | LeaseTaken | Acquired:
    word = _word(answer)
    if word == "found":
        return Found(answer[1])
    if word == "taken":
        return LeaseTaken(_word(answer[1:]), int(answer[2]))
    return Acquired(word)


def _read_fill(answer: Answer) -> Filled | Stale:
    word = _word(answer)
    return Stale(int(answer[1])) if word == "stale" else Filled(word)


def _read_peek(answer: Answer) -> Found | Peeked:
    word = _word(answer)
    return Found(answer[1]) if word == "found" else Peeked(word)
