"""The schedule of the fault-injection run: a seed replays its faults, and each kind comes often enough."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import asdict

import pytest

from testkit.replica_set import HEARTBEAT_SECONDS, ReplicaSet
from verification.chaos.schedule import LINES, Fault, Series, Station, remembers, schedule, spares_readers, station_of

STATIONS = (
    Station(Series.OUTBOX),
    Station(Series.OUTBOX, rabbit=True),
    Station(Series.STREAM),
    Station(Series.REPLICAS),
)


@pytest.mark.parametrize("station", STATIONS, ids=str)
def test_a_seed_replays_its_faults(station: Station) -> None:
    assert schedule(7, 60, station) == schedule(7, 60, station)
    assert schedule(7, 60, station) != schedule(8, 60, station)


def test_a_seed_replays_its_faults_in_another_process() -> None:
    """The schedule does not depend on this process's hashes. The golden value shows every change of the schedule.

    If a change is intended, update the golden value. Older runs can then no longer be replayed by their seeds.
    """
    code = "from verification.chaos.test_chaos_schedule import fingerprint; print(fingerprint(7))"
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
    """Hash the schedules of a seed and of the three after it, at all stations: all kinds of runs."""
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
    for turn in range(0, 60, 5):  # five runs at one station include both
        assert {remembers(seed) for seed in range(turn, turn + 5)} == {True, False}
        assert any(spares_readers(seed) for seed in range(turn, turn + 5))


@pytest.mark.parametrize("station", STATIONS, ids=str)
def test_readers_are_spared_in_every_fourth_run(station: Station) -> None:
    for seed in range(24):
        targets = {each.target for each in schedule(seed, 20, station)}
        assert any(each.startswith(("reads", "readers-")) for each in targets) is (seed % 4 != 3)
        assert any(each.startswith("workers-") for each in targets)


def test_enough_is_scheduled_in_the_mildest_run() -> None:
    """More faults than `Row.enough` needs, because some will find no target."""
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
    """This holds for the workers of these runs. The product's workers wait a minute. RabbitMQ redelivers at once."""
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
