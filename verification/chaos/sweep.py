"""Compare every key in Redis with MongoDB after the drain. Keys are read raw, as other services do. Repairs nothing."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cachekeeper.values.keys import Template, key_of_meta, meta_key
from lookups import BLOCKED, SEARCH, SESSION, USER_NAME
from verification.chaos.checker import Violation
from verification.chaos.workload import BLOCK_SECONDS, ENDED, Kind, finds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from verification.chaos.stack import Stack
    from verification.chaos.workload import Change

TOLERANCE_MS = 2000
"""Milliseconds that may lie between the end of a block in Redis and the end that its document says. The script reads
the clock before the server's command does. In between the server may be paused, for no longer than this. The leeway is
30 times as long."""

_LOOKS = 6
_GRACE_SECONDS = 0.5  # a last copy of an event may be in flight
_READY_SECONDS = 30.0  # the blocklist is checked every second; in an outage it pauses at most 5 s

_VIEWS: Mapping[str, Template] = {
    Kind.USER: USER_NAME.template,
    Kind.SESSION: SESSION.template,
    Kind.TOKEN: BLOCKED.template,
    Kind.SEARCH: SEARCH.template,
}

_LIVES: Mapping[str, float] = {
    Kind.USER: USER_NAME.ttl_seconds,
    Kind.SESSION: SESSION.ttl_seconds,
    Kind.SEARCH: SEARCH.ttl_seconds,
}


@dataclass(frozen=True, slots=True)
class Held:
    """The content of Redis for one key.

    Attributes:
        kind, key: as in a read.
        raw: the answer of a plain GET; None for no value, an error for a key of another type.
        version: the version in the metadata, or None.
        ends: when the key expires, in milliseconds since 1970; None: never, or there is no such key.
        now: the time of Redis's clock, in milliseconds since 1970.
    """

    kind: str
    key: str
    raw: bytes | Exception | None
    version: int | None = None
    ends: int | None = None
    now: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """The documents of MongoDB that are looked up, by `_id`."""

    users: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    products: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sessions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    blocks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def await_ready(stack: Stack) -> str | None:
    """Wait until Redis is *ready*: it holds all blocks. Return the problem if it is not in time, else None."""
    give_up = time.monotonic() + _READY_SECONDS
    with stack.security.client() as client:
        while not client.exists(BLOCKED.ready_key):
            if time.monotonic() > give_up:
                return f"Redis was not *ready* within {_READY_SECONDS:g} s after the drain"
            time.sleep(0.02)
    return None


def sweep(stack: Stack, tag: str, changes: Sequence[Change], leeway: float) -> list[Violation]:
    """Return the violations in the keys of one run that are there at each of several looks.

    Args:
        stack: the servers.
        tag: the tag of the run.
        changes: the changes of the run's writers.
        leeway: seconds by which a block outlasts its token.
    """
    found: dict[tuple[str, tuple[str, str]], Violation] = {}
    for look in range(_LOOKS):
        if look:
            time.sleep(_GRACE_SECONDS)
        stored = _stored(stack)
        wrong = judge(_held(stack, tag, stored), stored, round(leeway * 1000)) + judge_committed(changes, stored)
        now = {(each.kind, each.key): each for each in wrong}
        found = now if not look else {each: now[each] for each in found if each in now}
        if not found:
            break
    return list(found.values())


def judge(held: Iterable[Held], stored: Stored, leeway_ms: int) -> list[Violation]:
    """Return the violations in these keys."""
    found: list[Violation] = []
    for each in held:
        key = (each.kind, each.key)
        if (text := _wrong_value(each, stored)) is not None:
            found.append(Violation("stuck", key, None, text))
        if each.raw is not None and (text := _outlives(each, stored)) is not None:
            found.append(Violation("ttls", key, None, text))
        if each.kind == Kind.TOKEN and each.raw is not None and (text := _wrong_end(each, stored, leeway_ms)):
            found.append(Violation("block_ttls", key, None, text))
        documents = {Kind.USER: stored.users, Kind.SESSION: stored.sessions}.get(each.kind, {})
        version = documents.get(each.key, {}).get("version")
        if each.version is not None and version is not None and each.version > version:
            text = f"its metadata has version {each.version}, but its document has {version}: every fill is refused"
            found.append(Violation("markers_ahead", key, None, text))
    return found


def judge_committed(changes: Iterable[Change], stored: Stored) -> list[Violation]:
    """Return violations: committed blocks that MongoDB lacks or ends too soon, and session ends that it lacks.

    A session that has ended only in Redis looks right until that Redis is flushed.
    """
    found: list[Violation] = []
    for change in changes:
        if change.kind == Kind.SESSION and change.number == ENDED and change.committed is not None:
            document = stored.sessions.get(change.key)
            if document is None or document.get("ended_at") is None or document.get("data") is not None:
                text = "the session has ended, but its document does not say so"
                found.append(Violation("lost", (Kind.SESSION, change.key), None, text))
        if change.kind == Kind.TOKEN and change.committed is not None:
            # The expiry was computed in whole seconds, less than one second before the change began.
            least = (change.wall[0] // 1000 - 1 + BLOCK_SECONDS) * 1000
            ends = _ms(stored.blocks.get(change.key, {}).get("expires_at"))
            if ends is None or ends < least:
                text = f"its document ends at {ends}, but the block must last until {least}"
                found.append(Violation("block_ttls", (Kind.TOKEN, change.key), None, text))
    return found


def _wrong_value(held: Held, stored: Stored) -> str | None:
    """Return how the answer of a plain GET differs from MongoDB, or None."""
    if held.kind == Kind.TOKEN:
        there, wanted = held.raw is not None, held.key in stored.blocks
        return None if there == wanted else f"blocked only in {'Redis' if there else 'MongoDB'}"
    if held.raw is None:
        return None
    try:
        value = _value(held)
    except ValueError:
        return f"a plain GET answers {held.raw!r}, which is not a value of its view"
    truth = _truth(held, stored)
    return None if value == truth else f"a plain GET answers {value!r}, MongoDB has {truth!r}"


def _value(held: Held) -> object:
    if not isinstance(held.raw, bytes):
        raise ValueError("the key has another Redis type")  # noqa: TRY004  # a Redis type, not a Python type
    text = held.raw.decode()
    return text if held.kind == Kind.USER else json.loads(text)


def _truth(held: Held, stored: Stored) -> object:
    """Compute the right value from the documents, without the product's code."""
    match held.kind:
        case Kind.USER:
            return stored.users.get(held.key, {}).get("name")
        case Kind.SESSION:
            document = stored.sessions.get(held.key, {})
            return None if document.get("ended_at") is not None else document.get("data")
        case _:
            products = [dict(stored.products[each]) for each in sorted(stored.products)]
            return [each for each in products if finds(held.key, str(each.get("name") or ""))]


