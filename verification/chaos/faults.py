"""Faults, brought about."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
from amqp import AMQPError
from pymongo.errors import PyMongoError

from cachekeeper.values.keys import key_of_meta
from verification.chaos.schedule import LINES
from verification.chaos.stack import DATABASE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymongo import MongoClient

    from cachekeeper.devservers import ServerProcess
    from testkit.replica_set import ReplicaSet
    from verification.chaos.schedule import Fault
    from verification.chaos.stack import Stack

_SPARE_BYTES = 32 * 1024  # beyond what is used, while maxmemory is small
# As a killed operation. Not a code that says of the server that it is no primary or shuts down: while its monitor waits
# for word of that, which a server that only pretends never sends, a driver asks it nothing, for ten seconds.
_INTERRUPTED = 11601


class _NotThereError(Exception):
    """The process has ended by itself, and its supervisor has not started it again yet."""


class _NoEffectError(Exception):
    """There was nothing that it could befall: no such key, no server that took it."""


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that came about.

    Attributes:
        fault: as scheduled.
        began, ended: monotonic nanoseconds; the end is when what was killed runs again.
        problem: why it did not; None where it did. (A flush of a server that is down is none.)
    """

    fault: Fault
    began: int
    ended: int
    problem: str | None


class Injector:
    """Brings a schedule's faults about, each target's in a thread of its own.

    Args:
        stack: whose.
        faults: which, and when.
        seed: for what the schedule leaves open: which keys are dropped.
    """

    def __init__(self, stack: Stack, faults: Sequence[Fault], seed: int) -> None:
        self._stack = stack
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self.injected: list[Injected] = []
        self.failed: list[BaseException] = []
        by_target: dict[str, list[Fault]] = {}
        for fault in faults:
            by_target.setdefault(fault.target, []).append(fault)
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in by_target.values()]
        self._abandoned = threading.Event()
        self._began = 0.0

    def start(self) -> None:
        """The run has begun."""
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until the last fault has ended. What failing reads have not used up is taken back.

        Raises:
            ServerFailed, TimeoutError: what was killed did not start again, or the replica set is not in step.
        """
        for thread in self._threads:
            thread.join()
        for error in self.failed:
            raise error
        self._tell_mongo({"mode": "off"})

    def abandon(self) -> None:
        """Bring about no more of them; wait until those under way have ended. The run has failed already."""
        self._abandoned.set()
        for thread in self._threads:
            thread.join()

    def _run(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            if self._abandoned.wait(max(self._began + fault.at - time.monotonic(), 0)):
                return
            began, problem = time.monotonic_ns(), None
            try:
                self._inject(fault)
            except (redis.RedisError, PyMongoError, _NotThereError, _NoEffectError) as error:
                problem = type(error).__name__
            except Exception as error:  # noqa: BLE001  # raised by `join`
                self.failed.append(error)
                return
            with self._lock:
                self.injected.append(Injected(fault, began, time.monotonic_ns(), problem))

    def _inject(self, fault: Fault) -> None:
        target, kind = fault.target, fault.kind
        if target in LINES:
            self._disturb(fault)
        elif target == "keys":
            self._forget(fault)
        elif target == "reads":
            self._spoil_reads(fault)
        elif target == "events":
            for writer in self._stack.writers:
                writer.ask("again", (int(fault.amount), kind == "again-one-by-one"))
        elif target == "set":
            assert self._stack.members is not None
            self._shake(fault, self._stack.members)
        elif kind == "purge":
            self._purge()
        elif kind == "flush":
            with self._stack.security.client(timeout=1) as client:
                client.flushall()
        else:
            with self._stack.tending(target):
                self._strike(fault, self._stack.process(target))

    def _strike(self, fault: Fault, process: ServerProcess) -> None:
        if fault.kind == "stop":
            if not process.alive:
                raise _NotThereError
            process.pause()
            time.sleep(fault.seconds)
            process.resume()
            return
        process.kill()
        time.sleep(fault.seconds)
        if fault.kind == "lose":
            process.restart(keep_data=False)
        else:
            process.start()

    def _purge(self) -> None:
        try:
            self._stack.forget_messages()
        except (OSError, AMQPError) as error:  # it has just started, and its queues have no leader yet
            raise _NotThereError from error

    def _disturb(self, fault: Fault) -> None:
        proxy, line = self._stack.proxy, fault.target
        match fault.kind:
            case "slow":
                proxy.slow(line, fault.amount)
                time.sleep(fault.seconds)
                proxy.slow(line, 0)
            case "stall":
                proxy.stall(line, stalled=True)
                time.sleep(fault.seconds)
                proxy.stall(line, stalled=False)
            case "half-open":
                proxy.half_open(line, opened=True)
                time.sleep(fault.seconds)
                proxy.half_open(line, opened=False)
            case "cut":
                proxy.cut(line)

    def _forget(self, fault: Fault) -> None:
        with self._stack.cache.client(timeout=1) as client:
            if fault.kind == "flush":
                client.flushall()
            elif fault.kind == "squeeze":
                used: Any = client.info("memory")
                client.config_set("maxmemory", used["used_memory"] + _SPARE_BYTES)
                try:
                    for number in range(int(fault.amount)):
                        client.set(f"ballast:{number}", "." * 1000, px=1000)
                finally:  # it may have found nothing more to evict, and refused
                    client.config_set("maxmemory", 0)
            else:
                metadata = fault.kind == "drop-metadata"
                keys = [
                    key
                    for key in client.scan_iter(count=1000)
                    if (key_of_meta(key.decode()) != key.decode()) is metadata
                ]
                gone = [key for key in keys if self._dice.random() < fault.amount]
                if not gone or not client.unlink(*gone):
                    raise _NoEffectError

    def _spoil_reads(self, fault: Fault) -> None:
        """Let finds of the product's clients take long, or fail."""
        which: dict[str, Any] = {"failCommands": ["find"], "appName": "cachekeeper"}
        fails = fault.kind == "fail"
        fail = {"mode": {"times": int(fault.amount)}, "data": {**which, "errorCode": _INTERRUPTED}}
        slow = {"mode": "alwaysOn", "data": {**which, "blockConnection": True, "blockTimeMS": int(fault.amount)}}
        taken = self._tell_mongo(fail if fails else slow)
        if taken:
            time.sleep(fault.seconds)
        if not (taken and fails):  # what nobody took, a server that is frozen reads when it is thawed
            self._tell_mongo({"mode": "off"})
        if not taken:
            raise _NoEffectError

    def _tell_mongo(self, how: Mapping[str, Any]) -> int:
        """Set or end the failing of commands, on every server that is up; how many took it."""
        taken = 0
        for server in self._stack.mongods:
            with suppress(PyMongoError), server.direct_client(serverSelectionTimeoutMS=500, timeoutMS=1000) as client:
                client.admin.command({"configureFailPoint": "failCommand", **how})
                taken += 1
        return taken

    def _shake(self, fault: Fault, members: ReplicaSet) -> None:
        """What befalls a replica set."""
        match fault.kind:
            case "step-down":
                members.step_down()
            case "stop-primary":
                primary = members.await_primary()
                primary.pause()
                time.sleep(fault.seconds)
                primary.resume()
            case "lag":
                lagging, *_ = members.others(members.await_primary())
                try:
                    members.lag(lagging)
                    time.sleep(fault.seconds)
                finally:  # it may have been elected meanwhile, and fetch from nobody
                    members.catch_up(lagging)
            case "roll-back":
                members.roll_back(_doomed)
        members.await_in_step()


def _doomed(client: MongoClient[dict[str, Any]]) -> None:
    """Changes by a service that does not wait for a majority. Nobody is ever to see them; their versions come again."""
    number = 900_000
    raised = {"version": {"$add": [{"$ifNull": ["$version", 0]}, 1]}, "number": number}
    database = client[DATABASE]
    for _ in range(3):
        database["users"].update_many({}, [{"$set": {**raised, "name": {"$concat": ["$_id", f" #{number}"]}}}])
        database["products"].update_many({}, [{"$set": raised}])
        time.sleep(0.1)
