"""The fault-injection run's own parts: a seed replays its faults, and the checker sees what it is there for."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict, replace

import pytest

from cachekeeper.protocol import scripts
from testkit.replica_set import HEARTBEAT_SECONDS, ReplicaSet
from verification.chaos.checker import Checker, Verdict, Violation
from verification.chaos.mutants import MUTANTS
from verification.chaos.mutating import Try, evidence, figure
from verification.chaos.results import Results
from verification.chaos.row import KINDS, Row
from verification.chaos.schedule import LINES, Fault, Series, Station, remembers, schedule, spares_readers, station_of
from verification.chaos.workload import BLOCKED, ENDED, Ack, Change, Kind, Read

STATIONS = (
    Station(Series.OUTBOX),
    Station(Series.OUTBOX, rabbit=True),
    Station(Series.STREAM),
    Station(Series.REPLICAS),
)
MS = 1_000_000

# --- the schedule ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("station", STATIONS, ids=str)
def test_a_seed_replays_its_faults(station: Station) -> None:
    assert schedule(7, 60, station) == schedule(7, 60, station)
    assert schedule(7, 60, station) != schedule(8, 60, station)


def test_a_seed_replays_its_faults_in_another_process() -> None:
    """Nothing of it hangs on the hashes of this process, and a change of the schedule is seen here.

    One that is meant changes the golden figure: then no older run can be replayed by its seed any more.
    """
    code = "from verification.chaos.test_chaos_unit import fingerprint; print(fingerprint(7))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert found == {fingerprint(7)} == {"9015b2456386f57d"}


def fingerprint(seed: int) -> str:
    """Of the schedules of a seed and of the three after it, at all stations: of each kind of run."""
    schedules = [
        [asdict(fault) for fault in schedule(each, 8, station)]
        for each in range(seed, seed + 4)
        for station in STATIONS
    ]
    return hashlib.sha256(json.dumps(schedules).encode()).hexdigest()[:16]


@pytest.mark.parametrize("station", STATIONS, ids=str)
def test_faults_of_one_target_come_one_after_the_other_and_end_with_the_run(station: Station) -> None:
    for seed in range(20):
        by_target: defaultdict[str, list[Fault]] = defaultdict(list)
        for fault in schedule(seed, 20, station):
            by_target[fault.target].append(fault)
        for faults in by_target.values():
            for one, next_one in itertools.pairwise(faults):
                assert one.at + one.seconds < next_one.at
            assert all(0 < fault.at < 20 for fault in faults)


@pytest.mark.parametrize("station", STATIONS, ids=str)
def test_wrong_values_are_left_in_peace_in_half_of_the_runs(station: Station) -> None:
    def late(seed: int, target: str, *kinds: str) -> list[Fault]:
        faults = schedule(seed, 8, station)
        return [each for each in faults if each.at >= 4 and each.target == target and (not kinds or each.kind in kinds)]

    def forgets(seed: int) -> list[Fault]:
        return [*late(seed, "keys"), *late(seed, "cache", "kill"), *late(seed, "security", "kill", "flush")]

    quiet = [seed for seed in range(60) if not forgets(seed)]
    assert {seed for seed in range(60) if remembers(seed)} <= set(quiet)
    assert len([seed for seed in range(60) if remembers(seed)]) == 30
    assert all(schedule(seed, 8, station)[-1].at >= 4 for seed in quiet), "other faults go on"


def test_keys_are_dropped_often_in_some_runs_and_seldom_in_others() -> None:
    counts = [
        sum(each.target == "keys" for each in schedule(seed, 60, Station(Series.OUTBOX))) for seed in (60, 61, 62)
    ]
    assert counts[0] < 15 < counts[2] < 100 < counts[1]
    for turn in range(0, 60, 5):  # whoever stays at one station for five runs meets both
        assert {remembers(seed) for seed in range(turn, turn + 5)} == {True, False}
        assert any(spares_readers(seed) for seed in range(turn, turn + 5))


@pytest.mark.parametrize("station", STATIONS, ids=str)
def test_readers_are_spared_in_every_fourth_run(station: Station) -> None:
    for seed in range(24):
        targets = {each.target for each in schedule(seed, 20, station)}
        assert any(each.startswith(("reads", "readers-")) for each in targets) is (seed % 4 != 3)
        assert any(each.startswith("workers-") for each in targets)


def test_enough_is_scheduled_in_the_mildest_run() -> None:
    """More than `Row.enough` asks for: some will find nothing that they could befall."""
    assert min(len(schedule(seed, 8, station)) for seed in range(200) for station in STATIONS) >= 12


def test_a_primary_is_not_frozen_for_so_long_that_it_is_replaced() -> None:
    election = inspect.signature(ReplicaSet).parameters["election_seconds"].default
    stops = [
        fault.seconds
        for seed in range(60)
        for fault in schedule(seed, 20, Station(Series.REPLICAS))
        if fault.kind == "stop-primary"
    ]
    assert 0.2 <= min(stops) <= max(stops) <= election - 2 * HEARTBEAT_SECONDS


def test_every_fault_that_was_asked_for_comes() -> None:
    seen = {(fault.target, fault.kind) for seed in range(40) for each in STATIONS for fault in schedule(seed, 20, each)}
    killed = {"worker0", "worker1", "relay", "stream", "broker", "cache", "security", "mongo"}
    assert {target for target, kind in seen if kind == "kill"} == killed
    assert {target for target, kind in seen if kind == "stop"} == killed
    assert {kind for target, kind in seen if target == "keys"} == {"flush", "squeeze", "drop-values", "drop-metadata"}
    assert {kind for target, kind in seen if target == "set"} == {"step-down", "stop-primary", "lag", "roll-back"}
    assert {kind for target, kind in seen if target == "reads"} == {"slow", "fail"}
    for line in LINES:
        assert {kind for target, kind in seen if target == line} == {"slow", "stall", "half-open", "cut"}
    assert ("broker", "lose") in seen
    assert ("broker", "purge") in seen
    assert {kind for target, kind in seen if target == "events"} == {"again", "again-one-by-one"}


def test_all_series_take_their_turn() -> None:
    assert {station_of(seed, "all") for seed in range(200)} == {
        Station(Series.OUTBOX),
        Station(Series.OUTBOX, rabbit=True),
        Station(Series.STREAM),
        Station(Series.REPLICAS),
    }
    assert {station_of(seed, "stream").series for seed in range(200)} == {Series.STREAM}


def test_twenty_runs_meet_all_series() -> None:
    assert len({station_of(seed, "all") for seed in range(1, 21)}) == len(STATIONS)


def test_a_redis_broker_redelivers_within_a_run() -> None:
    """To the workers of these runs, that is; the product's own wait for a minute. RabbitMQ redelivers at once."""
    code = "from {} import app; print((app.conf.broker_transport_options or {{}}).get('visibility_timeout'))"

    def seconds(module: str, broker: str) -> str:
        servers = {"BROKER": broker, "REDIS": "redis://127.0.0.1:1", "MONGODB": "mongodb://127.0.0.1:1/shop"}
        return subprocess.run(
            [sys.executable, "-c", code.format(module)],
            env={**os.environ, **{f"CACHEKEEPER_{name}_URL": url for name, url in servers.items()}},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    assert seconds("worker.celery", "redis://127.0.0.1:1") == "60"
    assert seconds("verification.chaos.impatient", "redis://127.0.0.1:1") == "2"
    assert seconds("verification.chaos.impatient", "amqp://127.0.0.1:1") == "None"


# --- what is stored -------------------------------------------------------------------------------------------------

ROW = Row(
    seed=1,
    series="outbox",
    broker="redis",
    duration=8,
    operations=1,
    changes=40,
    reads=1000,
    reads_after_ack=800,
    faults={"cache kill": 8},
    errors={},
    stale=0,
    wrong_key=0,
    stuck=0,
    lost=0,
    untyped=0,
    dead_letters=0,
    ended=[],
    staleness=0,
    recovery=0,
    seconds=8,
)


@pytest.mark.parametrize("stale", [(0, 1), (1, 0)])
def test_a_clean_run_does_not_erase_a_dirty_one(stale: tuple[int, int]) -> None:
    results = Results(kept=False)
    for count in stale:
        results.add(replace(ROW, stale=count), [])
    assert [row.stale for row in results.rows] == [1]
    assert not results.clean


def test_a_run_in_which_too_little_happens_is_not_clean() -> None:
    assert ROW.clean
    assert not replace(ROW, reads_after_ack=799).clean
    assert not replace(ROW, changes=39).clean
    assert replace(ROW, uncached=500).clean
    assert not replace(ROW, uncached=501).clean
    assert not replace(ROW, faults={"cache kill": 7}).clean
    assert not replace(ROW, ended=["relay exit status 1"]).clean


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught_by_what_it_must_be_caught_by_alone(name: str) -> None:
    mutant = MUTANTS[name]
    assert set(mutant.kinds) <= {"stale", "stuck", "lost", "wrong_key"}
    for kind in KINDS:
        for key in (mutant.keys or Kind.USER, Kind.PRODUCT):
            violation = Violation(kind, (key, "k"), None, "")
            wanted = kind in mutant.kinds and (not mutant.keys or key in mutant.keys)
            assert evidence(mutant, [violation]) == ([violation] if wanted else [])


def test_a_mutant_that_survives_or_takes_too_long_does_not_hold() -> None:
    caught = Try("fail-open", 1, 2, 9.5, {"stale": 3})
    assert figure("fail-open", [caught]).held
    assert not figure("fail-open", [caught, replace(caught, caught={})]).held
    assert not figure("fail-open", [caught, replace(caught, seconds=MUTANTS["fail-open"].runs * 8 + 0.1)]).held


def test_the_issue_s_mutants_are_there() -> None:
    assert set(MUTANTS) == {
        "blind-fill",
        "no-lease",
        "counter-nonce",
        "no-marker",
        "payload-over-anything",
        "early-acknowledgement",
        "fail-open",
        "lagging-secondary",
        "local-reads",
        "cache-aside",
    }


@pytest.mark.parametrize("name", ["blind-fill", "no-lease", "no-marker", "payload-over-anything", "cache-aside"])
def test_a_mutant_follows_the_scripts_that_it_changes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    originals = {script: getattr(scripts, script) for script in ("_ACQUIRE", "_CHANGE", "_FILL")}
    for script, original in originals.items():
        monkeypatch.setattr(scripts, script, original)  # so that it is put back
    MUTANTS[name].swap()
    assert any(getattr(scripts, script).sha != original.sha for script, original in originals.items())


# --- the checker ----------------------------------------------------------------------------------------------------


def change(kind: str, key: str, number: int, state: str | int | None, at: float, event: str | None = None) -> Change:
    """Committed a millisecond after its begin."""
    wall = (int(at), int(at) + 1)
    return Change(kind, key, number, state, int(at * MS), int((at + 1) * MS), wall, event or f"{key} {number}")


def ack(of: Change, at: float) -> Ack:
    name = of.state if isinstance(of.state, str) else None
    return Ack(int(at * MS), str(of.event), of.kind, of.key, name, of.wall[0], outbox=True)


def read(kind: str, key: str, found: object, at: float, *, lasts: float = 1, error: str | None = None) -> Read:
    return Read(kind, key, int(at * MS), int((at + lasts) * MS), found, error)


FIRST = change(Kind.USER, "u", 1, "u #1", 10)
SECOND = change(Kind.USER, "u", 2, "u #2", 20)
GONE = change(Kind.USER, "u", 3, None, 30)
NAMES = (FIRST, SECOND, GONE)
ACKS = (ack(FIRST, 15), ack(SECOND, 25), ack(GONE, 35))


def judged(changes: tuple[Change, ...], acks: tuple[Ack, ...], *reads: Read) -> Verdict:
    checker = Checker(changes, acks)
    checker.check(reads)
    return checker.verdict


def test_reads_after_the_end_of_the_writers_are_judged_and_not_counted() -> None:
    checker = Checker(NAMES, ACKS)
    stale, late = read(Kind.USER, "u", "u #1", 40), read(Kind.USER, "u", None, 50, error="DatabaseUnavailable")
    checker.check([read(Kind.USER, "u", None, 36), stale, late], 40 * MS)
    verdict = checker.verdict
    assert (verdict.checked, verdict.checked_after, verdict.errors.total()) == (1, 1, 0)
    assert [violation.kind for violation in verdict.violations] == ["stale"]


@pytest.mark.parametrize(
    ("found", "at", "kinds"),
    [
        (None, 5, []),
        ("u #1", 10, []),
        ("u #1", 9.5, []),  # it began while the read went on
        ("u #1", 5, ["wrong_key"]),  # nobody had begun to write it
        (None, 16, ["stale"]),
        ("u #1", 16, []),
        ("u #1", 24, []),  # the second is committed, and not acknowledged
        ("u #1", 26, ["stale"]),
        ("u #2", 26, []),
        ("u #2", 36, ["stale"]),
        (None, 36, []),
        (None, 30.5, []),  # the deletion has begun
        ("v #2", 26, ["wrong_key"]),
        ("u #7", 26, ["wrong_key"]),
    ],
)
def test_a_read_of_a_user(found: str | None, at: float, kinds: list[str]) -> None:
    verdict = judged(NAMES, ACKS, read(Kind.USER, "u", found, at))
    assert [violation.kind for violation in verdict.violations] == kinds
    assert verdict.checked == 1


def test_an_older_event_that_is_acknowledged_later_takes_nothing_back() -> None:
    acks = (ack(SECOND, 22), ack(FIRST, 40))
    verdict = judged((FIRST, SECOND), acks, read(Kind.USER, "u", "u #1", 23), read(Kind.USER, "u", "u #1", 45))
    assert verdict.count("stale") == 2


@pytest.mark.parametrize(
    ("found", "at", "kinds"),
    [
        (("s", 2), 26, []),
        (("s", 1), 26, ["stale"]),
        (None, 26, ["stale"]),
        (None, 31, []),
        (("s", 2), 31, []),
        (("s", 2), 36, ["stale"]),
        (("s", 3), 38, ["stale"]),  # saved in vain
        (("other", 2), 26, ["wrong_key"]),
    ],
)
def test_a_read_of_a_session(found: object, at: float, kinds: list[str]) -> None:
    saves = [change(Kind.SESSION, "s", number, number, 10 * number)._replace(acknowledged=True) for number in (1, 2)]
    end = change(Kind.SESSION, "s", ENDED, None, 30)
    in_vain = change(Kind.SESSION, "s", 3, 3, 32)._replace(committed=None)
    verdict = judged((*saves, end, in_vain), (ack(end, 35),), read(Kind.SESSION, "s", found, at))
    assert [violation.kind for violation in verdict.violations] == kinds


@pytest.mark.parametrize(
    ("found", "at", "kinds"),
    [(False, 5, []), (True, 5, ["wrong_key"]), (True, 11, []), (False, 12, []), (False, 16, ["stale"]), (True, 16, [])],
)
def test_a_read_of_a_token(found: object, at: float, kinds: list[str]) -> None:
    void = change(Kind.TOKEN, "t", 1, BLOCKED, 10)
    verdict = judged((void,), (ack(void, 15),), read(Kind.TOKEN, "t", found, at))
    assert [violation.kind for violation in verdict.violations] == kinds


LAMP = change(Kind.PRODUCT, "p", 1, "Lamp p0", 10)
SOFA = change(Kind.PRODUCT, "p", 2, "Sofa p0", 20)
VASE = change(Kind.PRODUCT, "p", 3, "Vase p0", 30)


@pytest.mark.parametrize(
    ("text", "found", "at", "kinds"),
    [
        ("lamp", (("p", "Lamp p0", 1),), 16, []),
        ("lamp", (), 16, ["stale"]),
        ("lamp", (("p", "Lamp p0", 1),), 26, ["stale"]),
        ("lamp", (), 26, []),
        ("sofa", (), 26, ["stale"]),
        ("p0", (("p", "Sofa p0", 2),), 36, ["stale"]),
        ("p0", (("p", "Vase p0", 2),), 36, ["stale"]),
        ("p0", (("p", "Vase p0", 3),), 36, []),
        ("p0", (("p", "Vase p0", 2),), 26, ["wrong_key"]),  # never called so
        ("sofa", (("p", "Lamp p0", 1),), 12, ["wrong_key"]),  # not found by that
        ("p0", (("p", "Lamp p0", 1), ("q", "Lamp p1", 1)), 16, ["wrong_key"]),
    ],
)
def test_a_search(text: str, found: object, at: float, kinds: list[str]) -> None:
    acks = (ack(LAMP, 15), ack(SOFA, 25), ack(VASE, 35))
    verdict = judged((LAMP, SOFA, VASE), acks, read(Kind.SEARCH, text, found, at))
    assert [violation.kind for violation in verdict.violations] == kinds


def test_a_search_is_as_new_as_the_events_about_it() -> None:
    # Of the lamp that became a sofa and then a vase, the second event says nothing of lamps.
    verdict = judged(
        (LAMP, SOFA, VASE), (ack(LAMP, 15), ack(VASE, 35)), read(Kind.SEARCH, "lamp", (("p", "Lamp p0", 1),), 40)
    )
    assert verdict.violations == []


def test_outages_are_allowed_and_other_errors_are_not() -> None:
    verdict = judged(
        NAMES,
        ACKS,
        read(Kind.USER, "u", None, 26, error="DatabaseUnavailable"),
        read(Kind.USER, "u", None, 26, error="!KeyError('u')"),
    )
    assert verdict.checked == 0
    assert verdict.errors == {"DatabaseUnavailable": 1, "!KeyError": 1}
    assert [violation.kind for violation in verdict.violations] == ["untyped"]


def lost(changes: tuple[Change, ...], acks: tuple[Ack, ...], left: tuple[str, ...] = ()) -> list[str]:
    checker = Checker(changes, acks)
    checker.check_lost(left)
    assert {violation.kind for violation in checker.verdict.violations} <= {"lost"}
    return [violation.text for violation in checker.verdict.violations]


def test_what_was_committed_and_never_applied_is_lost() -> None:
    assert lost(NAMES, ACKS) == []
    assert lost(NAMES, ACKS[:2]) == ["the outbox's event of 3 was never applied"]
    assert lost(NAMES, (ACKS[0], ACKS[2])) == ["the outbox's event of 2 was never applied"]
    assert lost((FIRST, SECOND, GONE._replace(committed=None)), ACKS[:2]) == []


def test_a_plain_copy_is_no_proof_that_the_outbox_delivered() -> None:
    copies = tuple(each._replace(outbox=False) for each in ACKS)
    assert len(lost(NAMES, copies)) == 3
    assert lost(NAMES, (*copies, *ACKS)) == []


def test_an_event_that_stays_in_the_outbox_has_not_arrived() -> None:
    assert lost(NAMES, ACKS, ("u 2",)) == ["the event of 2 is still in the outbox"]


def test_the_change_stream_must_tell_of_every_change() -> None:
    told = tuple(each._replace(event=None) for each in NAMES)
    acks = tuple(replaced._replace(event=f"stream {place}") for place, replaced in enumerate(ACKS))
    assert lost(told, acks) == []
    assert lost(told, acks[1:]) == ["the change stream told nobody of 1"], "although later ones arrived"
    assert len(lost(told, tuple(each._replace(outbox=False) for each in acks))) == 3


def test_an_event_of_the_change_stream_is_known_by_what_it_tells() -> None:
    told = [each._replace(event=None) for each in NAMES]
    acks = tuple(each._replace(event=f"stream {place}") for place, each in enumerate(ACKS))
    verdict = judged(tuple(told), acks, read(Kind.USER, "u", "u #1", 26), read(Kind.USER, "u", "u #2", 36))
    assert verdict.count("stale") == 2


def test_the_longest_staleness_is_from_the_next_commit_to_the_begin_of_the_read() -> None:
    verdict = judged(NAMES, (ack(FIRST, 15),), read(Kind.USER, "u", "u #1", 29))
    assert verdict.staleness == pytest.approx(0.008)