def _wrong_end(held: Held, stored: Stored, leeway_ms: int) -> str | None:
    document = stored.blocks.get(held.key)
    if document is None:
        return None  # `_wrong_value` reports it
    ends = _ms(document.get("expires_at"))
    wanted = None if ends is None else ends + leeway_ms
    if held.ends is None or wanted is None:
        return None if held.ends is wanted else f"ends in Redis at {held.ends}, but must end at {wanted}"
    late = held.ends - wanted
    return None if abs(late) <= TOLERANCE_MS else f"ends {abs(late)} ms too {'late' if late > 0 else 'soon'}"


def _outlives(held: Held, stored: Stored) -> str | None:
    """Return how a value outlives its view's TTL, or a session its document; else None."""
    seconds = _LIVES.get(held.kind)
    if seconds is None:
        return None
    if held.ends is None:
        return "never expires"
    latest = held.now + round(seconds * 1000)
    if held.kind == Kind.SESSION and (ends := _ms(stored.sessions.get(held.key, {}).get("expires_at"))) is not None:
        latest = min(latest, ends)
    late = held.ends - latest
    return None if late <= TOLERANCE_MS else f"ends {late} ms too late"


def _ms(moment: object) -> int | None:
    return round(moment.timestamp() * 1000) if isinstance(moment, datetime) else None


def _stored(stack: Stack) -> Stored:
    names = ("users", "products", "sessions", "blocked_tokens")
    return Stored(*({each["_id"]: each for each in stack.database[name].find({})} for name in names))


def _held(stack: Stack, tag: str, stored: Stored) -> list[Held]:
    found: list[Held] = []
    for server in (stack.cache, stack.security):
        with server.client() as client:
            keys = {key_of_meta(key.decode("utf-8", "replace")) for key in client.scan_iter(count=1000)}
            mine = {(kind, part) for key in keys for kind, part in [_read_key(key)] if _is_of(tag, kind, part)}
            if server is stack.security:
                mine |= {(Kind.TOKEN, part) for part in stored.blocks}
            wanted = sorted(mine)
            pipe = client.pipeline(transaction=True)  # so that all answers are of one moment
            pipe.time()
            for kind, part in wanted:
                key = _VIEWS[kind].key(part)
                pipe.get(key)
                pipe.pttl(key)
                pipe.hget(meta_key(key), "v")
            (seconds, micros), *answers = pipe.execute(raise_on_error=False)
            now = seconds * 1000 + micros // 1000
            for (kind, part), raw, left, version in zip(
                wanted, answers[::3], answers[1::3], answers[2::3], strict=True
            ):
                known = int(version) if isinstance(version, bytes) else None
                found.append(Held(kind, part, raw, known, now + left if left >= 0 else None, now))
    return found


def _read_key(key: str) -> tuple[str, str]:
    """Return the kind and the id of a key, or two empty texts for a key of no view."""
    for kind, template in _VIEWS.items():
        if key.startswith(template.prefix) and key.endswith(template.suffix):
            return kind, key[len(template.prefix) : len(key) - len(template.suffix)]
    return "", ""


def _is_of(tag: str, kind: str, part: str) -> bool:
    """Whether the key is of this run. A late copy of the run before may have left a key without a document."""
    return kind == Kind.SEARCH or (bool(kind) and part.startswith(tag))
