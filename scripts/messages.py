"""Write docs/messages.md: every error text and log line of the code, with its meaning and what to do.

    python scripts/messages.py             write the page
    python scripts/messages.py --check     change nothing; status 1 if the page is out of date
    python scripts/messages.py --missing   print the entries to add, and those to remove

The texts come from the code. Meaning and cure come from `docs/messages/<package>.toml`, an entry for each text.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/messages.md"
ENTRIES = ROOT / "docs/messages"
SHOP = ("producers", "lookups", "worker")
_HEAD = """\
# Messages

Look up an error text or a log line here: what it means, and what to do. A part in braces varies: `{view}` is the name
of a view, `{error}` an error's class or text. Values, tokens and passwords are never part of a message.

A log line has the kind `log` and its level. Texts without a kind are parts of other messages. `{doing}` says which
step failed. The classes are explained in [cachekeeper/errors.py](../cachekeeper/errors.py).

This page is written by `scripts/messages.py` from the code and from `docs/messages/*.toml`.
"""
_LEAST_BLANKS = 2  # in a text that counts as a sentence
_LEVELS = ("debug", "info", "warning", "error", "critical")
_LOGGERS = {"log_once", "log_failure", *(f"logger.{name}" for name in (*_LEVELS, "log"))}
_OUTPUT = {"echo", "secho", "print", "write", "Option", "Argument", "Typer", "command", "callback", "confirm"}
"""Calls whose texts are a command's output or help."""
_MATCHED = {"compile", "match", "search", "startswith", "endswith", "sub", "split", "removeprefix", "Formatter"}
"""Calls whose texts are looked for in the words of others."""
_OF_OTHERS = {
    "cluster support disabled",
    "DB index is out of range",
    "SELECT is not allowed",
    "too many indexes",
    "publishing what is in the outbox",
}
"""Words of servers that stand in tables, to be looked for."""
_DOING = {"cache_errors", "database_errors"}
"""Calls whose texts say what was being done: '{doing}' in the messages of outages."""
_OTHER_LANGUAGES = ("redis.call", "local ", "read -r ", "from cachekeeper", "%(")  # Lua, sh, Python, logging
_HELPERS = {"name", "__name__", "type", "str", "len", "repr", "join", "shown", "value", "failure_text"}
_NOT_IN_TABLES = str.maketrans({"|": "\\|", "<": "&lt;", "\n": " "})


@dataclass(frozen=True, slots=True, order=True)
class Message:
    """A text of the code that an operator or a caller can meet.

    Attributes:
        text: with its variable parts in braces.
        kind: the class of the error, `log` with the level, or `part` of another message.
        cure: where the code keeps it beside the text; else empty.
        place: file and line.
    """

    text: str
    kind: str
    cure: str
    place: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of `docs/messages/`, for one text or several."""

    texts: tuple[str, ...]
    meaning: str
    cure: str


def packages() -> list[str]:
    """The sections of the page: the engine's packages, its files as `cachekeeper`, and the shop."""
    engine = ROOT / "cachekeeper"
    return ["cachekeeper", *sorted(p.parent.name for p in engine.glob("*/__init__.py")), "shop"]


def collect(package: str) -> list[Message]:
    """The messages of a section, in the order of their files."""
    if package == "shop":
        files = [path for name in SHOP for path in sorted((ROOT / name).glob("*.py"))]
    elif package == "cachekeeper":
        files = sorted((ROOT / "cachekeeper").glob("*.py"))
    else:
        files = sorted((ROOT / "cachekeeper" / package).rglob("*.py"))
    return [message for path in files for message in messages(path.read_text("utf-8"), str(path.relative_to(ROOT)))]


def messages(source: str, place: str) -> Iterator[Message]:
    """Every sentence of a module that is neither its documentation nor a command's output."""
    yield from _Finder(place).found(ast.parse(source))


