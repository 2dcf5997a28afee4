"""Texts that operators write into settings: cleaned of blanks around them, and refused if a character is invisible.

No message here quotes the text: it may hold a password.
"""

import re
import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
"""Unicode's categories of invisible characters: control characters, characters without width, unassigned and private
ones, line ends, and surrogates. Python shows bytes of the environment that are not UTF-8 as surrogates."""

_FILLERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Invisible letters, marks and one sign of other categories (Unicode: default ignorable)."""

PLAIN_TEXT = re.compile(r"[!-~]+")
"""Only visible ASCII: letters, digits and signs. Such a text needs no further check."""


def stripped(text: str) -> str:
    """Remove all kinds of blanks around a text, line ends, byte order marks and characters without width included.

    A secret made with `echo` ends in a line feed, and a secret from an editor may begin with a byte order mark. With
    either of them, `mongodb://host/shop` would name another database.
    """
    first, end = 0, len(text)
    while first < end and is_blank(text[first]):
        first += 1
    while first < end and is_blank(text[end - 1]):
        end -= 1
    return text[first:end]


def clean(text: str) -> str:
    """Remove the blanks around a text.

    Raises:
        ValueError: a character inside is invisible.
    """
    text = stripped(text)
    if not PLAIN_TEXT.fullmatch(text):
        for character in text:
            if is_hidden(character):
                raise ValueError(f"contains an invisible character (U+{ord(character):04X}): remove it")
    return text


def is_hidden(character: str) -> bool:
    """Whether a character is invisible."""
    return unicodedata.category(character) in _HIDDEN or _FILLERS.match(character) is not None


def is_blank(character: str) -> bool:
    """Whether a character is a blank, or has no width."""
    return character.isspace() or unicodedata.category(character) == "Cf"
