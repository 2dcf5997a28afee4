"""Print the demonstration's steps and tables, and time its reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cachekeeper import COUNTERS, Keeper, Server
from cachekeeper.values.keys import meta_key

if TYPE_CHECKING:
    from redis import Redis


Read = tuple[str, Server, str, Callable[[], Any]]
"""A lookup to show: its description, its server, its key, and the function to call."""


class Failed(Exception):
    """The demonstration saw something that is not right."""


@dataclass
class Stage:
    """The state of the demonstration, with the functions that show and check its steps.

    Attributes:
        console: where it prints.
        keeper: the engine, as read-side code uses it.
        checks: the number of checks so far.
        steps: the number of steps so far.
    """

    console: Console
    keeper: Keeper
    checks: int = 0
    steps: int = 0
    _before: dict[str, str] = field(default_factory=dict)

    def step(self, title: str, said: str) -> None:
        """Begin a step: print its title and what it shows."""
        self.steps += 1
        self.console.print()
        self.console.rule(f"[bold cyan]{self.steps}[/]  [bold]{title}[/]", align="left", style="cyan")
        self.console.print(said, style="dim", highlight=False)

    def check(self, right: bool, what: str) -> None:  # noqa: FBT001  # reads like an assertion
        """Count a check that is right.

        Raises:
            Failed: it is wrong.
        """
        if not right:
            raise Failed(what)
        self.checks += 1

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 20) -> float:
        """Wait until the worker has done something. Return how long it took, in milliseconds.

        Raises:
            Failed: the worker has not done it within `seconds`.
        """
        began = time.perf_counter()
        while not condition():
            if time.perf_counter() - began > seconds:
                raise Failed(f"waited {seconds:g} s without success: {what}")
            time.sleep(0.002)
        return (time.perf_counter() - began) * 1000

    def peek(self, server: Server, key: str) -> str:
        """Describe what Redis holds at a key, without changing it."""
        client: Redis = self.keeper.store(server).client
        raw = client.get(key)
        if isinstance(raw, bytes):
            return raw.decode(errors="replace")
        fields = cast("dict[bytes, bytes]", client.hgetall(meta_key(key)))
        for name, said in ((b"d", "ended"), (b"ax", "known absent"), (b"l", "lease"), (b"v", "marker")):
            if name in fields:
                version = f" v{fields[name].decode()}" if name == b"v" else ""
                return f"({said}{version})"
        return "(nothing)"

    def keys(self, server: Server, keys: Iterable[str]) -> None:
        """Remember what Redis holds at these keys, for `changes`."""
        self._before = {key: self.peek(server, key) for key in keys}

    def changes(self, server: Server, published: str, milliseconds: float) -> None:
        """Show the keys of the last call of `keys`, before and after an event."""
        self.console.print(
            f"[bold yellow]published[/] {published} · {milliseconds:.1f} ms until it was visible in Redis"
        )
        table = Table(box=SIMPLE_HEAD)
        table.add_column("key", no_wrap=True, style="cyan")
        for column in ("before", "after"):
            table.add_column(column, overflow="ellipsis", no_wrap=True, max_width=26)
        table.add_column("", no_wrap=True)
        for key, before in self._before.items():
            after = self.peek(server, key)
            mark = "[dim]kept[/]" if after == before else "[yellow]changed[/]"
            table.add_row(_literal(key), _literal(before), _literal(after), mark)
        self.console.print(table)

    def reads(self, calls: Iterable[Read]) -> list[Any]:
        """Do lookups. Show how each was answered and how long it took.

        Args:
            calls: the lookups.

        Returns:
            The answer of each.
        """
        table = Table(box=SIMPLE_HEAD)
        table.add_column("read", no_wrap=True, style="cyan")
        table.add_column("answer", overflow="ellipsis", no_wrap=True, max_width=30)
        table.add_column("how", no_wrap=True)
        table.add_column("ms", justify="right", no_wrap=True)
        answers = []
        for said, server, key, call in calls:
            before = self.peek(server, key)
            loads = COUNTERS["load"]
            began = time.perf_counter()
            answer = call()
            milliseconds = (time.perf_counter() - began) * 1000
            loaded = COUNTERS["load"] - loads
            if loaded:
                filled = bool(self.keeper.store(server).client.exists(key))
                how = "[yellow]miss, filled[/]" if filled else "[magenta]miss, absent[/]"
            else:
                # A token that is not blocked has no key. The ready key says that Redis holds all blocks.
                absent = "absent, ready" if key.startswith("blocked:") else before.strip("()")
                how = f"[green]{absent if before.startswith('(') else 'hit'}[/]"
            table.add_row(_literal(said), _literal(repr(answer)), how, f"{milliseconds:.2f}")
            answers.append(answer)
        self.console.print(table)
        return answers


def _literal(text: str) -> str:
    """Escape square brackets, which rich reads as styles."""
    return text.replace("[", "\\[")
