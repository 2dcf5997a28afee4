"""No handler, task or relay swallows an exception: what is caught is raised, recorded or handed on, on every path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from testkit.compose import ROOT
from tests.repo.swallowing import swallowed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.repo.swallowing import SwallowingPlace

PACKAGES = ("cachekeeper", "lookups", "producers", "worker")
# Here every `except` is looked at; elsewhere those that catch what a server that is away raises, or anything.
EVERY = (
    "cachekeeper/applying/batch.py",
    "cachekeeper/broker/",
    "cachekeeper/consuming/",
    "cachekeeper/publishing/",
    "cachekeeper/relays/",
    "producers/",
    "worker/",
)

_APPLYING = "cachekeeper/applying/batch.py"
_GOOD_BYE = "a broker that is gone misses no good-bye; what was sent had its answer before"
_LETTER = "the message becomes a dead letter, with this for its reason"
_OUTAGE = "it waits, tries again, and logs: once for each text, not for each attempt"
_ENDED_STREAM = "the stream has ended: a new one is begun, and the loss, if any, is told as an event and logged there"
REASONS: dict[tuple[str, str, str], str] = {
    (_APPLYING, "_Plan._guard", "CachekeeperError"): "the error goes into the results of all events concerned",
    (
        "cachekeeper/publishing/event_buffer.py",
        "EventBuffer._begin",
        "RuntimeError",
    ): "its caller publishes the event at once",
    (
        "cachekeeper/publishing/buffered.py",
        "BufferedPublisher._report",
        "BaseException",
    ): "it is logged, once for each type",
    (
        "cachekeeper/consuming/dead_letters.py",
        "shown",
        "ValueError",
    ): "a body that was cut is no JSON, and shown masked",
    (
        "cachekeeper/consuming/dead_letter_admin.py",
        "_event_in",
        "ValueError",
    ): "a body that was edited by hand and is no JSON stays, and is counted as what stays",
    ("cachekeeper/consuming/poison_guard.py", "_has_body", "ValueError"): _LETTER,
    ("cachekeeper/consuming/poison_guard.py", "_properties", "Exception"): _LETTER,
    ("cachekeeper/relays/change_stream_cursor.py", "read", "DatabaseUnavailable"): _ENDED_STREAM,
    ("cachekeeper/consuming/pause.py", "Pause._try", "Exception"): _OUTAGE,
    (
        "cachekeeper/publishing/broker_connection.py",
        "BrokerConnection.close",
        "contextlib.suppress(*self._errors())",
    ): _GOOD_BYE,
    (
        "cachekeeper/publishing/broker_connection.py",
        "BrokerConnection.drop",
        "contextlib.suppress(*self._errors())",
    ): _GOOD_BYE,
    ("cachekeeper/publishing/publisher.py", "Publisher._attempt", "BrokerUnavailable"): "the last attempt raises it",
    (
        "cachekeeper/relays/outbox_relay.py",
        "_whole_text",
        "(ValueError, RecursionError)",
    ): "what is no JSON is published, and becomes a dead letter",
    (
        "cachekeeper/relays/change_stream_relay.py",
        "ChangeRelay.run_once",
        "_Deposed",
    ): "another process leads: no error, a change of roles",
    ("cachekeeper/relays/change_stream_relay.py", "ChangeRelay._begin", "change_stream_cursor.Lost"): _ENDED_STREAM,
    (
        "cachekeeper/relays/change_stream_relay.py",
        "ChangeRelay._close_stream",
        "suppress(PyMongoError)",
    ): "a server that is away forgets a cursor by itself",
    (
        "cachekeeper/broker/redis_transport.py",
        "Channel._queue_bind",
        "OutOfMemoryError",
    ): "a script does the same in a full broker",
    (
        "cachekeeper/broker/redis_transport.py",
        "Channel._put",
        "OutOfMemoryError",
    ): "a script does the same in a full broker",
    (
        "cachekeeper/broker/redis_client.py",
        "_wrong_key",
        "contextlib.suppress(redis.RedisError)",
    ): "a refusal is raised all the same, without the name of the key",
    ("cachekeeper/http_api/app.py", "Door._probe", "BrokerUnavailable"): "the answer to /readyz, 503",
    (
        "cachekeeper/applying/ttl_indexes.py",
        "IndexKeeper.run_once",
        "DatabaseUnavailable",
    ): "the first is raised when all were tried",
    ("cachekeeper/relays/outbox_index.py", "PlainIndex.run_once", "IndexRefused"): "it is logged, once for each text",
    ("cachekeeper/reading/core.py", "read", "CacheUnavailable"): "MongoDB is asked instead; counted by the breaker",
    ("cachekeeper/reading/core.py", "_load", "CacheUnavailable"): "MongoDB has answered; only the fill is left out",
    (
        "cachekeeper/upkeep/rollback_watch.py",
        "RollbackWatch._drop",
        "suppress(CacheUnavailable)",
    ): "tidying up, while the first error is on its way",
    (
        "cachekeeper/upkeep/blocklist_warming.py",
        "_Pass.run",
        "suppress(CacheUnavailable)",
    ): "tidying up, while the first error is on its way",
    ("cachekeeper/reading/filling.py", "fill_many", "suppress(CacheUnavailable)"): "tidying up, while the first error "
    "is on its way",
    ("producers/change_stream.py", "user_events", "InvalidEvent"): "the event that says less is sent instead",
    (
        "cachekeeper/model/json_round_trip.py",
        "_Walk._field",
        "Exception",
    ): "it is a problem of the field, and refuses the class",
    ("cachekeeper/model/json_round_trip.py", "_Walk._check_default", "Exception"): (
        "the field's validator looks at other fields; where the default is used, it is checked with them"
    ),
}


def places() -> list[SwallowingPlace]:
    found: list[SwallowingPlace] = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found += places_in(path, path.read_text("utf-8"))
    return found


def places_in(path: Path, source: str) -> list[SwallowingPlace]:
    name = path.relative_to(ROOT).as_posix()
    return list(swallowed(source, name, every=name.startswith(EVERY)))


def test_no_exception_vanishes_without_a_reason() -> None:
    assert [place for place in places() if place.key not in REASONS] == []


def test_every_reason_is_still_needed() -> None:
    assert REASONS.keys() - {place.key for place in places()} == set()


# --- that it finds them ----------------------------------------------------------------------------------------------

SWALLOWS = {
    "pass": "try: f()\nexcept Exception: pass",
    "bare": "try: f()\nexcept: pass",
    "a constant": "def g():\n try: f()\n except Exception: return None",
    "the next one": "for x in y:\n try: f()\n except Unavailable: continue",
    "in a tuple": "try: f()\nexcept (KeyError, PyMongoError): pass",
    "by another name": "try: f()\nexcept errors.CachekeeperError: pass",
    "in a variable": "try: f()\nexcept errors: pass",
    "in a call": "try: f()\nexcept (*self.errors(),): pass",
    "in a group": "try: f()\nexcept* Exception: pass",
    "only looked at": "try: f()\nexcept Exception as error: text = str(error)",
    "only told apart": "try: f()\nexcept Exception as error: isinstance(error, KeyError)",
    "debug": "try: f()\nexcept Exception: logger.debug('x')",
    "on one path": "try: f()\nexcept Exception as error:\n if a: raise\n",
    "on the other path": "try: f()\nexcept Exception as error:\n if a: pass\n else: log(error)",
    "before it is recorded": "def g():\n try: f()\n except Exception as error:\n  if a: return\n  log(error)",
    "perhaps never": "try: f()\nexcept Exception as error:\n for x in y: log(error)",
    "in a function that nobody calls": "try: f()\nexcept Exception as error:\n def g(): log(error)",
    "in a lambda": "try: f()\nexcept Exception as error:\n g = lambda: log(error)",
    "raised into nothing": "try: f()\nexcept Exception:\n try: raise\n except KeyError: pass",
    "suppressed": "with suppress(Exception): f()",
    "suppressed by a variable": "with contextlib.suppress(*errors): f()",
    "ignored by kombu": "ignore_errors(connection, f)",
    "ignored by kombu, in a block": "with common.ignore_errors(connection): f()",
    "finally": "def g():\n try: f()\n finally: return 1",
    "finally in a loop": "for x in y:\n try: f()\n finally: break",
    "gathered": "asyncio.gather(*x, return_exceptions=True)",
    "by a context manager": "class C:\n def __exit__(self, *_):\n  return True",
}
KEEPS = {
    "raised": "try: f()\nexcept Exception: raise",
    "translated": "try: f()\nexcept PyMongoError as error: raise Away from error",
    "logged": "try: f()\nexcept Exception: logger.error('x')",
    "counted": "try: f()\nexcept Exception: COUNTERS.add('x')",
    "handed on": "try: f()\nexcept Exception as error: self._failed(error)",
    "kept": "try: f()\nexcept Exception as error: result.error = error",
    "returned": "def g():\n try: f()\n except Exception as error: return str(error)",
    "on both paths": "try: f()\nexcept Exception as error:\n if a: raise\n else: log(error)",
    "at the end of all": "try: f()\nexcept Exception as error:\n if a: b()\n log(error)",
    "the program ends": "try: f()\nexcept Exception: sys.exit('x')",
    "narrow": "try: f()\nexcept KeyError: pass",
    "narrow, with a small letter": "try: f()\nexcept struct.error: pass",
    "suppressed, narrow": "with suppress(FileNotFoundError): f()",
    "finally": "try: f()\nfinally: g()",
    "by no context manager": "class C:\n def __exit__(self, *_):\n  self.close()",
}


@pytest.mark.parametrize("source", SWALLOWS.values(), ids=SWALLOWS.keys())
def test_what_swallows_is_found(source: str) -> None:
    assert list(swallowed(source, "x.py"))


@pytest.mark.parametrize("source", KEEPS.values(), ids=KEEPS.keys())
def test_what_swallows_nothing_is_not(source: str) -> None:
    assert not list(swallowed(source, "x.py"))


def test_where_every_one_counts_narrow_ones_do() -> None:
    source = KEEPS["narrow"]
    assert [place.caught for place in swallowed(source, "x.py", every=True)] == ["KeyError"]


@pytest.mark.parametrize(
    ("file", "good", "bad"),
    [
        ("cachekeeper/consuming/processor.py", "letters.append(DeadLetter(body, error, message.failures))", "pass"),
        ("cachekeeper/consuming/processor.py", "return Applied(error)", "return Applied()"),
        ("cachekeeper/consuming/processor.py", "self._away(chosen, error)\n                continue", "continue"),
        (
            "cachekeeper/consuming/pause.py",
            (
                'log_failure("events wait in the broker", error=error)\n'
                "            self._logged = failure_text(error)\n            self._begun.set()"
            ),
            "pass",
        ),
        ("cachekeeper/publishing/event_buffer.py", "self._failed(locks, error)\n", "pass\n"),
        (
            "cachekeeper/publishing/broker_connection.py",
            'raise BrokerUnavailable(_said("the broker did not confirm the event", error)) from error',
            "return",
        ),
        (
            "cachekeeper/publishing/publisher.py",
            "connection.drop()  # half an answer may still be unread in it\n            raise",
            "connection.drop()",
        ),
        ("cachekeeper/applying/batch.py", "result.error = error\n", "pass\n"),
        ("cachekeeper/applying/mongo_writes.py", "self.away = error\n", "pass\n"),
        (
            "cachekeeper/connections/mongodb_errors.py",
            'raise DatabaseUnavailable(f"MongoDB failed while {doing} ({type(error).__name__})") from error',
            "pass",
        ),
    ],
)
def test_mutants_of_our_own_are_found(file: str, good: str, bad: str) -> None:
    path = ROOT / file
    source = path.read_text("utf-8")
    assert good in source
    mutant = source.replace(good, bad, 1)
    before = {place.key for place in places_in(path, source)}
    assert {place.key for place in places_in(path, mutant)} - before
