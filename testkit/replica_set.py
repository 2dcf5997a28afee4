"""A MongoDB replica set of three: real elections, a secondary that lags, and failovers that roll writes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, TypeVar

import pymongo
from bson import Timestamp
from pymongo.errors import PyMongoError

from cachekeeper.devservers import FoundServer, Guardian, MongoServer
from cachekeeper.devservers.mongo_server import REPLICA_SET

MEMBERS = 3
HEARTBEAT_SECONDS = 0.2
PROBE_SECONDS = 0.02
_UNDOING_SECONDS = 12.0  # usually it takes 2 s
PATIENCE_SECONDS = 30.0
# The failpoint where a secondary fetches the primary's writes. (With `rsSyncApplyStop` a secondary only stops applying:
# it has the writes already and applies them before it takes over, so no write would ever be rolled back.)
_FETCHING = "stopReplProducer"

T = TypeVar("T")
Client = pymongo.MongoClient[dict[str, Any]]


class Member(MongoServer):
    """A `mongod` of a set, ready when it answers. It has `pause` (SIGSTOP), `resume`, `kill` and `restart`."""

    def _not_in_role(self, client: Client) -> str | None:  # noqa: ARG002  # the set decides its role
        return None

    def hello(self) -> dict[str, Any] | None:
        """Return its answer to `hello`; None if it does not answer within half a second."""
        try:
            with self.direct_client(serverSelectionTimeoutMS=500, socketTimeoutMS=500) as client:
                return client.admin.command("hello")
        except PyMongoError:
            return None

    def command(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Run a command on its database `admin`."""
        with self.direct_client(serverSelectionTimeoutMS=5000) as client:
            return client.admin.command(*arguments, **options)


