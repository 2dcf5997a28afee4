"""`cachekeeper dead`: list, show, replay and drop dead letters. Session ids and tokens are masked in all output."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cachekeeper.consuming.dead_letter_admin import DeadLetters, Replayed, Which
    from cachekeeper.settings import LetterSettings

SHORT = 12  # digits of an id that are shown: enough for two billion dead letters; a clash is an error

dead = typer.Typer(
    no_args_is_help=True, help="List, show, replay and drop dead letters: events that could not be applied."
)

Letters = Annotated[
    list[str] | None, typer.Argument(help="Ids of dead letters, or the beginnings of ids.", show_default=False)
]
All = Annotated[bool, typer.Option("--all", help="All dead letters that match the filters, instead of ids.")]
Type = Annotated[str | None, typer.Option("--type", help="Only those of this event, such as user.updated.")]
Error = Annotated[str | None, typer.Option("--error", help="Only those with this error, such as InvalidEvent.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Only those whose reason contains this text.")]


@dead.command("list")
def list_letters(
    *,
    type_name: Type = None,
    error: Error = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, help="List at most this many.")] = 50,
) -> None:
    """List dead letters, the latest first: one line each, or a table on a terminal."""
    from cachekeeper.consuming.dead_letter_admin import Which  # noqa: PLC0415  (see cachekeeper.cli.app)

    which = Which(type=type_name, error=error, reason=reason)
    with _opened() as letters:
        found = letters.summaries(which, limit)
        total = letters.count(which) if len(found) == limit else len(found)
    rows = [
        (
            str(letter["_id"])[:SHORT],
            letter["type"] or "-",
            str(letter["count"]),
            _time(letter["first_at"]),
            _time(letter["last_at"]),
            f"{letter['error']}: {letter['reason']}",
        )
        for letter in found
    ]
    _table(("letter", "event", "count", "first", "last", "reason"), rows)
    if total > len(found):
        _say(f"{len(found):,} of {total:,} are listed; use --limit to list more")


@dead.command()
def show(
    letter: Annotated[str, typer.Argument(help="The id of a dead letter, or its beginning.", show_default=False)],
) -> None:
    """Show one dead letter: its event with session ids and tokens masked, the reason, and the traceback."""
    from cachekeeper.errors import InputError  # noqa: PLC0415  (see cachekeeper.cli.app)

    with _opened() as letters:
        found = letters.show(letters.named(letter))
    if found is None:
        raise InputError("LETTER", "no longer exists: it was replayed, dropped, or removed after its time")
    for name in ("_id", "type", "count", "first_at", "last_at"):
        value = found[name]
        _print(f"{name.lstrip('_')}: {_time(value) if isinstance(value, datetime) else value or '-'}")
    _print(f"reason: {found['error']}: {found['reason']}")
    _print(json.dumps(found["body"], indent=2))
    if not found["whole"]:
        _print("(the message was too long: only its beginning is kept)")
    _print(found["traceback"].rstrip("\n"))


@dead.command()
def replay(
    letter: Letters = None,
    *,
    everything: All = False,
    type_name: Type = None,
    error: Error = None,
    reason: Reason = None,
) -> None:
    """Publish dead letters again. Each is removed once the broker has confirmed its event.

    An event that fails again becomes the same dead letter again, with a higher count.
    """
    from cachekeeper.consuming.dead_letter_admin import Replayed, Which  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.publishing.publisher import Publisher  # noqa: PLC0415
    from cachekeeper.settings import ReplaySettings, load  # noqa: PLC0415

    settings = load(ReplaySettings)
    publisher = Publisher(settings)
    done = Replayed()
    which = Which(type=type_name, error=error, reason=reason)
    with _opened(settings) as letters:
        chosen = _chosen(letters, letter, which, everything=everything)
        try:
            letters.replay(chosen, publisher, done)
        finally:
            publisher.close()
            _tell(done)


@dead.command()
def drop(
    letter: Letters = None,
    *,
    everything: All = False,
    type_name: Type = None,
    error: Error = None,
    reason: Reason = None,
) -> None:
    """Remove dead letters for good, without publishing their events."""
    from cachekeeper.consuming.dead_letter_admin import Which  # noqa: PLC0415  (see cachekeeper.cli.app)

    which = Which(type=type_name, error=error, reason=reason)
    with _opened() as letters:
        dropped = letters.drop(_chosen(letters, letter, which, everything=everything))
    _print(f"dropped {dropped}")


@contextmanager
def _opened(settings: "LetterSettings | None" = None) -> Iterator["DeadLetters"]:
    from cachekeeper.connections.mongodb import connect_mongodb, majority  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.consuming.dead_letter_admin import DeadLetters  # noqa: PLC0415
    from cachekeeper.model.registry import load_registry  # noqa: PLC0415
    from cachekeeper.settings import LetterSettings, load  # noqa: PLC0415

    settings = settings or load(LetterSettings)
    registry = load_registry(settings.modules)
    database = majority(connect_mongodb(settings.mongodb_url, settings.load_timeout_seconds))
    with database.client:
        yield DeadLetters(database, registry, settings.load_timeout_seconds)


def _chosen(letters: "DeadLetters", ids: list[str] | None, which: "Which", *, everything: bool) -> "Which":
    from cachekeeper.errors import InputError  # noqa: PLC0415  (see cachekeeper.cli.app)

    if everything == bool(ids):
        raise InputError("LETTER", "give either ids of dead letters, or --all")
    # Look up all ids before any dead letter is changed.
    return replace(which, ids=[letters.named(prefix) for prefix in ids]) if ids else which


def _tell(done: "Replayed") -> None:
    _print(f"published {done.published}")
    if done.back:
        _print(f"failed again {done.back}")
    if done.stay:
        _print(f"kept, without an event {done.stay}")
        _say("dead letters without a readable event were kept: use `cachekeeper dead show` or `cachekeeper dead drop`")


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if not sys.stdout.isatty():
        for row in (header, *rows):
            _print("\t".join(_visible(cell) for cell in row))
        return
    from rich.console import Console  # noqa: PLC0415  (see cachekeeper.cli.app)
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(*header, box=None, header_style="bold")
    for row in rows:
        table.add_row(*(Text(_visible(cell)) for cell in row))
    Console().print(table)


def _time(value: datetime) -> str:
    return f"{value:%Y-%m-%dT%H:%M:%SZ}"


def _print(text: Any) -> None:
    sys.stdout.write("\n".join(_visible(line, "\t") for line in str(text).split("\n")) + "\n")


def _visible(text: str, plain: str = "") -> str:
    """Escape control characters: a handler's error may quote any text, such as a code that moves the cursor."""
    return "".join(
        part if part.isprintable() or part in plain else part.encode("unicode_escape").decode() for part in text
    )


def _say(text: str) -> None:
    typer.echo(text, err=True)
