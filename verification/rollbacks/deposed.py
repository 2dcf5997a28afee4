"""A MongoDB primary that is frozen, replaced, and thawed: which readers still get its old data?

The measurement creates the worst case. The reader's driver has not heard of the election, and its loads wait in the
frozen primary's socket. The thawed primary answers them before it learns that it is deposed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from cachekeeper import Keeper, Settings, Unavailable
from cachekeeper.applying.batch import apply
from cachekeeper.devservers import Guardian, RedisServer, find_mongod, find_redis
from cachekeeper.model.commands import Command, Invalidate, Write
from lookups import USER_NAME, read_user
from testkit.replica_set import Client, Member, ReplicaSet
from testkit.report import Figure, at_most, plain

TIMES = 8
# The time for loads to reach the frozen primary. It is well below their time limit of 2 seconds.
HELD_SECONDS = 0.3
WATCHED_SECONDS = 1.5
# Normally, a driver hears of an election from the other members within milliseconds. With these options, it learns of
# the election only from errors.
LATE = "&heartbeatFrequencyMS=600000&serverMonitoringMode=poll"
OLD, NEW = "old", "new"


@dataclass
class Reader:
    """Loads one name again and again, each time as if Redis had just evicted it.

    Attributes:
        label: the reader's name in the figures.
        keeper: reads through it.
        user: the id of the user whose name is loaded.
        versioned: whether the document and its events have a version.
        never: whether a load must never return the old name.
        loads: how many loads began after the change was acknowledged.
        refused: how many of these loads raised `Unavailable`.
        returned: how many of these loads returned the old name.
        cached: after how many of the loads that returned the old name Redis held it.
        last: the time from the thaw to the end of the last load that returned the old name, in seconds. The longest
            of all repetitions.
    """

    label: str
    keeper: Keeper
    user: int
    versioned: bool = False
    never: bool = False
    loads: int = 0
    refused: int = 0
    returned: int = 0
    cached: int = 0
    last: float = 0.0
    _olds: list[float] = field(default_factory=list)

    def document(self, name: str) -> dict[str, Any]:
        """The user's document with this name."""
        return {"_id": self.user, "name": name, **({"version": int(name == NEW) + 1} if self.versioned else {})}

    def event(self) -> Command:
        """The command for the change to the new name."""
        part = str(self.user)
        return Write(USER_NAME, part, NEW, 2) if self.versioned else Invalidate(USER_NAME, part)

    def read_until(self, stopping: threading.Event) -> None:
        """Load until `stopping` is set."""
        key = USER_NAME.template.key(str(self.user))
        redis = self.keeper.store(USER_NAME.server).client
        while not stopping.is_set():
            redis.delete(key)
            self.loads += 1
            try:
                name = read_user(self.user, keeper=self.keeper)
            except Unavailable:
                self.refused += 1
                continue
            if name == OLD:
                self._olds.append(time.monotonic())
                self.cached += redis.get(key) == OLD.encode()

    def settle(self, thawed: float) -> None:
        """Add the results of one repetition. `thawed` is when the primary was thawed."""
        self.returned += len(self._olds)
        self.last = max([self.last, *(moment - thawed for moment in self._olds)])
        self._olds.clear()


def figures(guardian: Guardian) -> list[Figure]:
    """Depose primaries, and return the figures of all readers."""
    with ExitStack() as stack:
        redis = RedisServer(guardian, find_redis(), name="deposed")
        redis.start()
        stack.callback(redis.kill)
        replica_set = stack.enter_context(ReplicaSet(guardian, find_mongod()))
        client = stack.enter_context(replica_set.client())

        def keeper(options: str = "", **changes: Any) -> Keeper:
            made = Keeper(Settings(redis_url=redis.url, mongodb_url=replica_set.url + options, **changes))
            stack.callback(made.close)
            return made

        readers = [
            Reader("majority", keeper(), 1),
            Reader("majority, the driver is late", keeper(LATE), 2),
            Reader("majority, the driver is late, with a version", keeper(LATE), 3, versioned=True, never=True),
            Reader("linearizable, the driver is late", keeper(LATE, read_concern="linearizable"), 4, never=True),
        ]
        for _ in range(TIMES):
            _depose(replica_set, client, readers)
        assert readers[1].returned, "no old name was returned: without the worst case, the zeros prove nothing"
    return [figure for reader in readers for figure in _figures(reader)]


def _depose(replica_set: ReplicaSet, client: Client, readers: list[Reader]) -> None:
    """Freeze the primary, have it replaced, change all names, let the readers ask for them, and thaw it."""
    primary = replica_set.await_in_step()
    for reader in readers:
        client.shop.users.replace_one({"_id": reader.user}, reader.document(OLD), upsert=True)
    readers[0].keeper.store(USER_NAME.server).client.flushall()
    for reader in readers:
        assert read_user(reader.user, keeper=reader.keeper) == OLD  # now its driver knows the primary, too
    with _frozen(primary):
        replica_set.await_primary(other_than=primary)
        with replica_set.client() as informed:
            for reader in readers:
                informed.shop.users.replace_one({"_id": reader.user}, reader.document(NEW))
        for result in apply(readers[0].keeper, [[reader.event()] for reader in readers]):
            assert result.error is None
        # The change is acknowledged. From here on, a load that returns the old name is wrong.
        stopping = threading.Event()
        threads = [threading.Thread(target=reader.read_until, args=(stopping,)) for reader in readers]
        for thread in threads:
            thread.start()
        time.sleep(HELD_SECONDS)
        thawed = time.monotonic()
    time.sleep(WATCHED_SECONDS)
    stopping.set()
    for thread in threads:
        thread.join()
    for reader in readers:
        reader.settle(thawed)


@contextmanager
def _frozen(member: Member) -> Iterator[None]:
    member.pause()
    try:
        yield
    finally:
        member.resume()


def _figures(reader: Reader) -> list[Figure]:
    said = f"deposed primary, {reader.label}"
    returned, cached = f"{said}: returned the old value", f"{said}: and left it in Redis"
    figures = [
        plain(f"{said}: loads begun after the acknowledgement", reader.loads, "loads"),
        plain(f"{said}: of these refused with an error", reader.refused, "loads"),
    ]
    if reader.never:
        return [*figures, at_most(returned, reader.returned, 0, "loads"), at_most(cached, reader.cached, 0, "loads")]
    return [
        *figures,
        plain(returned, reader.returned, "loads"),
        plain(cached, reader.cached, "loads"),
        plain(f"{said}: the last of them after the thaw", reader.last, "seconds"),
    ]
