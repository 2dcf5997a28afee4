"""The changes of the writers, to users, products, sessions and tokens. Each is noted with its begin and its commit."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cachekeeper.errors import Unavailable
from lookups import SessionEnded, block_token, save_session
from lookups.sessions import END_SESSION
from producers import ProductChanged, UserDeleted, UserLoggedOut, UserUpdated
from verification.chaos import workload as load
from verification.chaos.schedule import Series
from verification.chaos.service import GIVE_UP_SECONDS, Service
from verification.chaos.workload import ENDED, Change, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, MutableSequence

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from cachekeeper.model.events import Event


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class _Changer:
    """Base of the changers: makes changes and notes them."""

    def __init__(self, service: Service, tag: str, index: int, dice: random.Random, changes: list[Change]) -> None:
        self.service = service
        self.tag = tag
        self.index = index
        self.dice = dice
        self._changes = changes

    def own(self, count: int) -> int:
        """Choose one of this writer's own numbers below `count`. Low numbers come more often."""
        numbers = range(self.index, count, load.WRITERS)
        return numbers[int(len(numbers) * self.dice.random() ** 2)]

    def note(
        self,
        key: tuple[str, str],
        number: int,
        state: str | int | None,
        make: Callable[[], int | None],
        event: str | None = None,
        *,
        acknowledged: bool = False,
        may_be_refused: bool = False,
    ) -> None:
        """Make a change by calling `make`, and note it."""
        started, before = time.monotonic_ns(), _now_ms()
        refused = False
        try:
            committed = make()
        except SessionEnded:
            if not may_be_refused:
                raise  # the session had not ended: this error fails the run
            committed, refused = None, True
        told = None if self.service.series is Series.STREAM else event
        self._changes.append(
            Change(*key, number, state, started, committed, (before, _now_ms()), told, acknowledged, refused)
        )


