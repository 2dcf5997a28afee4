"""BSON by the byte: also what no driver writes any more but databases still hold."""

import random
import struct
from collections.abc import Callable, Iterable

# A value is its type and its bytes, a member has its name before it.
Value = tuple[int, bytes]
Member = tuple[str, Value]


def document(*members: Member) -> bytes:
    body = b"".join(bytes([kind]) + name.encode() + b"\0" + payload for name, (kind, payload) in members)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def double(number: float) -> Value:
    return 0x01, struct.pack("<d", number)


def double_bits(bits: int) -> Value:
    return 0x01, bits.to_bytes(8, "little")


def string(text: str) -> Value:
    return 0x02, _text(text)


def embedded(*members: Member) -> Value:
    return 0x03, document(*members)


def array(values: Iterable[Value]) -> Value:
    return 0x04, document(*((str(at), value) for at, value in enumerate(values)))


def binary(content: bytes, subtype: int = 0) -> Value:
    if subtype == 2:
        content = struct.pack("<i", len(content)) + content
    return 0x05, struct.pack("<iB", len(content), subtype) + content


UNDEFINED: Value = (0x06, b"")
NULL: Value = (0x0A, b"")
MIN_KEY: Value = (0xFF, b"")
MAX_KEY: Value = (0x7F, b"")
TRUE: Value = (0x08, b"\1")
FALSE: Value = (0x08, b"\0")


def object_id(digits: str) -> Value:
    return 0x07, bytes.fromhex(digits)


def date(ms: int) -> Value:
    return 0x09, struct.pack("<q", ms)


def regex(source: str, options: str) -> Value:
    return 0x0B, source.encode() + b"\0" + options.encode() + b"\0"


def pointer(namespace: str, digits: str) -> Value:
    return 0x0C, _text(namespace) + bytes.fromhex(digits)


def code(text: str) -> Value:
    return 0x0D, _text(text)


def symbol(text: str) -> Value:
    return 0x0E, _text(text)


def code_with_scope(text: str, *members: Member) -> Value:
    content = _text(text) + document(*members)
    return 0x0F, struct.pack("<i", len(content) + 4) + content


def int32(number: int) -> Value:
    return 0x10, struct.pack("<i", number)


def timestamp(seconds: int, counter: int) -> Value:
    return 0x11, struct.pack("<II", counter, seconds)


def int64(number: int) -> Value:
    return 0x12, struct.pack("<q", number)


def decimal(bits: int) -> Value:
    return 0x13, bits.to_bytes(16, "little")


def _text(text: str) -> bytes:
    content = text.encode() + b"\0"
    return struct.pack("<i", len(content)) + content


# None that JavaScript objects inherit, such as `constructor`: under these the driver (7) returns the documents of an
# array as raw bytes, a slip that we do not follow.
NAMES = ("", "a", "b", "é", "10", "9", "007", "4294967294", "4294967295", "-1", "$ref", "$id", "$db", "$x", "toJSON")


class Anything:
    """Random values of every type, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def document(self, identity: int, depth: int = 3) -> bytes:
        return document(("_id", int32(identity)), *self.members(depth))

    def members(self, depth: int) -> list[Member]:
        return [(self.name(), self.value(depth)) for _ in range(self.random.randint(0, 6))]

    def name(self) -> str:
        return self.random.choice((*NAMES, self.text().replace("\0", "")))

    def text(self) -> str:
        alphabets = ("abc.", '"\\/\b\f\n\r\t\0\x1f\x7f', "éßЖ中\u2028\u2029\ufeff\ufffd", "😀𐐀")
        return "".join(self.random.choice(self.random.choice(alphabets)) for _ in range(self.random.randint(0, 8)))

    def digits(self) -> str:
        return self.random.randbytes(12).hex()

    def number(self) -> float:
        # Written in decimal and with any exponent: where the forms of Python and JavaScript part.
        return float(f"{self.random.randint(-(10**17), 10**17)}e{self.random.randint(-40, 25)}")

    def value(self, depth: int) -> Value:
        r = self.random
        simple: tuple[Callable[[], Value], ...] = (
            lambda: double(self.number()),
            lambda: double(float(r.randint(-(10**9), 10**9))),
            lambda: double_bits(r.getrandbits(64)),
            lambda: string(self.text()),
            lambda: binary(r.randbytes(r.choice((0, 1, 5, 16))), r.choice((0, 1, 2, 3, 4, 5, 6, 8, 128))),
            lambda: r.choice((UNDEFINED, NULL, MIN_KEY, MAX_KEY, TRUE, FALSE)),
            lambda: object_id(self.digits()),
            lambda: date(r.randint(-9 * 10**15, 9 * 10**15)),
            lambda: date(r.randint(-(10**14), 4 * 10**14)),
            lambda: regex("^a", r.choice(("", "i", "im"))),
            lambda: pointer(self.text(), self.digits()),
            lambda: code(self.text()),
            lambda: symbol(self.text()),
            lambda: int32(r.randint(-(2**31), 2**31 - 1)),
            lambda: timestamp(r.getrandbits(32), r.getrandbits(32)),
            lambda: int64(r.randint(-(2**63), 2**63 - 1) >> r.randint(0, 40)),
            lambda: decimal(r.getrandbits(128)),
            lambda: decimal(r.randint(6120, 6230) << 113 | r.getrandbits(113) >> r.randint(0, 113)),
        )
        nested: tuple[Callable[[], Value], ...] = (
            lambda: embedded(*self.members(depth - 1)),
            lambda: array(self.value(depth - 1) for _ in range(r.randint(0, 4))),
            lambda: code_with_scope(self.text(), *self.members(depth - 1)),
        )
        return r.choice(simple + nested * 2 if depth else simple)()
