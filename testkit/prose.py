"""Parses the Markdown files, so that tests can compare them with the code."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cachekeeper.settings import PREFIX, DoorSettings, Settings
from testkit.compose import ROOT

README = ROOT / "README.md"
PAGES = (
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples/node/README.md",
)

_FIELDS = {**Settings.model_fields, **DoorSettings.model_fields, **Settings.model_fields}
VARIABLES = {PREFIX + name.upper(): field for name, field in _FIELDS.items()}
"""The settings of operators, by the name of the variable."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- ([\w-]+)(?:: ([^>]*?))? -->\n\Z")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_QUOTE = re.compile(r"`([^`]+)`\s+in\s+\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        page: the page that contains it.
        line: the line number of its first line of code.
        language: `python`, `sh`, ...; empty if none is given.
        text: the code.
        mark, argument: from the comment right above it, `<!-- mark: argument -->`; empty without such a comment.
    """

    page: str
    line: int
    language: str
    text: str
    mark: str
    argument: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read(page: Path) -> str:
    return page.read_text("utf-8")


def blocks(page: Path, text: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = read(page) if text is None else text
    found = []
    for fence in _FENCE.finditer(text):
        mark = _MARK.search(text, 0, fence.start())
        found.append(
            Block(
                page.name,
                text.count("\n", 0, fence.start()) + 2,
                fence[1],
                fence[2],
                mark[1] if mark else "",
                (mark[2] or "") if mark else "",
            )
        )
    return found


def without_code(text: str) -> str:
    """Return the text without fenced blocks."""
    return _FENCE.sub("", text)


def links(text: str) -> list[str]:
    """Return the targets of all links that are not web addresses."""
    return [target for target in _LINK.findall(without_code(text)) if "://" not in target]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes from the headings."""
    titles = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def quotes(text: str) -> list[tuple[str, str]]:
    """Return each quotation of code from a file, "`code` in [file](path)", as code and path."""
    return [(code, target) for code, target in _QUOTE.findall(without_code(text))]


def spans(text: str) -> list[str]:
    """Return the texts between backticks, outside fenced blocks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", without_code(text))]


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield each table: its header, and its rows. Cells keep their text; `\\|` is not a border."""
    for found in re.finditer(r"((?:^\|.*\|$\n?)+)", without_code(text), re.MULTILINE):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in found[1].splitlines()]
        yield rows[0], rows[2:]


def table(text: str, first: str) -> list[list[str]]:
    """Return the rows of the one table whose first column is headed `first`."""
    (rows,) = (rows for header, rows in tables(text) if header[0] == first)
    return rows


def code(cell: str) -> str:
    """Return a cell without its backticks."""
    return cell.replace("`", "")
