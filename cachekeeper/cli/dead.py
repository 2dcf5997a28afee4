"""`cachekeeper dead`: look after the dead letters. Ids of sessions and tokens are masked in all that it prints."""

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

SHORT = 12  # digits of an id; as many tell two billion letters apart, and any clash is an error

dead = typer.Typer(no_args_is_help=True, help="Look after dead letters: events that could not be applied.")

Letters = Annotated[list[str] | None, typer.Argument(help="Ids, or their beginnings.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All letters that fit the filters, in place of ids.")]
Type = Annotated[str | None, typer.Option("--type", help="Only of this event, such as user.updated.")]
Error = Annotated[str | None, typer.Option("--error", help="Only with this error, such as InvalidEvent.")]
Reason = Annotated[str | None, typer.Option("--reason", help="Only where the reason holds this text.")]


@dead.command("list")
def list_letters(
    *,
    type_name: Type = None,
    error: Error = None,
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
) -> None:
    """List letters, the latest first, a line each; on a terminal as a table."""
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
        _say(f"{len(found):,} of {total:,}; --limit shows more")


@dead.command()
def show(letter: Annotated[str, typer.Argument(help="An id, or its beginning.", show_default=False)]) -> None:
    """Show one letter: its event with ids of sessions and tokens masked, the reason, the traceback."""
    from cachekeeper.errors import InputError  # noqa: PLC0415  (see cachekeeper.cli.app)

    with _opened() as letters:
        found = letters.show(letters.named(letter))
    if found is None:
        raise InputError("LETTER", "is gone")
    for name in ("_id", "type", "count", "first_at", "last_at"):
        value = found[name]
        _print(f"{name.lstrip('_')}: {_time(value) if isinstance(value, datetime) else value or '-'}")
    _print(f"reason: {found['error']}: {found['reason']}")
    _print(json.dumps(found["body"], indent=2))
    if not found["whole"]:
        _print("(the message was too long to be kept whole)")
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
    """Publish letters again; each is removed when the broker has confirmed its event.

    An event that fails again comes back as the same letter, with its count raised.
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
    """Remove letters for good."""
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
        raise InputError("LETTER", "give ids of letters, or --all")
    # All are looked up before anything is done to one.
    return replace(which, ids=[letters.named(prefix) for prefix in ids]) if ids else which


def _tell(done: "Replayed") -> None:
    _print(f"published {done.published}")
    if done.back:
        _print(f"failed again {done.back}")
    if done.stay:
        _print(f"no event {done.stay}")
        _say("what holds no event that could be published stays: see `cachekeeper dead show`, `cachekeeper dead drop`")


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
    """What a handler's error quotes may hold anything, such as what moves a terminal's cursor."""
    return "".join(
        part if part.isprintable() or part in plain else part.encode("unicode_escape").decode() for part in text
    )


def _say(text: str) -> None:
    typer.echo(text, err=True)
