"""What stands in the Markdown files, taken apart so that tests can hold it against the code."""

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
"""What an operator can set, by the name of the variable."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- ([\w-]+)(?:: ([^>]*?))? -->\n\Z")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_QUOTE = re.compile(r"`([^`]+)`\s+in\s+\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        page: where it stands.
        line: of its first line of code.
        language: `python`, `sh`, ...; empty for none.
        text: the code.
        mark, argument: of the comment right above it, `<!-- mark: argument -->`; empty where there is none.
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
    """The fenced blocks of a page, in order."""
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
    """The prose alone: no fenced blocks."""
    return _FENCE.sub("", text)


def links(text: str) -> list[str]:
    """The targets of all links that are not web addresses."""
    return [target for target in _LINK.findall(without_code(text)) if "://" not in target]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    titles = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def quotes(text: str) -> list[tuple[str, str]]:
    """Code that is quoted as standing in a file: "`code` in [file](path)"."""
    return [(code, target) for code, target in _QUOTE.findall(without_code(text))]


def spans(text: str) -> list[str]:
    """What stands between backticks in the prose."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", without_code(text))]


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Each table: its header, and its rows; cells as they stand, `\\|` being no border."""
    for found in re.finditer(r"((?:^\|.*\|$\n?)+)", without_code(text), re.MULTILINE):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in found[1].splitlines()]
        yield rows[0], rows[2:]


def table(text: str, first: str) -> list[list[str]]:
    """The rows of the one table whose first column is headed `first`."""
    (rows,) = (rows for header, rows in tables(text) if header[0] == first)
    return rows


def code(cell: str) -> str:
    """A cell without its backticks."""
    return cell.replace("`", "")
