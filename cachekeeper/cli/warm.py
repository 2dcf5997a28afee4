"""`cachekeeper warm VIEW`: fill a view from MongoDB."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cachekeeper.model.views import BlocklistView, View
    from cachekeeper.reading.keeper import Keeper

LINE_SECONDS = 2.0
INTERRUPTED = 130  # the exit status that shells use after ctrl-C


def warm(
    view: Annotated[str, typer.Argument(help="The name of the view, such as user_name.", show_default=False)],
    *,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start from the beginning, not where the last run was interrupted.")
    ] = False,
    rate: Annotated[float | None, typer.Option(min=0.1, help="At most this many documents per second.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="The number of batches at the same time.")] = 2,
) -> None:
    """Fill the missing values of a view from MongoDB. For a blocklist, write all blocks and set its ready key.

    This is safe while everything runs. After ctrl-C or an outage, the same command continues where it stopped (a
    blocklist starts again).
    """
    from cachekeeper.errors import InputError  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.model.registry import load_checked  # noqa: PLC0415
    from cachekeeper.model.view_kinds import Holds  # noqa: PLC0415
    from cachekeeper.reading.keeper import Keeper  # noqa: PLC0415
    from cachekeeper.settings import Settings  # noqa: PLC0415

    settings, registry = load_checked(Settings)
    found = registry.view(view)
    if found.holds is Holds.TEXT:
        raise InputError("VIEW", f"{view} cannot be warmed: the texts of future searches are unknown")
    keeper = Keeper(settings)
    try:
        if found.holds is Holds.BLOCK:
            _warm_blocklist(keeper, found)
        else:
            _warm_view(keeper, found, restart=restart, rate=rate, concurrency=concurrency)
    finally:
        keeper.close()


def _warm_view(keeper: "Keeper", view: "View[object]", *, restart: bool, rate: float | None, concurrency: int) -> None:
    from cachekeeper.errors import Unavailable  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.upkeep.warming import Progress, warm_view  # noqa: PLC0415

    reached = Progress(0)

    def tell(progress: Progress) -> None:
        nonlocal reached
        if progress.resumed and progress.done == progress.resumed:
            _say(f"{view.name}: continues after the first {progress.done:,} documents (--restart starts over)")
        reached = progress
        show(progress.done, progress.total)

    try:
        with _shown(view.name) as show:
            warm_view(keeper, view, restart=restart, rate=rate, concurrency=concurrency, tell=tell)
    except KeyboardInterrupt:
        _say(f"{view.name}: interrupted after {reached.done:,} documents; run the same command to continue")
        raise typer.Exit(INTERRUPTED) from None
    except Unavailable:
        _say(f"{view.name}: stopped by an outage after {reached.done:,} documents; run the same command to continue")
        raise
    sys.stdout.write(f"{view.name}: {reached.done:,} documents\n")
    for fate, count in reached.fates.most_common():
        sys.stdout.write(f"{count:>12,} {fate.value}\n")


def _warm_blocklist(keeper: "Keeper", view: "BlocklistView") -> None:
    from cachekeeper.connections.mongodb_errors import database_errors  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.upkeep.blocklist_warming import warm_blocklist  # noqa: PLC0415

    with database_errors(f"counting {view.collection}", keeper.settings.load_timeout_seconds, view.collection):
        total = keeper.database[view.collection].estimated_document_count()
    written = 0

    def tell(documents: int) -> None:
        nonlocal written
        written = documents
        show(documents, max(total, documents))

    try:
        with _shown(view.name) as show:
            warm_blocklist(keeper, view, tell)
    except KeyboardInterrupt:
        _say(f"{view.name}: interrupted, not ready; run the same command again")
        raise typer.Exit(INTERRUPTED) from None
    sys.stdout.write(f"{view.name}: {written:,} documents, ready\n")


@contextmanager
def _shown(name: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows the documents done and their total: as a bar on a terminal, else as lines."""
    from rich.console import Console  # noqa: PLC0415  (see cachekeeper.cli.app)
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )

    class Rate(ProgressColumn):
        """Documents a second."""

        def render(self, task: Task) -> str:
            speed = task.finished_speed or task.speed
            return "" if speed is None else f"{speed:,.0f}/s"

    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(name)
        yield lines.show
        lines.end()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None)

        def show(done: int, total: int) -> None:
            if bar.tasks[0].total is None:  # the speed is that of this run, without the documents of an earlier one
                bar.reset(task, completed=done, total=total)
            bar.update(task, completed=done, total=total)

        yield show


class _Lines:
    """Shows progress without a terminal: a line every few seconds, as in a log."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = self._told = time.monotonic()
        self._first: int | None = None
        self._done = self._total = 0

    def show(self, done: int, total: int) -> None:
        """Print a line if `LINE_SECONDS` have passed since the last one."""
        if self._first is None:
            self._first = done
        self._done, self._total = done, total
        if time.monotonic() - self._told >= LINE_SECONDS:
            self._say()

    def end(self) -> None:
        """Print the last line, also after a short run."""
        self._say()

    def _say(self) -> None:
        self._told = time.monotonic()
        rate = (self._done - (self._first or 0)) / max(self._told - self._began, 0.001)
        left = f", about {(self._total - self._done) / rate:,.0f} s left" if rate and self._total > self._done else ""
        _say(f"{self._name}: {self._done:,} of about {self._total:,} documents, {rate:,.0f}/s{left}")


def _say(text: str) -> None:
    typer.echo(text, err=True)
