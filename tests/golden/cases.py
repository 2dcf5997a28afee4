"""The documents of `lean.json`: every BSON type, and every place where JavaScript has a way of its own."""

import random
from collections.abc import Iterable, Iterator

from tests.golden import build as b

ID = "0123456789abcdef01234567"
NAN = 0x7FF8_0000_0000_0000
NUMBERS = (
    *(0.0, -0.0, 1.0, -1.0, 0.1, 0.5, 12.5, 4.35, 1e15, 999999999999999.9, 1e16, 12345678901234567.0, 1e17, 2.0**53),
    *(1e20, 123456789012345680000.0, 2.0**69, 999999999999999900000.0, 1e21, -1e21, 1.5e21, 1e22, 1e100),
    1.7976931348623157e308,
    *(1e-3, 0.00012, 1e-5, 1e-6, -0.000001234, 1e-7, 1.5e-7, -1e-10, 1e-300, 2.2250738585072014e-308, 5e-324),
    *(float("nan"), float("inf"), float("-inf")),
)
DATES = (
    *(0, -1, 1, 999, 1_700_000_000_123, -62135596800000, -62135596800001, 253402300799999, 253402300800000),
    *(-62167219200000, -62167219200001, -62198755200000, 327_403_000_000_000, 8_640_000_000_000_000),
    *(-8_640_000_000_000_000, 8_640_000_000_000_001, -8_640_000_000_000_001, 2**63 - 1, -(2**63)),
)
LONGS = (0, -1, 42, 2**31, 2**53 - 1, 2**53, 2**53 + 1, -(2**53), -(2**53) - 1, 2**63 - 1, -(2**63))


def decimal(coefficient: int, exponent: int, sign: int = 0) -> b.Value:
    return b.decimal(sign << 127 | (exponent + 6176) << 113 | coefficient)


DECIMALS = (
    *(decimal(1250, -2), decimal(1250, -2, 1), decimal(0, 0), decimal(0, 0, 1), decimal(0, 3), decimal(0, -3)),
    *(decimal(0, -6), decimal(0, -7), decimal(1, -6), decimal(1, -7), decimal(12, -8), decimal(1, 0), decimal(1, 3)),
    *(decimal(12, 5), decimal(10**33, 0), decimal(10**34 - 1, 0), decimal(10**34 - 1, 1), decimal(10**34 - 1, 6111)),
    *(decimal(1, -6176), decimal(5, -1), decimal(123, -2), decimal(123, -3), decimal(123, -4), decimal(123, -9)),
    # not canonical: more than 34 digits
    *(decimal(10**34, 0), decimal(10**34, -2), decimal(10**34, 2), decimal(2**113 - 1, -40), decimal(2**113 - 1, -41)),
    *(b.decimal(0b11 << 125 | exponent << 111 | 7) for exponent in (6170, 6176, 6180)),
    b.decimal(0b111 << 125 | 6174 << 111),
    # infinities, and NaNs that are negative, signalling or carry a payload
    *(b.decimal(first << 120 | rest) for first, rest in ((0x78, 0), (0xF8, 0), (0x7C, 0), (0xFC, 0), (0x7E, 5))),
)

CONTROLS = "".join(map(chr, range(32)))
TEXTS = ("", "text", '"\\/', CONTROLS, "\x7f\x80\x9f", "\u2028\u2029", "\ufeffbom", "\ufffd", "é中😀")
SUBTYPES = (*range(10), 128, 255)


def numbered(names: Iterable[str]) -> b.Value:
    return b.embedded(*((name, b.int32(at)) for at, name in enumerate(names)))


def reference(collection: str, identity: b.Value) -> tuple[b.Member, ...]:
    return ("$ref", b.string(collection)), ("$id", identity)


