"""No turn of phrase that is hard to read at first sight, in code or docs. The list is in plain_words.py."""

from pathlib import Path

import pytest

from testkit.compose import ROOT
from tests.repo import plain_words

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""File and words, with the reason."""


@pytest.mark.parametrize("path", plain_words.files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_words_are_plain(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    found = [turn for turn in plain_words.in_file(path) if (name, turn.found) not in EXCEPTIONS]
    assert [f"{name}:{turn.line}: {turn.found!r}: {turn.plainer}" for turn in found] == []


def test_every_exception_is_needed() -> None:
    there = {(name, turn.found) for name, _ in EXCEPTIONS for turn in plain_words.in_file(ROOT / name)}
    assert set(EXCEPTIONS) - there == set()


@pytest.mark.parametrize(
    "text",
    [
        "Nobody reads the key.",
        "It is no setting.",
        "That is none of ours.",
        "Messages in hand are put back.",
        "Of a lease, the longest life.",
        "What a worker does with a message.",
        "It runs for ever.",
        "However often it is asked, the answer stays.",
        "The worker believes Redis.",
        "So is one that was cut.",
    ],
)
def test_a_hard_turn_is_found(text: str) -> None:
    assert plain_words.in_text(text)
    assert plain_words.in_python(f'"""{text}"""')
    assert plain_words.in_python(f"x = 1  # {text}")
    assert plain_words.in_markdown(f"# Title\n\n{text}\n")


@pytest.mark.parametrize(
    "text", ["There is no setting of that name.", "What is a lease?", "It is no longer used.", "See `for ever`."]
)
def test_plain_words_are_left_alone(text: str) -> None:
    assert plain_words.in_text(text) == []
