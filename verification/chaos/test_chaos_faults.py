"""A fault that finds no target has no effect: it is not counted, and does not act later."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import ServerSelectionTimeoutError

from cachekeeper.devservers import FoundServer, Guardian
from testkit.replica_set import MEMBERS, ReplicaSet
from verification.chaos.faults import Injector
from verification.chaos.schedule import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator


class Mongod:
    """A server that accepts commands, or is down."""

    def __init__(self, *, up: bool) -> None:
        self.up = up
        self.told: list[Any] = []
        self.admin = self

    @contextmanager
    def direct_client(self, **_: object) -> Iterator[Mongod]:
        yield self

    def command(self, what: dict[str, Any]) -> None:
        self.told.append(what["mode"])
        if not self.up:
            raise ServerSelectionTimeoutError


class Cache:
    """A Redis that holds these keys."""

    def __init__(self, *keys: bytes) -> None:
        self.keys = set(keys)

    @contextmanager
    def client(self, **_: object) -> Iterator[Cache]:
        yield self

    def scan_iter(self, **_: object) -> list[bytes]:
        return sorted(self.keys)

    def unlink(self, *keys: bytes) -> int:
        found = self.keys & set(keys)
        self.keys -= found
        return len(found)


class Stack:
    """The parts of a stack that these faults need."""

    def __init__(self, *, mongods: tuple[Mongod, ...] = (), cache: Cache | None = None) -> None:
        self.mongods = mongods
        self.cache = cache


def problem(stack: Stack, fault: Fault) -> str | None:
    injector = Injector(stack, [fault], 1)  # type: ignore[arg-type]  # the parts that are used
    injector.start()
    injector.join()
    (injected,) = injector.injected
    return injected.problem


@pytest.mark.parametrize("kind", ["slow", "fail"])
def test_reads_are_spoiled_where_one_server_took_it(kind: str) -> None:
    fault = Fault(0, "reads", kind, 0.01, 5)
    away, up = Mongod(up=False), Mongod(up=True)
    assert problem(Stack(mongods=(away,)), fault) == "_NoEffectError"
    assert away.told[1:] == ["off", "off"], "off at once, not only at the end: a paused server may read it later"
    assert problem(Stack(mongods=(away, up)), fault) is None


@pytest.mark.parametrize(("kind", "key"), [("drop-values", b"u"), ("drop-metadata", b"{u}:meta")])
def test_keys_are_dropped_where_there_are_any(kind: str, key: bytes) -> None:
    fault = Fault(0, "keys", kind, 0, 1)
    cache = Cache(b"u", b"{u}:meta")
    assert problem(Stack(cache=cache), fault) is None
    assert key not in cache.keys
    assert len(cache.keys) == 1
    assert problem(Stack(cache=cache), fault) == "_NoEffectError"


def test_a_member_that_does_not_answer_is_no_less_a_member(guardian: Guardian) -> None:
    members = ReplicaSet(guardian, FoundServer("mongod", "6.0.5", Path("mongod"), "PATH"))
    primary, *others = members.members
    assert members.secondaries() == ()
    assert members.others(primary) == tuple(others)
    assert len(others) == MEMBERS - 1