class ReplicaSet:
    """Three members on free ports of 127.0.0.1. Use as a context, or call `start` and `close`.

    If the primary is killed or paused, another member replaces it about `election_seconds` later. Secondaries replicate
    only from the primary, so a secondary that lags does not hold up the other one.

    Args:
        guardian: ends the processes if this one cannot.
        found: the `mongod` program.
        database: the database that `url` names.
        election_seconds: how long the others wait for a lost primary before they elect a new one.
    """

    def __init__(
        self, guardian: Guardian, found: FoundServer, *, database: str = "shop", election_seconds: float = 1.0
    ) -> None:
        self.found = found
        self.database = database
        self.election_seconds = election_seconds
        self.members = tuple(
            Member(
                guardian,
                found,
                parameters={"enableTestCommands": 1},
                database=database,
                name=f"mongodb-{number}",
            )
            for number in range(MEMBERS)
        )

    @property
    def url(self) -> str:
        """The URL of the given database."""
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        """Return the URL of a database."""
        hosts = ",".join(_host(member) for member in self.members)
        return f"mongodb://{hosts}/{database}?replicaSet={REPLICA_SET}"

    def client(self, **options: Any) -> Client:
        """Return a new client; the caller closes it.

        Args:
            options: options of `pymongo.MongoClient`.
        """
        return pymongo.MongoClient(self.url, **options)

    def start(self) -> None:
        """Start all members, and wait for the first primary and for the others to follow it.

        Raises:
            ServerFailed: a member did not start; all others have been stopped.
        """
        try:
            for member in self.members:
                member.start()
            self.members[0].command(
                "replSetInitiate",
                {
                    "_id": REPLICA_SET,
                    "members": [{"_id": number, "host": _host(member)} for number, member in enumerate(self.members)],
                    "settings": {
                        "electionTimeoutMillis": round(self.election_seconds * 1000),
                        "heartbeatIntervalMillis": round(HEARTBEAT_SECONDS * 1000),
                        "chainingAllowed": False,
                    },
                },
            )
            self.await_in_step()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Kill all members. Idempotent."""
        for member in self.members:
            member.kill()

    def primary(self) -> Member | None:
        """Return the member that reports itself as primary, of several the one in the latest term; or None."""
        said = [(member, hello) for member in self.members if member.alive and (hello := member.hello())]
        primaries = [(hello["electionId"], member) for member, hello in said if hello["isWritablePrimary"]]
        return max(primaries, key=lambda one: one[0])[1] if primaries else None

    def secondaries(self) -> tuple[Member, ...]:
        """Return the members that report themselves as secondaries."""
        return tuple(member for member in self.members if member.alive and (member.hello() or {}).get("secondary"))

    def others(self, primary: Member) -> tuple[Member, ...]:
        """Return all members except the primary, even if they do not answer now: a slow one has a vote and a copy."""
        return tuple(member for member in self.members if member is not primary)

    def await_primary(self, *, other_than: Member | None = None, seconds: float = PATIENCE_SECONDS) -> Member:
        """Wait for a primary.

        Args:
            other_than: the deposed primary, which may still report itself as primary.
            seconds: the time limit.

        Raises:
            TimeoutError: there was no primary in time.
        """

        def look() -> Member | None:
            found = self.primary()
            return None if found is other_than else found

        return _wait_for(look, "no primary", seconds)

    def await_in_step(self, *, seconds: float = PATIENCE_SECONDS) -> Member:
        """Wait until every member is up and has all writes that the primary had when asked; return the primary.

        Raises:
            TimeoutError: the members did not catch up in time.
        """

        def look() -> Member | None:
            primary = self.primary()
            if primary is None or len(self.secondaries()) < MEMBERS - 1:
                return None
            wanted = _applied(primary)  # asked first, because the primary may take more writes
            return primary if all(_applied(member) >= wanted for member in self.members) else None

        return _wait_for(look, "the members have not caught up", seconds)

    def step_down(self) -> Member:
        """Have the primary hand over to a secondary, and return the new primary.

        Raises:
            TimeoutError: no secondary took over in time.
        """
        deposed = self.await_primary()
        deposed.command("replSetStepDown", 3, secondaryCatchUpPeriodSecs=2)
        return self.await_primary(other_than=deposed)

    def lag(self, member: Member) -> None:
        """Let a secondary fall behind: it answers reads from the data that it has now, and replicates no new writes.

        It still votes, and can be elected. Then it is the primary, without the writes that it has missed.
        """
        times = member.command("configureFailPoint", _FETCHING, mode="alwaysOn")["count"]
        member.command("waitForFailPoint", _FETCHING, timesEntered=times + 1, maxTimeMS=round(PATIENCE_SECONDS * 1000))

    def catch_up(self, member: Member) -> None:
        """Undo `lag`. The member has caught up about a second later (see `await_in_step`)."""
        member.command("configureFailPoint", _FETCHING, mode="off")

    def roll_back(self, write: Callable[[Client], object]) -> Member:
        """Force a failover that rolls back the writes of `write`; return the member that lost them, caught up again.

        The secondaries stop replicating; the primary takes the writes alone; it is killed; one of the others takes
        over, without them; the old primary comes back and rolls them back.

        Args:
            write: called with a client of the doomed primary, which alone acknowledges the writes (`w: 1`). The writes
                are visible only while `write` runs, and only to reads without read concern majority.

        Raises:
            TimeoutError: the set did not recover in time.
        """
        doomed = self.await_in_step()
        others = self.others(doomed)
        try:
            for other in others:
                self.lag(other)
            # Journaled: otherwise the writes would be lost with the killed process, and not be rolled back.
            with doomed.direct_client(w=1, journal=True) as client:
                write(client)
            doomed.kill()
        finally:
            for other in others:
                self.catch_up(other)
        self.await_primary(other_than=doomed)
        # mongod 6.0.5 sometimes hangs forever after it logs "Rolling back to the stable timestamp". After a restart it
        # tries again with the data on its disk. If that fails too, it is restarted without data and gets everything
        # from the primary, as an operator would do it. In all cases the writes are gone.
        for keep_data in (True, True, False):
            doomed.restart(keep_data=keep_data)
            with suppress(TimeoutError):
                self.await_in_step(seconds=_UNDOING_SECONDS)
                return doomed
        self.await_in_step()
        return doomed

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _host(member: Member) -> str:
    return f"127.0.0.1:{member.port}"


def _applied(member: Member) -> tuple[int, Timestamp]:
    """Return the term and the time of the member's last write."""
    last = (member.hello() or {}).get("lastWrite", {}).get("opTime", {})
    return last.get("t", -1), last.get("ts", Timestamp(0, 0))


def _wait_for(look: Callable[[], T | None], what_not: str, seconds: float) -> T:
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what_not} after {seconds:g} s")
        time.sleep(PROBE_SECONDS)
    return found
