"""After the drain: every key in Redis, read raw as services in other languages do, against MongoDB. Repairs nothing."""

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
"""Between the end of a block in Redis and its document's. The script adds to a clock that it reads before the server's
command does; between the two the server may be frozen, for no longer than that. The leeway is 30 times as long."""

_LOOKS = 6
_GRACE_SECONDS = 0.5  # a last copy of an event may be in some worker's hands
_READY_SECONDS = 30.0  # the blocklist is looked at every second, its pauses in an outage are of 5 s at most

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
    """What Redis holds for one key.

    Attributes:
        kind, key: as of a read.
        raw: what a plain GET answers; None for nothing, an error for a key of another type.
        version: in the metadata; None for none.
        ends: when the key ends, milliseconds since 1970; None: never, or it is not there.
        now: by Redis's clock, the same.
    """

    kind: str
    key: str
    raw: bytes | Exception | None
    version: int | None = None
    ends: int | None = None
    now: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """What MongoDB holds: documents by `_id`, of those that are looked up."""

    users: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    products: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sessions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    blocks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def await_ready(stack: Stack) -> str | None:
    """Wait until Redis says that it holds all blocks; what is wrong, or None."""
    give_up = time.monotonic() + _READY_SECONDS
    with stack.security.client() as client:
        while not client.exists(BLOCKED.ready_key):
            if time.monotonic() > give_up:
                return f"Redis was not ready within {_READY_SECONDS:g} s of the drain"
            time.sleep(0.02)
    return None


def sweep(stack: Stack, tag: str, changes: Sequence[Change], leeway: float) -> list[Violation]:
    """What is wrong with the keys of one run at each of several looks.

    Args:
        stack: whose.
        tag: the run's.
        changes: of its writers.
        leeway: seconds that a block outlasts its token.
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
    """What is wrong with these keys."""
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
            text = f"its metadata knows version {each.version}, its document has {version}: every fill is refused"
            found.append(Violation("markers_ahead", key, None, text))
    return found


def judge_committed(changes: Iterable[Change], stored: Stored) -> list[Violation]:
    """Whether MongoDB has each block that was committed, for as long as it was asked for, and the end of each session.

    A session that has ended in Redis alone looks right, until that Redis is flushed.
    """
    found: list[Violation] = []
    for change in changes:
        if change.kind == Kind.SESSION and change.number == ENDED and change.committed is not None:
            document = stored.sessions.get(change.key)
            if document is None or document.get("ended_at") is None or document.get("data") is not None:
                text = "has ended, and its document says nothing of that"
                found.append(Violation("lost", (Kind.SESSION, change.key), None, text))
        if change.kind == Kind.TOKEN and change.committed is not None:
            # Whole seconds, taken before the change began by less than one.
            least = (change.wall[0] // 1000 - 1 + BLOCK_SECONDS) * 1000
            ends = _ms(stored.blocks.get(change.key, {}).get("expires_at"))
            if ends is None or ends < least:
                text = f"its document ends at {ends}, and was to stand until {least}"
                found.append(Violation("block_ttls", (Kind.TOKEN, change.key), None, text))
    return found


def _wrong_value(held: Held, stored: Stored) -> str | None:
    """What a plain GET tells that MongoDB does not."""
    if held.kind == Kind.TOKEN:
        there, wanted = held.raw is not None, held.key in stored.blocks
        return None if there == wanted else f"blocked in {'Redis' if there else 'MongoDB'} alone"
    if held.raw is None:
        return None
    try:
        value = _value(held)
    except ValueError:
        return f"a plain GET answers {held.raw!r}, which is no such value"
    truth = _truth(held, stored)
    return None if value == truth else f"a plain GET answers {value!r}, MongoDB has {truth!r}"


def _value(held: Held) -> object:
    if not isinstance(held.raw, bytes):
        raise ValueError("it is of another type")  # noqa: TRY004  # of Redis's, not Python's
    text = held.raw.decode()
    return text if held.kind == Kind.USER else json.loads(text)


def _truth(held: Held, stored: Stored) -> object:
    """What the value has to be, by the harness's own reading of the documents."""
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
        return None  # that is told already
    ends = _ms(document.get("expires_at"))
    wanted = None if ends is None else ends + leeway_ms
    if held.ends is None or wanted is None:
        return None if held.ends is wanted else f"ends in Redis at {held.ends}, was to at {wanted}"
    late = held.ends - wanted
    return None if abs(late) <= TOLERANCE_MS else f"ends {abs(late)} ms too {'late' if late > 0 else 'soon'}"


def _outlives(held: Held, stored: Stored) -> str | None:
    """Whether a value lives longer than its view's values, or a session longer than its document."""
    seconds = _LIVES.get(held.kind)
    if seconds is None:
        return None
    if held.ends is None:
        return "never ends"
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
            pipe = client.pipeline(transaction=True)  # one moment for all of them
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
    """Which view's it is, and of what; the empty text for none of them."""
    for kind, template in _VIEWS.items():
        if key.startswith(template.prefix) and key.endswith(template.suffix):
            return kind, key[len(template.prefix) : len(key) - len(template.suffix)]
    return "", ""


def _is_of(tag: str, kind: str, part: str) -> bool:
    """Whether it is of this run: a late copy of the run before may have left a key whose document has been removed."""
    return kind == Kind.SEARCH or (bool(kind) and part.startswith(tag))
