"""One run: a broker, a worker, a publisher and a reader, a proxy that cuts their connections, and measurements."""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
import time
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import psutil

from cachekeeper.devservers.worker_process import WorkerProcess
from cachekeeper.upkeep.audit import audit
from lookups.users import USER_NAME
from testkit.delivering import Program, Site
from verification.chaos.proxy import Proxy
from verification.soak import publisher, reader
from verification.soak.brokers import broker_of, look_until
from verification.soak.judging import LEAST_CUTS
from verification.soak.reporting import MUTANT, PORTS, REPORT, VISIBILITY, read_report
from verification.soak.sampling import Sample, Soaked, levels_of
from verification.soak.workload import USERS, stock

if TYPE_CHECKING:
    from cachekeeper.devservers import Guardian, MongoServer, RedisServer, ServerProcess
    from testkit.servers import RabbitServer

WORKER, PUBLISHER, READER = "worker", "publisher", "reader"
PREFETCH = 16  # four for each of the worker's four threads
_READS = 20.0  # reads a second
_LOOK_SECONDS = 1.0
_STALL_SECONDS = 2.0
_SOON = 300.0
_QUIET_LOOKS = 3
_LONGER = 3  # times
_VISIBILITY_SECONDS = 60  # as shipped


class Run:
    """The processes of a run, on servers that are already running.

    Args:
        guardian: ends the processes that the run starts.
        broker: only the run may use its queue.
        cache: emptied by the run.
        mongo: the run has its own database there.
        rate: events a second.
        mutant: known-bad variants of the worker or the publisher, separated by commas; `""` for the shipped code.
        visibility: seconds until a Redis broker delivers a message again that was not acknowledged; None for the
            shipped value.
    """

    def __init__(
        self,
        guardian: Guardian,
        broker: RedisServer | RabbitServer,
        cache: RedisServer,
        mongo: MongoServer,
        *,
        rate: float,
        mutant: str = "",
        visibility: int | None = None,
    ) -> None:
        self.site = Site(guardian, broker, cache, mongo, f"soak_{uuid.uuid4().hex[:8]}")
        self.broker = broker_of(broker)
        self.proxy = Proxy()
        ports = {"broker": broker.port, "cache": cache.port, "mongo": mongo.port}
        led = {port: self.proxy.lead(line, port) for line, port in ports.items()}
        directory = guardian.directory()
        self.reports = {name: directory / f"{name}.json" for name in (WORKER, PUBLISHER, READER)}
        urls = {
            "CACHEKEEPER_MONGODB_URL": mongo.url_of(self.site.database),
            "CACHEKEEPER_BROKER_URL": broker.url,
            "CACHEKEEPER_REDIS_URL": cache.url,
            PORTS: json.dumps(led),
            MUTANT: mutant,
            **({VISIBILITY: str(visibility)} if visibility else {}),
        }
        environments = {name: {**urls, REPORT: str(path)} for name, path in self.reports.items()}
        self.processes: dict[str, ServerProcess] = {
            WORKER: WorkerProcess(guardian, environments[WORKER], app="verification.soak.worker"),
            PUBLISHER: Program(guardian, publisher.__name__, f"{rate:g}", environments[PUBLISHER], says=publisher.SAYS),
            READER: Program(guardian, reader.__name__, f"{_READS:g}", environments[READER], says=reader.SAYS),
        }
        self._visibility = visibility or _VISIBILITY_SECONDS
        self._cuts = 0
        self._last_cut = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            stack.callback(self.proxy.close)
            stack.callback(self.site.close)
            stack.callback(self.site.mongo_client.drop_database, self.site.database)
            for process in self.processes.values():
                stack.callback(process.kill)

    def result(self, duration: float, cut_seconds: float, seed: int) -> Soaked:
        """Run under load and cut connections regularly. Then wait for the last event, and return the measurements.

        Args:
            duration: seconds of load; up to three times as many until there were enough cuts to judge by. On a busy
                machine, the worker takes longer to connect, and cuts wait for it.
            cut_seconds: seconds between two cuts.
            seed: decides the order of the kinds of cut.
        """
        soaked = Soaked(duration, configured=PREFETCH)
        self.site.client.flushall()
        stock(self.site.db)
        for process in self.processes.values():
            process.start()
        ending = threading.Event()
        looking = threading.Thread(target=look_until, args=(ending, self.broker, soaked), daemon=True)
        looking.start()
        try:
            self._load(soaked, duration, cut_seconds, random.Random(seed))
            self._drain(soaked)
        finally:
            ending.set()
            looking.join()
        assert soaked.queued, f"no look at the broker succeeded: {soaked.failed_looks}"
        self._judge(soaked)
        return soaked

    # --- the load

    def _load(self, soaked: Soaked, duration: float, cut_seconds: float, rng: random.Random) -> None:
        began = time.monotonic()
        self._last_cut = began
        watched = {name: psutil.Process(process.pid) for name, process in self.processes.items()}
        cuts = (began + cut_seconds * number for number in itertools.count(1))
        next_cut, last, latest = next(cuts), began + duration, began + duration * _LONGER
        for number in itertools.count(1):
            time.sleep(max(0.0, began + number * _LOOK_SECONDS - time.monotonic()))
            now = time.monotonic()
            self._assert_alive()
            self._take(soaked, now - began, watched)
            # No cut comes in the last interval, so that calm seconds follow each cut.
            # No cut comes before the worker has been connected for a while, which takes longer on a busy machine.
            is_calm = soaked.samples[-1].calm >= cut_seconds / 2
            if now >= next_cut and is_calm and now + cut_seconds <= last:
                self._cut(rng)
                next_cut = next(cuts)
            if self._cuts < LEAST_CUTS and now + cut_seconds > last:
                last = min(last + cut_seconds, latest)
            if now >= last:
                soaked.duration = last - began
                soaked.looks_due = soaked.duration / self.broker.look_seconds
                return

    def _take(self, soaked: Soaked, at: float, watched: dict[str, psutil.Process]) -> None:
        facts = read_report(self.reports[WORKER])
        if facts:
            soaked.prefetch.append(max(facts["prefetch"], facts["wanted"]))
            soaked.in_hand.append(facts["in_hand"])
            soaked.reconnects = facts["connections"] - 1
        events = read_report(self.reports[PUBLISHER]).get("published", 0)
        levels = {name: levels_of(process) for name, process in watched.items()}
        soaked.samples.append(Sample(at, self._cuts, self._calm(facts.get("connected_at", 0.0)), events, levels))
        soaked.spent = {name: sum(process.cpu_times()[:2]) for name, process in watched.items()}
        soaked.load.append(os.getloadavg()[0])

    def _calm(self, connected_at: float) -> float:
        """For how many seconds the worker has been connected since the last cut; 0 if it is not connected."""
        if not connected_at or (self._cuts and connected_at < self._last_cut):
            return 0.0
        return time.monotonic() - max(connected_at, self._last_cut)

    def _cut(self, rng: random.Random) -> None:
        """Cut all connections to the broker, and sometimes those to the other servers.

        One time in three, the broker hangs for a while before.
        """
        if rng.randrange(3) == 0:
            self.proxy.stall("broker", stalled=True)
            time.sleep(_STALL_SECONDS)
            self.proxy.stall("broker", stalled=False)
        # Set before the cut, so that a connection made right after the cut counts.
        self._last_cut = time.monotonic()
        self.proxy.cut("broker")
        if rng.randrange(2) == 0:
            self.proxy.cut("cache")
        if rng.randrange(4) == 0:
            self.proxy.cut("mongo")
        self._cuts += 1

    def _assert_alive(self) -> None:
        for process in self.processes.values():
            assert process.alive, f"{process.name} {process.exit_text}\n{process.log_tail(60)}"

    # --- the end

    def _drain(self, soaked: Soaked) -> None:
        """Stop the publisher, and wait until no message waits in the queue or is in flight.

        On Redis, messages of a broken connection stay in flight until the visibility timeout. Then they come again.
        """
        source = self.processes[PUBLISHER]
        source.stop(_SOON)
        assert source.exit_text == "exited with status 0", source.log_tail(60)
        soaked.published = read_report(self.reports[PUBLISHER])["published"]
        soaked.retries = read_report(self.reports[PUBLISHER])["retries"]
        quiet = 0
        deadline = time.monotonic() + _SOON + self._visibility
        while quiet < _QUIET_LOOKS:
            assert time.monotonic() < deadline, "messages still wait in the queue or are in flight"
            time.sleep(_LOOK_SECONDS)
            # A look at RabbitMQ is slow, so the cheaper questions come first.
            quiet = quiet + 1 if not self._in_hand() and not self._left() else 0

    def _in_hand(self) -> int:
        return int(read_report(self.reports[WORKER])["in_hand"]) or self.broker.waiting()

    def _left(self) -> int:
        return self.broker.overview().unacked

    def _judge(self, soaked: Soaked) -> None:
        facts: dict[str, Any] = read_report(self.reports[WORKER])
        soaked.applied, soaked.twice = facts["applied"], facts["twice"]
        reading = self.processes[READER]
        reading.stop(_SOON)
        assert reading.exit_text == "exited with status 0", reading.log_tail(60)
        reads = read_report(self.reports[READER])
        soaked.reads, soaked.read_errors = reads["reads"], reads["errors"]
        site = self.site
        found = audit(site.keeper, USER_NAME, grace=1.0)
        soaked.stale = len({*found.wrong, *found.unsettled})
        soaked.cached = site.client.exists(*(USER_NAME.template.key(str(user)) for user in range(USERS)))
        left = self.broker.overview()
        soaked.waiting, soaked.held, soaked.keys = self.broker.waiting(), left.unacked, left.keys
        soaked.letters = len(site.letters)
