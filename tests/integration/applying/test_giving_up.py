"""Which event of a message that fails again and again becomes a dead letter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.consuming import processor
from cachekeeper.consuming.dead_letters import keep
from cachekeeper.consuming.messages import EventMessage
from cachekeeper.consuming.processor import Processor, Verdict
from cachekeeper.errors import DatabaseUnavailable
from cachekeeper.model.registry import load_registry
from cachekeeper.settings import Settings
from lookups import is_blocked
from producers import UserLoggedOut
from testkit.failpoints import WRITE_CONCERN_FAILED, be_well, delay_writes, fail_writes
from testkit.limits import PATIENT
from testkit.mutating import mutated
from testkit.shop_of_faults import WentWrong
from testkit.verdicts import verdicts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cachekeeper.consuming.dead_letters import DeadLetter
    from cachekeeper.devservers import MongoServer, RedisServer
    from cachekeeper.model.events import Event
    from cachekeeper.model.registry import Registry
    from cachekeeper.reading.keeper import Keeper

MODULES = ("producers", "lookups", "worker", "testkit.shop_of_faults")
INNOCENT = UserLoggedOut(token_id="innocent")
GUILTY = WentWrong(how="asks for what MongoDB refuses")


@pytest.fixture
def delivery(failing: MongoServer, redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Processor]:
    changes: dict[str, Any] = getattr(request, "param", {})
    settings = Settings(redis_url=redis_server.url, mongodb_url=failing.url, **{**PATIENT, **changes})
    delivery = Processor(settings, load_registry(MODULES))
    delivery.keeper.database["dead_letters"].delete_many({})
    delivery.pause.start()
    yield delivery
    delivery.pause.stop()
    delivery.keeper.close()


def process(delivery: Processor, strikes: int, *events: Event) -> Verdict:
    """A message with these, or both, which has failed so often while the servers were well."""
    bodies: list[Any] = [json.loads(event.model_dump_json()) for event in events or (INNOCENT, GUILTY)]
    delivery.pause._strikes["m1"] = strikes
    (verdict,) = verdicts(delivery, [EventMessage("m1", bodies)])
    return verdict


def types(delivery: Processor) -> list[str]:
    """Of the dead letters."""
    return [letter["type"] for letter in delivery.keeper.database["dead_letters"].find()]


def the_innocent_one_meets_an_outage(delivery: Processor, failing: MongoServer) -> None:
    """Just as the message is given up, one write fails, and the probe after it does not."""
    fail_writes(failing, 1, WRITE_CONCERN_FAILED)
    assert process(delivery, delivery.pause.STRIKES) is Verdict.DONE
    assert types(delivery) == ["went.wrong"]
    assert is_blocked("innocent", keeper=delivery.keeper)


def test_an_outage_of_a_moment_takes_no_neighbour_along(delivery: Processor, failing: MongoServer) -> None:
    the_innocent_one_meets_an_outage(delivery, failing)


def test_who_does_not_try_once_more_is_found(
    delivery: Processor, failing: MongoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mutated(processor, "for _ in range(2):", "for _ in range(1):")
    monkeypatch.setattr(Processor, "_apply_one", wrong.Processor._apply_one)
    with pytest.raises(AssertionError, match=r"went\.wrong"):
        the_innocent_one_meets_an_outage(delivery, failing)


def an_outage_begins_between_the_probe_and_the_second_try(delivery: Processor, failing: MongoServer) -> None:
    """And is over when the letter would be written."""
    probe, probed = delivery._probe, 0

    def probe_once() -> None:
        nonlocal probed
        probed += 1
        if probed > 1:
            raise DatabaseUnavailable("away")
        probe()
        fail_writes(failing, 1, WRITE_CONCERN_FAILED)

    fail_writes(failing, 1, WRITE_CONCERN_FAILED)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(delivery, "_probe", probe_once)
        verdict = process(delivery, delivery.pause.STRIKES, INNOCENT)
    assert (verdict, types(delivery)) == (Verdict.AWAY, [])


def test_an_outage_that_begins_meanwhile_gives_up_nothing(delivery: Processor, failing: MongoServer) -> None:
    an_outage_begins_between_the_probe_and_the_second_try(delivery, failing)


def test_who_does_not_ask_once_more_is_found(
    delivery: Processor, failing: MongoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried_twice = "            self._probe()\n        return result"
    wrong = mutated(
        processor, tried_twice, "            if not _:\n                self._probe()\n        return result"
    )
    monkeypatch.setattr(Processor, "_apply_one", wrong.Processor._apply_one)
    with pytest.raises(AssertionError, match="DONE"):
        an_outage_begins_between_the_probe_and_the_second_try(delivery, failing)


def a_message_of_letters_alone_is_dealt_with(delivery: Processor, failing: MongoServer) -> None:
    """Three commands of 2 s each, and a time limit of five seconds."""
    delay_writes(failing, 2000)
    message = EventMessage("m1", [{"type": "unheard.of", "number": number} for number in range(300)])
    said = verdicts(delivery, [message])
    be_well(failing)
    assert said == [Verdict.DONE]
    assert len(types(delivery)) == 300


@pytest.mark.parametrize("delivery", [{"load_timeout_seconds": 5}], indirect=True)
def test_however_many_letters_a_message_makes_they_come_to_an_end(delivery: Processor, failing: MongoServer) -> None:
    a_message_of_letters_alone_is_dealt_with(delivery, failing)


@pytest.mark.parametrize("delivery", [{"load_timeout_seconds": 5}], indirect=True)
def test_one_time_limit_for_all_letters_is_found(
    delivery: Processor, failing: MongoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def within_one(keeper: Keeper, registry: Registry, letters: Sequence[DeadLetter]) -> None:
        with database_errors("keeping dead letters", keeper.settings.load_timeout_seconds):
            keep(keeper, registry, letters)

    monkeypatch.setattr(processor, "keep", within_one)
    with pytest.raises(AssertionError, match="AWAY"):
        a_message_of_letters_alone_is_dealt_with(delivery, failing)


def test_before_that_nothing_is_given_up(delivery: Processor) -> None:
    assert process(delivery, delivery.pause.STRIKES - 1) is Verdict.AWAY
    assert types(delivery) == []
    assert is_blocked("innocent", keeper=delivery.keeper)
