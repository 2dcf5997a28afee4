"""Clients that count their commands, and can be held at gates before a command is sent and after its answer."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Any

import redis
from pymongo.monitoring import CommandListener

from cachekeeper.protocol import scripts
from testkit.gates import Gate

if TYPE_CHECKING:
    from pymongo.monitoring import CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent


class Reads(CommandListener):
    """Counts the queries of the keepers' MongoDB client, and stops them at gates, in the thread that reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.before: deque[Gate] = deque()
        self.after: deque[Gate] = deque()
        self.commands: list[dict[str, Any]] = []
        self.most_at_once = 0
        self._now = 0

    @property
    def count(self) -> int:
        """The number of queries sent."""
        with self._lock:
            return len(self.commands)

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "find":
            with self._lock:
                self.commands.append(dict(event.command))
                self._now += 1
                self.most_at_once = max(self.most_at_once, self._now)
                gate = self.before.popleft() if self.before else None
            if gate is not None:
                gate.stop()

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._ended(event)

    def failed(self, event: CommandFailedEvent) -> None:
        self._ended(event)

    def _ended(self, event: CommandSucceededEvent | CommandFailedEvent) -> None:
        if event.command_name == "find":
            with self._lock:
                self._now -= 1
                gate = self.after.popleft() if self.after else None
            if gate is not None:
                gate.stop()


class WatchedRedis(redis.Redis):
    """A client that counts its commands (a script by its name), and stops them at gates. Pipelines are not watched."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.counted: Counter[str] = Counter()
        self.before: defaultdict[str, deque[Gate]] = defaultdict(deque)
        self.after: defaultdict[str, deque[Gate]] = defaultdict(deque)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        name = _script_name(args[1]) if args[0] == "EVALSHA" else str(args[0])
        self.counted[name] += 1
        if self.before[name]:
            self.before[name].popleft().stop()
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py: untyped
        finally:
            if self.after[name]:
                self.after[name].popleft().stop()


def _script_name(sha: object) -> str:
    known = (script for script in vars(scripts).values() if isinstance(script, scripts.Script))
    return next((script.name for script in known if script.sha == sha), "?")