class _Finder:
    def __init__(self, place: str) -> None:
        self._place = place
        self._raised = False

    def found(self, node: ast.AST, kind: str = "part") -> Iterator[Message]:
        """Walk below `node`; `kind` is that of the nearest error or log call around it."""
        if isinstance(node, ast.Call):
            name = _last_name(node.func)
            if name in _LOGGERS or ast.unparse(node.func) in _LOGGERS:
                yield from self._logged(node, name)
                return
            if name[:1].isupper():
                kind = name
        if _is_not_said(node):
            return
        said = self._said(node, kind) if isinstance(node, ast.expr) else []
        if said:
            yield from said
            return
        raised, self._raised = (
            self._raised,
            isinstance(node, ast.Raise) or (self._raised and not isinstance(node, ast.stmt)),
        )
        for child in _below(node):
            yield from self.found(child, kind)
        self._raised = raised

    def _said(self, node: ast.expr, kind: str) -> list[Message]:
        if pair := _pair(node):
            return [Message(pair[0], kind, pair[1], self._at(node))]
        blanks = 1 if self._raised else _LEAST_BLANKS
        texts = [text for text in _texts(node) if _is_sentence(text, blanks) and text not in _OF_OTHERS]
        return [Message(text, kind, "", self._at(node)) for text in texts]

    def _logged(self, node: ast.Call, name: str) -> Iterator[Message]:
        at = 1 if name in {"log", "log_once"} else 0
        level = {"log": "", "log_once": "warning", "log_failure": ""}.get(name, name)
        arguments = [f"{{{_name(each)}}}" for each in node.args[at + 1 :]]
        for text in _texts(node.args[at]) if len(node.args) > at else ():
            given = iter(arguments)
            text = f"{text}: {{error}}" if name == "log_failure" else text  # noqa: PLW2901
            filled = re.sub(r"%(?:[rsdg]|\.\d+f)", lambda _: next(given, "{…}"), text)  # noqa: B023
            if _has_words(filled):
                yield Message(filled.partition("\n")[0], f"log: {level}".removesuffix(": "), "", self._at(node))
        for each in node.args[at + 1 :]:
            yield from self.found(each)

    def _at(self, node: ast.expr) -> str:
        return f"{self._place}:{node.lineno}"


def _is_not_said(node: ast.AST) -> bool:
    """Whether the texts below `node` are compared with the words of others, or are a command's output."""
    if isinstance(node, ast.Call):
        return _last_name(node.func) in _OUTPUT | _MATCHED | _DOING
    return isinstance(node, ast.Compare) or (isinstance(node, ast.keyword) and node.arg in {"name", "description"})


def _below(node: ast.AST) -> Iterator[ast.AST]:
    """The children, without docstrings and other texts that stand alone, and without assertions and annotations."""
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(child, ast.AST) and not isinstance(child, ast.Assert):
                yield child


