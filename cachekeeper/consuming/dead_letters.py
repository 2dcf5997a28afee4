"""Dead letters: events and messages that the workers have given up, stored in MongoDB with the reason."""

from __future__ import annotations

import hashlib
import json
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pymongo import UpdateOne

from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.errors import CachekeeperError, InvalidEvent
from cachekeeper.model.registry import TtlIndex
from cachekeeper.values.nesting import TOO_DEEP

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from cachekeeper.consuming.messages import DeepEvent, Failures, Poison
    from cachekeeper.model.events import Event
    from cachekeeper.model.registry import Registry
    from cachekeeper.reading.keeper import Keeper

COLLECTION = "dead_letters"

EXPIRY = TtlIndex(COLLECTION, "last_at", lambda settings: settings.dead_letter_seconds)
"""MongoDB removes a dead letter this long after its last failure."""

# MongoDB takes documents of up to 16 MiB. An event is far smaller, but a message that is not an event may be larger.
_LONGEST_BODY = 4 * 1024 * 1024
_LONGEST_TRACEBACK = 64 * 1024
_LONGEST_REASON = 1000
_TYPE_NAME = re.compile(r"(?=.{1,64}\Z)[a-z_]+(\.[a-z_]+)+")
# Dead letters per command. Each command has its own time limit, so that any number of them can be written.
_AT_ONCE = 100
# Fields that every event has and that hold no secrets.
_PLAIN_FIELDS = frozenset({"type", "time", "version"})


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event or a message that the workers have given up.

    Attributes:
        body: an event as it came over the wire, or the text of a message that cannot be read.
        error: the reason.
        failures: the earlier failures, if the event was published again from a dead letter.
    """

    body: object
    error: BaseException
    failures: Failures | None = None


def unreadable_message(message: Poison) -> DeadLetter:
    """Make the dead letter of a message that cannot be read."""
    return DeadLetter(message.body, InvalidEvent("message", message.reason))


def too_deep_event(event: DeepEvent, failures: Failures | None) -> DeadLetter:
    """Make the dead letter of an event that is nested too deeply to be traversed."""
    return DeadLetter(event.text, InvalidEvent("event", TOO_DEEP), failures)


def keep(keeper: Keeper, registry: Registry, letters: Sequence[DeadLetter]) -> None:
    """Write dead letters, by majority. If a body is already stored, its count rises instead.

    A document holds `body` (JSON text as it came, with unmasked tokens, so that it can be published again), `whole`
    (false if the body was too long and was cut), `type`, `error` (the class), `reason` and `traceback` (masked, of the
    last failure), `count`, `first_at` and `last_at`. MongoDB removes it `CACHEKEEPER_DEAD_LETTER_SECONDS` after
    `last_at` (`EXPIRY`).

    Raises:
        DatabaseUnavailable: MongoDB failed. Call this again.
    """
    now = datetime.now(UTC)
    writes = [_write(registry, letter, now) for letter in letters]
    for start in range(0, len(writes), _AT_ONCE):
        with database_errors("keeping dead letters", keeper.settings.load_timeout_seconds, COLLECTION):
            keeper.database[COLLECTION].bulk_write(writes[start : start + _AT_ONCE], ordered=False)


def shown(document: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """Return a dead letter with the secret fields of its event masked. If it holds no event, every field is masked."""
    try:
        body = json.loads(document["body"])
    except ValueError:
        return {**document, "body": mask(document["body"])}
    return {**document, "body": _masked(body, _secret_fields(body, registry))}


def mask(value: object) -> str:
    """Return the mask of a value: equal values have equal masks, and a mask reveals nothing else."""
    return f"<masked {hashlib.sha256(str(value).encode('utf-8', 'surrogatepass')).hexdigest()[:8]}>"


def _write(registry: Registry, letter: DeadLetter, now: datetime) -> UpdateOne:
    body = json.dumps(letter.body)  # ASCII: NUL and lone surrogates are kept as escapes
    hidden = set(_secrets(letter.body, _secret_fields(letter.body, registry)))
    error, event = letter.error, _event_of(letter.body, registry)
    # Masked before it is cut: a token that was cut in half would not be recognized.
    trace = _hide("".join(traceback.format_exception(error)), hidden)[-_LONGEST_TRACEBACK:]
    # Our own errors contain no values; a handler's errors may.
    reason = str(error) if isinstance(error, CachekeeperError) else _hide(str(error), hidden)[:_LONGEST_REASON]
    failed = 0 if letter.failures is None else letter.failures.count
    first_at = now if letter.failures is None else letter.failures.first_at
    said = {
        "body": body[:_LONGEST_BODY],
        "whole": len(body) <= _LONGEST_BODY,
        "type": _type_name(letter.body) if event is None else event.type_name(),
        "error": type(error).__name__,
        "reason": reason,
        "traceback": trace,
        "last_at": now,
    }
    # `$max`: the count continues from the dead letter that was published again, whether or not it is already removed.
    counted = {
        "count": {"$add": [{"$max": ["$count", failed]}, 1]},
        "first_at": {"$min": ["$first_at", first_at]},
    }
    # `$literal`: otherwise MongoDB would read a text that begins with `$` as a field.
    change = {"$set": {**{name: {"$literal": value} for name, value in said.items()}, **counted}}
    return UpdateOne({"_id": hashlib.sha256(body.encode()).hexdigest()}, [change], upsert=True)


def _type_name(body: object) -> str | None:
    """The type of an event that is not registered, so that its letters can be chosen by it; None for other texts.

    A JWT or a random token that stands there by mistake does not match. Small letters with a dot would be shown.
    """
    kind = body.get("type") if isinstance(body, Mapping) else None
    return kind if isinstance(kind, str) and _TYPE_NAME.fullmatch(kind) else None


def _event_of(body: object, registry: Registry) -> type[Event] | None:
    kind = body.get("type") if isinstance(body, Mapping) else None
    return registry.events.get(kind) if isinstance(kind, str) else None


def _secret_fields(body: object, registry: Registry) -> frozenset[str] | None:
    """The names of the secret fields. None: every field is secret except `_PLAIN_FIELDS`."""
    event = _event_of(body, registry)
    if event is None or not isinstance(body, Mapping):
        return None
    # A field that the event does not declare may be a misspelt secret field.
    return event.secret_fields | (body.keys() - event.model_fields.keys())


def _masked(body: object, secret: frozenset[str] | None) -> object:
    if not isinstance(body, Mapping):
        return mask(body)
    return {
        name: value if value is None or not _is_secret(name, value, secret) else mask(value)
        for name, value in body.items()
    }


def _is_secret(name: str, value: object, secret: frozenset[str] | None) -> bool:
    if secret is None:
        return name not in _PLAIN_FIELDS or isinstance(value, dict | list)
    return name in secret


def _secrets(body: object, secret: frozenset[str] | None) -> Iterator[str]:
    """Every text and number in the secret fields, as text."""
    if isinstance(body, Mapping):
        for name, value in body.items():
            if _is_secret(name, value, secret):
                yield from _leaves(value)
    else:
        yield from _leaves(body)


def _leaves(value: object) -> Iterator[str]:
    stack = [value]
    while stack:
        match stack.pop():
            case Mapping() as found:
                stack.extend(found.values())
            case list() as found:
                stack.extend(found)
            case None | bool():
                pass
            case found:
                yield str(found)


def _hide(text: str, secrets: Collection[str]) -> str:
    """Return the text with every secret masked, in its plain form and as Python and JSON write it inside quotes."""
    # All secrets are found first and masked afterwards: a secret that is a single digit occurs in the masks of others.
    # Secrets that overlap or adjoin are masked as one: else a part of one would be left beside the mask of the other.
    covered = bytearray(len(text) + 1)
    meant: dict[str, str] = {}
    for secret in filter(None, secrets):
        for form in _forms(secret):
            start = text.find(form)
            if start >= 0:
                meant[form] = secret
            cover = b"\1" * len(form)
            while start >= 0:
                end = start + len(form)
                covered[start:end] = cover
                start = text.find(form, end)
    pieces: list[str] = []
    end = 0
    while (start := covered.find(1, end)) >= 0:
        pieces.append(text[end:start])
        end = covered.find(0, start)
        pieces.append(mask(meant.get(text[start:end], text[start:end])))
    text = "".join((*pieces, text[end:]))
    # MongoDB does not take a lone surrogate.
    return text.encode("utf-8", "backslashreplace").decode()


def _forms(secret: str) -> Iterable[str]:
    if secret.isascii() and secret.isalnum():
        return (secret,)
    quoted = (json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret))
    return {secret, *(form[1:-1] for form in quoted)}
