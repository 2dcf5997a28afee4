"""Dead letters: events and unreadable messages that can never be applied, kept in MongoDB with the reason."""

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
"""Letters that nobody looked after are kept so long."""

# MongoDB takes documents of 16 MiB; an event is never near that, a message that is none may be.
_LONGEST_BODY = 4 * 1024 * 1024
_LONGEST_TRACEBACK = 64 * 1024
_LONGEST_REASON = 1000
_TYPE_NAME = re.compile(r"(?=.{1,64}\Z)[a-z_]+(\.[a-z_]+)+")
# Letters in one command, within one time limit: however many a message makes, they must come to an end.
_AT_ONCE = 100
# Fields of every event that tell nothing.
_PLAIN_FIELDS = frozenset({"type", "time", "version"})


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One thing that can never be applied.

    Attributes:
        body: an event as it came over the wire, or the text of a message that cannot be read.
        error: why.
        failures: what the letter said from which it was published again.
    """

    body: object
    error: BaseException
    failures: Failures | None = None


def unreadable_message(message: Poison) -> DeadLetter:
    """What becomes of a message that cannot be read."""
    return DeadLetter(message.body, InvalidEvent("message", message.reason))


def too_deep_event(event: DeepEvent, failures: Failures | None) -> DeadLetter:
    """What becomes of an event that is nested too deeply to be walked over."""
    return DeadLetter(event.text, InvalidEvent("event", TOO_DEEP), failures)


def keep(keeper: Keeper, registry: Registry, letters: Sequence[DeadLetter]) -> None:
    """Write dead letters, by majority. The same body again is counted, not written twice.

    A document holds `body` (JSON text, as it came, tokens in clear: so that it can be published again; `whole` unless
    it was too long), `type`, `error` (the class), `reason` and `traceback` (masked, of the last time), `count`,
    `first_at` and `last_at`. MongoDB removes it `CACHEKEEPER_DEAD_LETTER_SECONDS` after that (`EXPIRY`).

    Raises:
        DatabaseUnavailable: MongoDB failed. Do it again.
    """
    now = datetime.now(UTC)
    writes = [_write(registry, letter, now) for letter in letters]
    for start in range(0, len(writes), _AT_ONCE):
        with database_errors("keeping dead letters", keeper.settings.load_timeout_seconds, COLLECTION):
            keeper.database[COLLECTION].bulk_write(writes[start : start + _AT_ONCE], ordered=False)


def shown(document: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """A dead letter as it may be shown: with the secret fields of its event masked, or all of them where it is none."""
    try:
        body = json.loads(document["body"])
    except ValueError:
        return {**document, "body": mask(document["body"])}
    return {**document, "body": _masked(body, _secret_fields(body, registry))}


def mask(value: object) -> str:
    """What stands for a secret: equal ones look equal, and tell nothing else."""
    return f"<masked {hashlib.sha256(str(value).encode('utf-8', 'surrogatepass')).hexdigest()[:8]}>"


def _write(registry: Registry, letter: DeadLetter, now: datetime) -> UpdateOne:
    body = json.dumps(letter.body)  # ASCII: NUL and lone surrogates survive as escapes
    hidden = set(_secrets(letter.body, _secret_fields(letter.body, registry)))
    error, event = letter.error, _event_of(letter.body, registry)
    # Masked before they are cut: half a token would not be found.
    trace = _hide("".join(traceback.format_exception(error)), hidden)[-_LONGEST_TRACEBACK:]
    # Our own errors quote no values; those of a handler may.
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
    # `$max`: whether the letter that was published again is gone yet or not, this one counts on from it.
    counted = {
        "count": {"$add": [{"$max": ["$count", failed]}, 1]},
        "first_at": {"$min": ["$first_at", first_at]},
    }
    # Literally: a text that begins with `$` would be read as a field.
    change = {"$set": {**{name: {"$literal": value} for name, value in said.items()}, **counted}}
    return UpdateOne({"_id": hashlib.sha256(body.encode()).hexdigest()}, [change], upsert=True)


def _type_name(body: object) -> str | None:
    """The type of an event that is not registered, so that its letters can be chosen by it; None for other texts.

    A token that stands there by mistake has digits or capitals, or no dot.
    """
    kind = body.get("type") if isinstance(body, Mapping) else None
    return kind if isinstance(kind, str) and _TYPE_NAME.fullmatch(kind) else None


def _event_of(body: object, registry: Registry) -> type[Event] | None:
    kind = body.get("type") if isinstance(body, Mapping) else None
    return registry.events.get(kind) if isinstance(kind, str) else None


def _secret_fields(body: object, registry: Registry) -> frozenset[str] | None:
    """The names of the fields that are secret; None for all that are not known to tell nothing."""
    event = _event_of(body, registry)
    if event is None or not isinstance(body, Mapping):
        return None
    # A field that the event does not have may be a misspelt secret.
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
    """Every text and number in the secret fields."""
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
    """The text with every secret masked: as it is, and as Python and JSON write it inside of quotes."""
    # Found first, and only then masked: one that is a digit occurs in the masks of others. What overlaps or adjoins is
    # one: else a part of a secret would be left beside the mask of another.
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
    # A lone surrogate cannot go into MongoDB.
    return text.encode("utf-8", "backslashreplace").decode()


def _forms(secret: str) -> Iterable[str]:
    if secret.isascii() and secret.isalnum():
        return (secret,)
    quoted = (json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret))
    return {secret, *(form[1:-1] for form in quoted)}
