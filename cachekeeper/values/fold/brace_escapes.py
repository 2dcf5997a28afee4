"""Braces in a key would move the hash tag that keeps it and its metadata in one Cluster slot. So they are escaped.

Injectively: two texts never share a key. And sparingly: `50%` stays itself, since only a `%` that would be read back as
the beginning of an escape is escaped.
"""

import re

_ESCAPES = {"{": "%7B", "}": "%7D", "%": "%25"}
_ESCAPED = {escape: character for character, escape in _ESCAPES.items()}
_TO_ESCAPE = re.compile(r"[{}]|%(?=7B|7D|25)")
_TO_UNESCAPE = re.compile(r"%(?:7B|7D|25)")


def escape_braces(text: str) -> str:
    """`text` without braces, as it stands in a key. A text is folded first: folding would turn `%7B` into `%7b`."""
    return _TO_ESCAPE.sub(lambda found: _ESCAPES[found[0]], text)


def unescape_braces(escaped: str) -> str:
    """The text that `escape_braces` made `escaped` from."""
    return _TO_UNESCAPE.sub(lambda found: _ESCAPED[found[0]], escaped)
