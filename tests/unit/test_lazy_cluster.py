"""A Cluster's client is made once, at first use; whoever waits for it waits no longer than is said."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import pytest

from cachekeeper.errors import CacheUnavailable
from cachekeeper.protocol import LazyCluster
from testkit.waiting import wait_until

if TYPE_CHECKING:
    from redis import RedisCluster

LONG = 20.0


class Client:
    """Stands for a Cluster's client: it is made, and closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


class Connecting:
    """Making it takes until it is let go on; then it fails as often as is said."""

    def __init__(self, *, fails: int = 0) -> None:
        self.fails = fails
        self.made: list[Client] = []
        self.attempts = 0
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> RedisCluster:
        self.attempts += 1
        self.begun.set()
        assert self.go_on.wait(LONG)
        if self.attempts <= self.fails:
            raise CacheUnavailable("nobody answered")
        self.made.append(Client())
        return cast("RedisCluster", self.made[-1])


@pytest.fixture
def connecting() -> Connecting:
    return Connecting()


def test_nothing_connects_before_it_is_needed(connecting: Connecting) -> None:
    LazyCluster(connecting, LONG).close()
    assert connecting.attempts == 0


def test_one_connects_and_the_others_have_what_it_made(connecting: Connecting) -> None:
    late = LazyCluster(connecting, LONG)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(late.client)
        assert connecting.begun.wait(LONG)
        others = [pool.submit(late.client) for _ in range(3)]
        connecting.go_on.set()
        clients = [each.result(LONG) for each in (first, *others)]
    assert connecting.attempts == 1
    assert {id(client) for client in (*clients, late.client())} == {id(connecting.made[0])}


def test_nobody_waits_longer_than_is_said(connecting: Connecting) -> None:
    late = LazyCluster(connecting, 0.01)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(late.client)
        try:
            assert connecting.begun.wait(LONG)
            for other in [pool.submit(late.client) for _ in range(3)]:
                with pytest.raises(CacheUnavailable, match="has not answered yet"):
                    other.result(LONG)
            assert not first.done()
        finally:
            connecting.go_on.set()
    assert connecting.attempts == 1
    assert late.client() is first.result(LONG)


def test_a_failure_is_everybodys_and_the_next_one_tries_again() -> None:
    connecting = Connecting(fails=1)
    late = LazyCluster(connecting, LONG)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(late.client)
        assert connecting.begun.wait(LONG)
        attempt = late._attempt
        assert attempt is not None
        other = pool.submit(late.client)
        wait_until(lambda: bool(attempt._condition._waiters), "the other one waits")  # type: ignore[attr-defined]
        connecting.go_on.set()
        for each in (first, other):
            with pytest.raises(CacheUnavailable, match="nobody answered"):
                each.result(LONG)
    assert connecting.attempts == 1
    assert late.client() is cast("object", connecting.made[0])


def test_an_error_that_nobody_expected_keeps_nobody_waiting() -> None:
    def broken() -> RedisCluster:
        raise ZeroDivisionError

    late = LazyCluster(broken, LONG)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            late.client()


def test_what_is_made_after_the_end_is_given_back(connecting: Connecting) -> None:
    late = LazyCluster(connecting, LONG)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(late.client)
        assert connecting.begun.wait(LONG)
        late.close()
        connecting.go_on.set()
        first.result(LONG)
    assert connecting.made[0].closed


def test_what_was_made_is_given_back(connecting: Connecting) -> None:
    connecting.go_on.set()
    late = LazyCluster(connecting, LONG)
    late.client()
    late.close()
    assert connecting.made[0].closed
