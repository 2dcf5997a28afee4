"""Inject the faults of a schedule."""

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

_SPARE_BYTES = 32 * 1024  # that maxmemory leaves free beyond the memory in use
# The code of an interrupted operation. The codes for "not primary" and "shutting down" would not do: after them, a
# driver sends no command until its monitor has seen that state. With a fail point it never sees it: ten seconds pass.
_INTERRUPTED = 11601


class _NotThereError(Exception):
    """The process has ended by itself, and its supervisor has not started it again yet."""


class _NoEffectError(Exception):
    """The fault had no effect: there was no such key, or no server accepted the fail point."""


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was injected.

    Attributes:
        fault: the fault, as scheduled.
        began, ended: monotonic nanoseconds. A kill ends when the killed process runs again.
        problem: why the fault had no effect; None if it had one. A flush of a server that is down has no effect.
    """

    fault: Fault
    began: int
    ended: int
    problem: str | None


class Injector:
    """Injects the faults of a schedule, with one thread for each target.

    Args:
        stack: the servers and processes that the faults hit.
        faults: the faults, with their times.
        seed: chooses what the schedule leaves open: which keys are dropped.
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
        """Begin to inject the faults; their times count from now."""
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until the last fault has ended. Then reads fail no more, even if fewer than scheduled have failed.

        Raises:
            ServerFailed, TimeoutError: a killed process did not start again, or the replica set is not in step.
        """
        for thread in self._threads:
            thread.join()
        for error in self.failed:
            raise error
        self._tell_mongo({"mode": "off"})

    def abandon(self) -> None:
        """Inject no more faults, and wait until those under way have ended. The run has failed already."""
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
        except (OSError, AMQPError) as error:  # RabbitMQ has just started, and its queues have no leader yet
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
                finally:  # Redis refuses the SET when it finds nothing more to evict
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
        """Make `find` commands of the product's clients slow, or make them fail."""
        which: dict[str, Any] = {"failCommands": ["find"], "appName": "cachekeeper"}
        fails = fault.kind == "fail"
        fail = {"mode": {"times": int(fault.amount)}, "data": {**which, "errorCode": _INTERRUPTED}}
        slow = {"mode": "alwaysOn", "data": {**which, "blockConnection": True, "blockTimeMS": int(fault.amount)}}
        taken = self._tell_mongo(fail if fails else slow)
        if taken:
            time.sleep(fault.seconds)
        if not (taken and fails):  # a paused server may still read a fail point after it resumes
            self._tell_mongo({"mode": "off"})
        if not taken:
            raise _NoEffectError

    def _tell_mongo(self, how: Mapping[str, Any]) -> int:
        """Set or end the fail point on every server that is up. Return how many servers accepted it."""
        taken = 0
        for server in self._stack.mongods:
            with suppress(PyMongoError), server.direct_client(serverSelectionTimeoutMS=500, timeoutMS=1000) as client:
                client.admin.command({"configureFailPoint": "failCommand", **how})
                taken += 1
        return taken

    def _shake(self, fault: Fault, members: ReplicaSet) -> None:
        """Inject a fault of the replica set, and wait until its members are in step again."""
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
                finally:  # if it was elected meanwhile, it fetches from no other member
                    members.catch_up(lagging)
            case "roll-back":
                members.roll_back(_doomed)
        members.await_in_step()


def _doomed(client: MongoClient[dict[str, Any]]) -> None:
    """Make changes without waiting for a majority. No read may ever see them. Later changes reuse their versions."""
    number = 900_000
    raised = {"version": {"$add": [{"$ifNull": ["$version", 0]}, 1]}, "number": number}
    database = client[DATABASE]
    for _ in range(3):
        database["users"].update_many({}, [{"$set": {**raised, "name": {"$concat": ["$_id", f" #{number}"]}}}])
        database["products"].update_many({}, [{"$set": raised}])
        time.sleep(0.1)