class Documents(_Changer):
    """Changes users and products."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._numbers: dict[str, int] = {}
        self._versions: dict[str, int] = {}
        self._states: dict[str, str | None] = {}

    def populate(self) -> None:
        """Create each user and product."""
        for number in range(self.index, load.USERS, load.WRITERS):
            self._change_user(load.user_id(self.tag, number))
        for number in range(self.index, load.PRODUCTS, load.WRITERS):
            self._change_product(number)

    def change(self) -> None:
        """Change one user or product."""
        if self.dice.random() < 0.7:
            self._change_user(load.user_id(self.tag, self.own(load.USERS)))
        else:
            self._change_product(self.own(load.PRODUCTS))

    def _change_user(self, key: str) -> None:
        number = self._numbers.get(key, 0) + 1
        chance, before = self.dice.random(), self._states.get(key)
        version = self._versions.get(key, 0)
        name: str | None = load.user_name(key, number)
        if before is not None and chance < 0.1:
            name = None
        elif before is None or chance < 0.8:
            version += self.dice.choice((1, 1, 3))
        event = (
            UserDeleted(user_id=key)
            if name is None
            else UserUpdated(user_id=key, name=name, version=version if version > self._versions.get(key, 0) else None)
        )
        self._put(self.service.database["users"], Kind.USER, key, number, (before, name, version), event)

    def _change_product(self, place: int) -> None:
        key = load.product_id(self.tag, place)
        number = self._numbers.get(key, 0) + 1
        chance, before = self.dice.random(), self._states.get(key)
        name: str | None = before
        if before is not None and chance < 0.15:
            name = None
        elif before is None or chance < 0.75:
            name = load.product_name(place, (self.dice.choice(load.WORDS), self.dice.choice(load.WORDS)))
        if name is None:
            event = ProductChanged(product_id=key, deleted=True, name=before)
        elif before is not None and self.dice.random() < 0.03:
            event = ProductChanged(product_id=key, name=name, version=number)  # no old name: all searches are removed
        else:
            event = ProductChanged(product_id=key, name=name, previous_name=before, version=number)
        self._put(self.service.database["products"], Kind.PRODUCT, key, number, (before, name, number), event)

    def _put(
        self,
        collection: Collection[dict[str, Any]],
        kind: str,
        key: str,
        number: int,
        names: tuple[str | None, str | None, int],
        event: Event,
    ) -> None:
        before, name, version = names
        fields = {"name": name, "version": version, "number": number}

        def change(session: ClientSession | None) -> object:
            as_before = {"_id": key, "number": number - 1}
            if name is None:
                return collection.delete_one(as_before, session=session).deleted_count
            if before is not None:
                return collection.update_one(as_before, {"$set": fields}, session=session).matched_count
            # The filter has no number: an upsert with one would collide with a document that is already there.
            there = collection.find_one_and_update(
                {"_id": key}, {"$setOnInsert": fields}, {"number": 1}, upsert=True, session=session
            )
            return there is None

        def done() -> bool:
            found = collection.find_one({"_id": key}, {"number": 1})
            return found is None if name is None else found is not None and found["number"] == number

        self.note((kind, key), number, name, lambda: self.service.commit(change, done, event), event.id)
        self._numbers[key], self._versions[key], self._states[key] = number, version, name


class People(_Changer):
    """Changes sessions and tokens."""

    def __init__(
        self,
        service: Service,
        tag: str,
        index: int,
        dice: random.Random,
        changes: list[Change],
        board: MutableSequence[int],
    ) -> None:
        super().__init__(service, tag, index, dice, changes)
        self._board = board
        self._saves: dict[str, int] = {}
        for number in range(index, load.SESSIONS, load.WRITERS):
            board[number] = 0
        board[load.SESSIONS + index] = 0

    def populate(self) -> None:
        """Save each session for the first time."""
        for number in range(self.index, load.SESSIONS, load.WRITERS):
            self._save(load.session_id(self.tag, number, 0))

    def change(self) -> None:
        """Change one session or token."""
        if self.dice.random() < 0.35:
            self._void_token()
            return
        place = self.own(load.SESSIONS)
        key = load.session_id(self.tag, place, self._board[place])
        if self._saves.get(key, 0) > 1 and self.dice.random() < 0.35:
            self._log_out(key)
            if self.dice.random() < 0.5:
                self._save(key, may_be_refused=True)  # like a request that does not know about the logout
            self._board[place] += 1
        else:
            self._save(key)

    def _save(self, key: str, *, may_be_refused: bool = False) -> None:
        number = self._saves[key] = self._saves.get(key, 0) + 1

        def save() -> int | None:
            give_up = time.monotonic() + GIVE_UP_SECONDS
            while time.monotonic() < give_up:
                try:
                    save_session(key, {"id": key, "number": number}, keeper=self.service.keeper)
                except Unavailable:
                    time.sleep(0.02)  # a retry is safe
                else:
                    return time.monotonic_ns()
            return None

        which = (Kind.SESSION, key)
        self.note(which, number, number, save, acknowledged=True, may_be_refused=may_be_refused)

    def _log_out(self, key: str) -> None:
        sessions = self.service.database["sessions"]
        event = UserLoggedOut(session_id=key)

        def end(session: ClientSession | None) -> object:
            if self.service.series is Series.STREAM:
                return sessions.update_one({"_id": key}, list(END_SESSION), session=session).matched_count
            return self._sign(event, session)

        def done() -> bool:
            if self.service.series is not Series.STREAM:
                return self._signed(event)
            found = sessions.find_one({"_id": key}, {"ended_at": 1})
            return found is not None and found.get("ended_at") is not None

        self.note((Kind.SESSION, key), ENDED, None, lambda: self.service.commit(end, done, event), event.id)

    def _void_token(self) -> None:
        place = load.SESSIONS + self.index
        key = load.token_id(self.tag, self.index, self._board[place])
        expires = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=load.BLOCK_SECONDS)
        blocks = self.service.database["blocked_tokens"]
        event = UserLoggedOut(token_id=key, token_expires_at=expires)

        def void(session: ClientSession | None) -> object:
            if self.service.series is Series.STREAM:
                blocks.update_one({"_id": key}, {"$setOnInsert": {"expires_at": expires}}, upsert=True)
                return True
            return self._sign(event, session)

        def commit() -> int | None:
            return self.service.commit(void, lambda: self._signed(event), event)

        def block() -> int | None:
            give_up = time.monotonic() + GIVE_UP_SECONDS
            while time.monotonic() < give_up:
                try:
                    block_token(key, expires, keeper=self.service.keeper)
                except Unavailable:
                    time.sleep(0.02)
                else:
                    self.service.copies.append(
                        UserLoggedOut(token_id=key, token_expires_at=expires - timedelta(hours=1))
                    )
                    return time.monotonic_ns()
            return None

        if self.dice.random() < 0.5:
            self.note((Kind.TOKEN, key), 1, load.BLOCKED, block, acknowledged=True)
        else:
            self.note((Kind.TOKEN, key), 1, load.BLOCKED, commit, event.id)
        self._board[place] += 1

    def _sign(self, event: Event, session: ClientSession | None) -> bool:
        """Insert an audit line in the event's transaction. The line exists once the transaction is committed."""
        line = {"_id": event.id}
        before = self.service.database["audit"].find_one_and_update(
            line, {"$setOnInsert": {"key": "logout"}}, upsert=True, session=session
        )
        return before is None

    def _signed(self, event: Event) -> bool:
        return self.service.database["audit"].find_one({"_id": event.id}) is not None
