"""Generate the fold table (cachekeeper/values/fold/classes.json), its test vectors, and copies of both for Node.js.

    python scripts/generate_fold.py --mongodb mongodb://127.0.0.1:27017 [--node node]

Two characters fold alike if one of these treats them as equal, or a chain of both does:

- Unicode's simple case folding, as the given Node.js applies it in regular expressions (flags `iu`);
- the case-insensitive `$regex` of the given MongoDB server, measured over all characters.

The result is data, so that a key never depends on the Unicode version of the program that forms it. Generate it again
only to follow a newer Unicode. Then drop the search view: keys of the old table would never be invalidated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pymongo.database import Database

ROOT = Path(__file__).resolve().parent.parent
TABLES = (ROOT / "cachekeeper/values/fold/classes.json", ROOT / "examples/node/fold-classes.json")
VECTORS = (ROOT / "cachekeeper/values/fold/vectors.json", ROOT / "examples/node/fold-vectors.json")

LAST = 0x10FFFF
FAN_OUT = 16
SURROGATES = range(0xD800, 0xE000)

# Texts for which all implementations (Python, Lua, JavaScript) must form the same keys.
TEXTS = (
    *("lamp", "LAMP", "Lamp 2000", " lamp ", "\u212aelvin", "\u017fun", "Stra\u00dfe", "STRA\u1e9eE"),
    *("\u0130stanbul", "D\u0131\u015f", "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "\u1f88\u1f80", "\u0345"),
    *("\u0390\u1fd3", "\ufb05\ufb06", "\u13a0\uab70", "\u01c4\u01c5\u01c6", "\U00010400\U00010428", "\U0001f600"),
    *("e\u0301\u00c9", "a\nb", "a\rb", "a\u2028b", "tab\there", "C++", ".*", "(a+)+$", "[^a]-]", "\\d\\", "^$|/"),
    *("{x}", "}{", "50%", "%", "%%", "%7B", "%7b", "%7D", "%25", "%257B", "%{", "%2{", "%%7B", "100%25", "%7", "%2"),
    *("{%}", "urn:uuid:1"),
)
# Names: the vectors hold the key of every text that occurs in them.
NAMES = ("", "K", "\u212ak", "a%25", "{%7D", "\U0001f600%", "aba")


def blocks_of(block: range) -> Iterator[range]:
    """Split `block` into the parts of the next level, without parts that hold only surrogates."""
    size = max(1, len(block) // FAN_OUT)
    for start in range(block.start, block.stop, size):
        part = range(start, min(start + size, block.stop))
        if part.start not in SURROGATES:
            yield part


def text_of(codes: Iterable[int]) -> str:
    """Join the characters of `codes`, without NUL and surrogates, which a MongoDB pattern cannot contain."""
    return "".join(chr(code) for code in codes if code and code not in SURROGATES)


def matches(database: Database[dict[str, Any]], asked: list[tuple[str, list[str]]]) -> list[list[list[str]]]:
    """Find all matches of each pattern in its text, for all texts in one round trip."""
    found = {"$regexFindAll": {"input": "$text", "regex": "$$pattern"}}
    each = {"$map": {"input": "$patterns", "as": "pattern", "in": {"$map": {"input": found, "in": "$$this.match"}}}}
    documents = [{"text": text, "patterns": patterns} for text, patterns in asked]
    with database.aggregate([{"$documents": documents}, {"$project": {"found": each}}]) as cursor:
        return [answer["found"] for answer in cursor]


def batches(asked: list[tuple[str, list[str]]], size: int = 4_000_000) -> Iterator[list[tuple[str, list[str]]]]:
    """Split `asked`, so that no command grows too large."""
    batch: list[tuple[str, list[str]]] = []
    room = size
    for text, patterns in asked:
        cost = 4 * len(text) + sum(map(len, patterns))
        if batch and cost > room:
            yield batch
            batch, room = [], size
        batch.append((text, patterns))
        room -= cost
    yield batch


def ask(
    database: Database[dict[str, Any]],
    state: list[tuple[range, str]],
    parts: Callable[[range], Iterator[range]],
    pattern: Callable[[range], str],
) -> Iterator[tuple[range, str, range, list[str]]]:
    """Yield (block, its text, part, matches of the part's pattern in the text) for each part of each block."""
    asked = [(text, [pattern(part) for part in parts(block)]) for block, text in state]
    answers = (answer for batch in batches(asked) for answer in matches(database, batch))
    for (block, text), found in zip(state, answers, strict=True):
        for part, characters in zip(parts(block), found, strict=True):
            yield block, text, part, characters


def outsiders(part: range) -> str:
    """A pattern for the characters outside `part` that the server treats as equal to one inside."""
    first, last = part.start or 1, part.stop - 1
    if last in SURROGATES:
        last = SURROGATES.start - 1
    inside = f"[\\x{{{first:x}}}-\\x{{{last:x}}}]"
    return f"(?i){inside}(?-i)(?<!{inside})"


def relatives(part: range) -> str:
    """A pattern for the characters that the server treats as equal to a different one, which is in `part`."""
    each = (f"\\x{{{code:x}}}" for code in part if code and code not in SURROGATES)
    return "|".join(f"(?i){code}(?-i)(?<!{code})" for code in each)


def server_pairs(database: Database[dict[str, Any]]) -> set[tuple[str, str]]:
    """Find all (a, b) of different characters for which the server's case-insensitive pattern `a` matches `b`.

    Asking for each character alone would take a million scans of a million characters. So ask for a block: which
    characters outside it are equal to one inside? A part of the block is then compared with the block and these only.
    """
    state = [(range(LAST + 1), text_of(range(LAST + 1)))]
    # Planes first, then sixteenths, down to blocks of 16 characters.
    parts: Callable[[range], Iterator[range]] = lambda whole: (  # noqa: E731 - only this level is split differently
        range(start, start + 0x10000) for start in range(0, len(whole), 0x10000)
    )
    while len(state[0][0]) > FAN_OUT:
        asked = ask(database, state, parts, outsiders)
        state = [(part, text_of(part) + "".join(found)) for _, _, part, found in asked]
        parts = blocks_of
    # Now look inside the blocks. Most hold no character that equals another one, and are left out.
    asked = ask(database, state, lambda block: iter([block]), relatives)
    state = [(block, text) for block, text, _, found in asked if found]
    singles = ask(database, state, blocks_of, relatives)
    return {(chr(part.start), other) for _, _, part, found in singles for other in found}


def javascript_classes(node: str) -> dict[str, Any]:
    """Run `case_classes.mjs` with this Node.js, and return its output."""
    script = Path(__file__).with_name("case_classes.mjs")
    output = subprocess.run([node, str(script)], check=True, capture_output=True, text=True).stdout
    answer: dict[str, Any] = json.loads(output)
    return answer


def closed(pairs: Iterable[tuple[str, str]]) -> list[set[str]]:
    """The classes of the smallest equivalence relation that contains `pairs`."""
    class_of: dict[str, set[str]] = {}
    for a, b in pairs:
        merged = class_of.get(a, {a}) | class_of.get(b, {b})
        class_of.update(dict.fromkeys(merged, merged))
    return list({id(members): members for members in class_of.values()}.values())


def spelt(members: set[str], lower: dict[str, str]) -> str:
    """The class as a text. Its first character is the one that the others fold to.

    That is the lower case of most members (for ASCII, the result of `toLowerCase()`), else the smallest character.
    """
    votes = Counter(lower.get(character) for character in members)
    first = min(members, key=lambda character: (-votes[character], character))
    return first + "".join(sorted(members - {first}))


def classes_of(javascript: dict[str, Any], pairs: Iterable[tuple[str, str]]) -> list[str]:
    """The table, sorted: the classes that JavaScript's classes and the server's pairs form together."""
    simple = [(members[0], member) for members in javascript["classes"] for member in members[1:]]
    return sorted(spelt(members, javascript["lower"]) for members in closed([*simple, *pairs]))


def vectors() -> dict[str, Any]:
    """Texts with their folded text, key and pattern, and names with their keys, ready for JSON."""
    from cachekeeper.values.fold import escape_braces, fold, pattern  # noqa: PLC0415 - its table must be written before

    def key(folded: str) -> str:
        return "search:" + escape_braces(folded)

    def occurring(name: str) -> set[str]:
        return {name[start:stop] for stop in range(len(name) + 1) for start in range(stop)}

    return {
        "texts": [{"text": t, "folded": fold(t), "key": key(fold(t)), "pattern": pattern(t)} for t in TEXTS],
        "names": [{"name": name, "keys": sorted(map(key, occurring(fold(name))))} for name in NAMES],
    }


def write(paths: Iterable[Path], value: dict[str, Any]) -> None:
    """Write `value` to all `paths`: in ASCII, with one element per line, so that differences are readable."""
    text = json.dumps(value, indent=0) + "\n"
    for path in paths:
        path.write_text(text, encoding="ascii")


def main() -> None:
    """Write the tables and the vectors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mongodb", required=True, help="URL of a MongoDB server, 6.0 or later")
    parser.add_argument("--node", default="node", help="the Node.js, whose Unicode version is used")
    arguments = parser.parse_args()
    with MongoClient[dict[str, Any]](arguments.mongodb, directConnection=True) as client:
        javascript = javascript_classes(arguments.node)
        classes = classes_of(javascript, server_pairs(client.get_database("admin")))
        versions = {"unicode": javascript["unicode"], "mongodb": client.server_info()["version"]}
        write(TABLES, versions | {"classes": classes})
    sys.path.insert(0, str(ROOT))
    write(VECTORS, vectors())


if __name__ == "__main__":
    main()
