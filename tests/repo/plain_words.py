"""Finds turns of phrase that are hard to read at first sight, in docstrings, comments, messages and Markdown pages.

    python -m tests.repo.plain_words [FILE ...]     of those files, or of all that the test looks at

A turn is flagged with a plainer one. The list is short and certain: what it flags is nearly always better said
otherwise. It cannot see every riddle, so it does not replace a reader.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from testkit.compose import ROOT
from testkit.prose import PAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

CODE = ("cachekeeper", "producers", "lookups", "worker", "verification", "benchmarks", "testkit", "demo", "scripts")

TURNS = {
    r"\b(?:nobody|somebody|whoever|whosoever)\b": "name it: the caller, another process, nothing",
    r"\bas it were\b": "leave it out",
    r"\bin (?:its |the worker's |their )?hands?\b": "in flight, held, taken",
    r"\bbelie(?:ve|ves|ved|ving)\b": "code trusts, uses or accepts",
    r"(?<!there )\b(?:is|are|was|were) (?-i:none)\b": "say what it is, or 'not a …'",
    r"(?<!there )\b(?:is|are|was|were) no (?!longer\b|more\b)\w+": "is not a …",
    r"\bnone of (?:ours|them is|its)\b": "say what it is not, with a verb",
    r"\b(?:so|neither|nor) (?:is|are|does|do|has|have|was|were) (?:one|that|those|what|it|they)\b": "repeat the verb",
    r"\baway with\b": "delete",
    r"\bbut for\b": "except",
    r"\bwhat for ever\b|\bfor ever\b": "forever",
    r"\b(?:however|whatever|whichever) (?:often|long|many|much|little|soon|few)\b": "any number of, each time",
    r"\bin vain\b": "without success",
    r"\bbe it\b|\blest\b|\bthereof\b|\bwhereof\b|\bhence\b|\bwherein\b|\bthereby\b": "a plain word",
    r"\bthe latter\b|\bthe former\b": "name it",
    r"\bstrangers?\b|\bbusiness\b": "say which does what",
    r"\bof which (?:a|an|each|every|one|some|such)\b": "two sentences",
    r"\bwhat (?:is|was|are) (?:none|no)\b": "say what it is",
    r"\bthat is to say\b|\bsave for\b": "leave it out, except",
}
"""A pattern, and what to write in its place."""

_RELATIVE = "What|Who|Whose|Nothing but|Of|Whatever|That which|Those who|Those of"
_BEGINNINGS = re.compile(rf"(?:\A|(?<=[.:;!?] )|\n\n)\s*(?P<turn>(?:{_RELATIVE})\b[^.?!]*)(?:[.!]|\Z)")
"""A sentence, not a question, that begins with a relative word or with 'Of': the subject comes late or never."""
_PATTERNS = {re.compile(pattern, re.IGNORECASE): plainer for pattern, plainer in TURNS.items()}
_CODE_SPAN = re.compile(r"`[^`]*`")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Turn:
    """A place that is hard to read.

    Attributes:
        line: where its text begins.
        found: the words.
        plainer: what to write in their place.
    """

    line: int
    found: str
    plainer: str


def in_python(source: str) -> list[Turn]:
    """In the docstrings, comments and texts of a module."""
    return [turn for line, text in _python_texts(source) for turn in in_text(text, line)]


def in_markdown(text: str) -> list[Turn]:
    """In a page, without its fenced blocks."""
    blank = _FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), text)
    return [turn for number, paragraph in _paragraphs(blank) for turn in in_text(" ".join(paragraph.split()), number)]


def in_text(text: str, line: int = 1) -> list[Turn]:
    """In one text: a paragraph, a docstring, or a comment of several lines."""
    prose = _CODE_SPAN.sub("`…`", text)
    found = [
        Turn(line, match[0], plainer) for pattern, plainer in _PATTERNS.items() for match in pattern.finditer(prose)
    ]
    return found + [
        Turn(line, match["turn"].strip()[:60], "begin with the subject") for match in _BEGINNINGS.finditer(prose)
    ]


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    line = 1
    for paragraph in re.split(r"(\n\s*\n)", text):
        if paragraph.strip():
            yield line, paragraph
        line += paragraph.count("\n")


def _python_texts(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(" ") > 1:
            yield node.lineno, node.value
    comment: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if token.start[0] != last + 1 and comment:
            yield first, " ".join(comment)
            comment = []
        first = first if comment else token.start[0]
        last = token.start[0]
        comment.append(token.string.lstrip("# "))
    if comment:
        yield first, " ".join(comment)


def files() -> list[Path]:
    """What the test looks at: code but that of tests, and pages."""
    code = [path for name in CODE for path in sorted((ROOT / name).rglob("*.py"))]
    return [*code, *sorted(ROOT.glob("*.py")), *PAGES]


def in_file(path: Path) -> list[Turn]:
    """In a Python file or a page."""
    text = path.read_text("utf-8")
    return in_markdown(text) if path.suffix == ".md" else in_python(text)


def main() -> int:
    """Print the places. Status 1 where there are any."""
    chosen = [Path(name).resolve() for name in sys.argv[1:]] or files()
    count = 0
    for path in chosen:
        for turn in in_file(path):
            count += 1
            sys.stdout.write(f"{path.relative_to(ROOT)}:{turn.line}: {turn.found!r}: {turn.plainer}\n")
    return int(bool(count))


if __name__ == "__main__":
    sys.exit(main())
