"""What operators write into settings, as text: without blanks around it, and every character to be seen.

No message here quotes what was given: it may hold a password.
"""

import re
import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
"""Unicode's categories of what cannot be seen: control characters, what has no width, what is not assigned or for
private use, ends of lines. Also bytes of the environment that are no UTF-8."""

_FILLERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters, marks and a sign of other categories that cannot be seen either (Unicode: default ignorable)."""

PLAIN_TEXT = re.compile(r"[!-~]+")
"""Letters, digits and signs of ASCII: nothing to look for."""


def stripped(text: str) -> str:
    """`text` without the blanks around it, of any kind: ends of lines, byte order marks and what has no width, too.

    A secret made with `echo` ends in a line feed, and one from an editor may begin with a byte order mark:
    `mongodb://host/shop` with either would be another database.
    """
    first, end = 0, len(text)
    while first < end and is_blank(text[first]):
        first += 1
    while first < end and is_blank(text[end - 1]):
        end -= 1
    return text[first:end]


def clean(text: str) -> str:
    """`text` without the blanks around it.

    Raises:
        ValueError: a character inside cannot be seen.
    """
    text = stripped(text)
    if not PLAIN_TEXT.fullmatch(text):
        for character in text:
            if is_hidden(character):
                raise ValueError(
                    f"has a character inside that cannot be seen (U+{ord(character):04X}): write it without"
                )
    return text


def is_hidden(character: str) -> bool:
    """Whether a character cannot be seen."""
    return unicodedata.category(character) in _HIDDEN or _FILLERS.match(character) is not None


def is_blank(character: str) -> bool:
    """Whether a character is a blank, or has no width."""
    return character.isspace() or unicodedata.category(character) == "Cf"