def _texts(node: ast.expr) -> list[str]:
    """The texts that an expression can have, with the variable parts in braces; empty if it is not a text."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(_piece(each) for each in node.values)]
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body), *_texts(node.orelse)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _texts(node.left), _texts(node.right)
        if left or right:
            return [a + b for a, b in product(left or ["{…}"], right or ["{…}"])]
    return []


def _piece(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return f"{{{_name(node.value)}}}" if isinstance(node, ast.FormattedValue) else "{…}"


def _name(node: ast.expr) -> str:
    """The most telling name in an expression."""
    names = [
        each.id if isinstance(each, ast.Name) else each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Name | ast.Attribute)
    ]
    telling = [name for name in names if name not in _HELPERS and name != "self"]
    return telling[0].lstrip("_").lower() if telling else "…"


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _pair(node: ast.expr) -> tuple[str, str] | None:
    """Cause and cure, where two texts stand side by side in a tuple."""
    if not isinstance(node, ast.Tuple) or len(node.elts) != 2:  # noqa: PLR2004
        return None
    first, second = (_texts(each) for each in node.elts)
    if len(first) == len(second) == 1 and _is_sentence(first[0]) and " " in second[0]:
        return first[0], second[0]
    return None


def _is_sentence(text: str, blanks: int = _LEAST_BLANKS) -> bool:
    return text.strip(" {}\n").count(" ") >= blanks and not text.startswith(_OTHER_LANGUAGES) and _has_words(text)


def _has_words(text: str) -> bool:
    """Whether a text is more than a frame for others, such as `{field}: {problem}`."""
    return re.search("[a-z]{2}", re.sub(r"\{[^}]*\}", "", text)) is not None


def entries(package: str) -> list[Entry]:
    """The entries of a section. Raises KeyError: an entry lacks a field."""
    path = ENTRIES / f"{package}.toml"
    if not path.exists():
        return []
    found: list[Mapping[str, Any]] = tomllib.loads(path.read_text("utf-8")).get("message", [])
    return [Entry(tuple(each["texts"]), each["meaning"], each.get("cure", "")) for each in found]


def problems(found: Iterable[Message], written: Iterable[Entry]) -> list[str]:
    """Texts of the code without an entry or a cure, and entries without a text in the code."""
    cures = {message.text: message.cure for message in found}
    said = [(text, entry) for entry in written for text in entry.texts]
    wrong = [f"no entry: {text}" for text in cures if text not in {each for each, _ in said}]
    wrong += [f"not in the code: {text}" for text, _ in said if text not in cures]
    wrong += [f"entry twice: {text}" for text in {t for t, _ in said} if [t for t, _ in said].count(text) > 1]
    return wrong + [
        f"no meaning or no cure: {text}"
        for text, entry in said
        if not entry.meaning or not (entry.cure or cures.get(text))
    ]


def page(sections: Mapping[str, tuple[list[Message], list[Entry]]]) -> str:
    """The whole page."""
    return _HEAD + "".join(_section(name, *each) for name, each in sections.items() if each[0])


def _section(name: str, found: list[Message], written: list[Entry]) -> str:
    by_text = {text: entry for entry in written for text in entry.texts}
    rows = {}
    for message in found:
        if message.text in rows or message.text not in by_text:
            continue
        entry = by_text[message.text]
        kind = "" if message.kind == "part" else message.kind
        cells = (f"`{message.text.strip()}`", kind, entry.meaning, entry.cure or message.cure)
        rows[message.text] = "| " + " | ".join(cell.translate(_NOT_IN_TABLES) for cell in cells) + " |\n"
    title = {"cachekeeper": "Everywhere", "shop": "The shop"}.get(name, f"`cachekeeper.{name}`")
    return f"\n## {title}\n\n| text | kind | meaning | what to do |\n|---|---|---|---|\n" + "".join(rows.values())


def skeleton(found: Iterable[Message], written: Iterable[Entry]) -> str:
    """The entries that are missing, to be filled in, and the texts that are no longer in the code."""
    said = {text for entry in written for text in entry.texts}
    there = {message.text: message for message in found}
    lines = [
        f'# {message.place}  {message.kind}\n[[message]]\ntexts = [{_toml(text)}]\nmeaning = ""\n'
        + (f"# cure in the code: {message.cure}\n" if message.cure else 'cure = ""\n')
        for text, message in there.items()
        if text not in said
    ]
    return "\n".join([*lines, *(f"# not in the code any more: {text}" for text in sorted(said - set(there)))])


def _toml(text: str) -> str:
    return f"'{text}'" if "'" not in text and "\n" not in text else f"'''{text}'''"


def main() -> int:
    """Write the page, or say what is missing. Status 1 where something is, or the page would change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if the page is out of date")
    parser.add_argument("--missing", nargs="*", metavar="PACKAGE", help="print entries to fill in; default: of all")
    arguments = parser.parse_args()
    sections = {name: (collect(name), entries(name)) for name in packages()}
    if arguments.missing is not None:
        for name in arguments.missing or sections:
            print(skeleton(*sections[name]))
        return 0
    wrong = [f"{name}: {problem}" for name, each in sections.items() for problem in problems(*each)]
    new = page(sections)
    if PAGE.exists() and PAGE.read_text("utf-8") == new:
        print("\n".join(wrong))
        return int(bool(wrong))
    if not arguments.check:
        PAGE.write_text(new, "utf-8")
    print("\n".join([*wrong, f"{PAGE.name}: {'out of date' if arguments.check else 'written anew'}"]))
    return int(arguments.check or bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
