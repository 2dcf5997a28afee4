"""Escapes for braces. In a key, braces would change the hash tag that keeps it and its metadata in one Cluster slot.

Two texts never share a key. Only what must be escaped is escaped: `50%` stays unchanged, because a `%` is escaped only
where it would be read back as the beginning of an escape.
"""

import re

_ESCAPES = {"{": "%7B", "}": "%7D", "%": "%25"}
_ESCAPED = {escape: character for character, escape in _ESCAPES.items()}
_TO_ESCAPE = re.compile(r"[{}]|%(?=7B|7D|25)")
_TO_UNESCAPE = re.compile(r"%(?:7B|7D|25)")


def escape_braces(text: str) -> str:
    """Escape the braces in a text for its key. Fold the text first: folding would turn `%7B` into `%7b`."""
    return _TO_ESCAPE.sub(lambda found: _ESCAPES[found[0]], text)


def unescape_braces(escaped: str) -> str:
    """Return the text from which `escape_braces` made `escaped`."""
    return _TO_UNESCAPE.sub(lambda found: _ESCAPED[found[0]], escaped)