VALUES: dict[str, b.Value] = {
    "doubles": b.array(map(b.double, NUMBERS)),
    "signalling NaN": b.double_bits(NAN - 5),
    "strings": b.array(map(b.string, TEXTS)),
    "a long text": b.string("\ufeffthis is longer than what JavaScript reads by itself \0 é"),
    "nothing inside": b.array([b.embedded(), b.array([])]),
    "nested": b.embedded(("a", b.array([b.embedded(("b", b.array([b.int32(1), b.string("x")]))), b.array([b.NULL])]))),
    "an array with odd names": (0x04, b.document(("7", b.int32(1)), ("x", b.int32(2)), ("0", b.int32(3)))),
    "binary": b.array(b.binary(bytes(range(size)), subtype) for subtype in SUBTYPES for size in (0, 1, 5, 16)),
    "undefined": b.embedded(
        ("a", b.UNDEFINED),
        ("b", b.array([b.UNDEFINED, b.int32(1), b.UNDEFINED])),
        ("c", b.UNDEFINED),
    ),
    "object id": b.object_id(ID),
    "booleans and null": b.array([b.TRUE, b.FALSE, b.NULL]),
    "dates": b.array(map(b.date, DATES)),
    "regular expressions": b.array([b.regex("^a.*/b$", options) for options in ("", "i", "im", "ims", "x", "lu")]),
    "pointers": b.array(b.pointer(name, ID) for name in ("users", "shop.users", "a.b.c", ".", 'quo"te.x', "")),
    "code": b.array([b.code("x => 1"), b.code_with_scope("y", ("z", b.double(1.0)))]),
    "a scope with indexes": b.code_with_scope("", ("10", b.NULL), ("9", b.UNDEFINED), ("1", b.NULL)),
    "a scope is no reference": b.code_with_scope("f", ("a", b.int32(1)), *reference("c.d", b.int32(1))),
    "symbol": b.symbol("sym\u2028"),
    "int32": b.array(map(b.int32, (0, -1, 2**31 - 1, -(2**31)))),
    "timestamps": b.array([b.timestamp(0, 0), b.timestamp(1, 2), b.timestamp(2**32 - 1, 2**32 - 1)]),
    "int64": b.array(map(b.int64, LONGS)),
    "decimals": b.array(DECIMALS),
    "largest and smallest": b.array([b.MIN_KEY, b.MAX_KEY]),
    "indexes come first": numbered(("b", "10", "a", "9", "4294967294", "4294967295", "4294967296", "0", "01", "00")),
    "no indexes": numbered(("2x", "-1", "1.5", "1e3", " 1", "9007199254740993", "٣", "+1", "0x1", "1")),
    "twins": b.embedded(("a", b.int32(1)), ("b", b.int32(2)), ("a", b.string("last")), ("b", b.UNDEFINED)),
    "names that mean something": numbered(
        ("__proto__", "constructor", "toString", "hasOwnProperty", "length", "_bsontype"),
    ),
    "a prototype": b.embedded(("__proto__", b.embedded(("x", b.int32(1)))), ("y", b.int32(2))),
    "toJSON is data": b.array(b.embedded(("toJSON", value)) for value in (b.string("f"), b.code("() => 5"))),
    "odd names": numbered(("", " ", "a.b", "$set", 'quo"te', "new\nline", "\u2028", "😀")),
    "escaped names": b.embedded(("\x01", b.embedded(("\x7f", b.NULL)))),
}

ONE = b.int32(1)
REFERENCES: dict[str, tuple[b.Member, ...]] = {
    "plain": reference("users", b.object_id(ID)),
    "with database": (*reference("users", ONE), ("$db", b.string("shop"))),
    "shuffled": (("x", ONE), ("$db", b.string("d")), ("5", b.NULL), ("$id", ONE), ("$ref", b.string("c"))),
    "dotted": (*reference("shop.users", ONE), ("$db", b.string("other")), ("y", b.TRUE)),
    "twice dotted": reference("a.b.c", ONE),
    "symbol": (("$ref", b.symbol("users")), ("$id", ONE), ("$db", b.symbol("d"))),
    "nested": reference("u", b.embedded(("a", ONE), *reference("v", b.double(float("nan"))))),
    "empty": (*reference("", b.string("")), ("$db", b.string(""))),
    "prototype": (*reference("u", ONE), ("__proto__", b.embedded(("x", ONE))), ("z", b.int32(2))),
    "undefined member": (*reference("u", ONE), ("a", b.UNDEFINED), ("b", b.NULL)),
    "twin id": (("$id", b.NULL), ("a", b.TRUE), *reference("u", ONE)),
    # what is none
    "no id": (("a", ONE), ("$ref", b.string("u"))),
    "no ref": (("a", ONE), ("$id", ONE)),
    "null id": (("a", ONE), *reference("u.v", b.NULL)),
    "undefined id": (("a", ONE), *reference("u.v", b.UNDEFINED)),
    "numeric ref": (("a", ONE), ("$ref", b.int32(5)), ("$id", ONE)),
    "numeric database": (("a", ONE), *reference("u.v", ONE), ("$db", ONE)),
    "null database": (("a", ONE), *reference("u.v", ONE), ("$db", b.NULL)),
    "stranger": (("a", ONE), *reference("u.v", ONE), ("$x", ONE)),
    "stranger first": (("$x", ONE), ("a", ONE), *reference("u.v", ONE)),
}


def cases() -> Iterator[tuple[str, bytes]]:
    """(name, document) for every case; the `_id`s rise."""
    numbers = random.Random(20)
    values = VALUES | {"random doubles": b.array(b.double_bits(numbers.getrandbits(64)) for _ in range(300))}
    bodies: dict[str, tuple[b.Member, ...]] = {name: (("v", value),) for name, value in values.items()}
    bodies |= {f"reference, {name}": (("v", b.embedded(*members)),) for name, members in REFERENCES.items()}
    bodies["a whole document that refers"] = (("name", b.string("n")), *REFERENCES["with database"])
    bodies["a product"] = (
        *(("name", b.string("Lamp 2000")), ("version", b.double(3.0)), ("price", decimal(1250, -2))),
        *(("tags", b.array([b.string("a"), b.string("b")])), ("at", b.date(1_700_000_000_123)), ("__v", b.int32(0))),
    )
    for at, (name, members) in enumerate(bodies.items()):
        yield name, b.document(("_id", b.int32(at)), *members)
    anything = b.Anything(seed=4)
    for at in range(len(bodies), len(bodies) + 100):
        yield f"anything {at}", anything.document(at)
