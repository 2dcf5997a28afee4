"""The forms in which pydantic writes single values as JSON, and whether a form is read as the same value again.

Where a function here may give a text instead of forms, the text says what is wrong, and the cure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import combinations
from typing import Any, Final

Schema = Mapping[str, Any]
Form = tuple[str, str]
"""A form in JSON (`string`, `number`, …), and the name of the Python type that is written so."""

CARE: Final = "make it of one type that JSON carries, and convert it in the handler"

TEXTS = frozenset({"bytes", "date", "datetime", "decimal", "str", "time", "timedelta", "uuid"})
# How many of the two settings for moments and durations a type heeds.
_TEMPORAL = {"date": 1, "datetime": 1, "time": 1, "timedelta": 2}
PLAIN: Mapping[str, Form] = {
    "bool": ("boolean", "bool"),
    "float": ("number", "float"),
    "int": ("number", "int"),
    "none": ("null", "None"),
    **{name: ("string", name) for name in TEXTS},
}
# Of these two members of a union may be the same: read as one or as the other, the value is equal.
_INTERCHANGEABLE = frozenset(PLAIN.values()) - {("string", name) for name in TEXTS - {"str"}}


def plain_forms(kind: str, config: Schema) -> frozenset[Form] | str:
    """The form of a scalar type.

    Args:
        kind: one of `PLAIN`.
        config: pydantic's, of the class around it.
    """
    if kind == "bytes" and {config.get("ser_json_bytes"), config.get("val_json_bytes")} != {"base64"}:
        return "holds bytes: let its class set ser_json_bytes='base64' and val_json_bytes='base64'"
    names = ("ser_json_temporal", "ser_json_timedelta")[: _TEMPORAL.get(kind, 0)]
    for name in names:
        if config.get(name, "iso8601") != "iso8601":
            return f"is written as a number: let its class set {name}='iso8601'"
    return frozenset({PLAIN[kind]})


def value_forms(values: Iterable[object], python: str | None) -> frozenset[Form] | str:
    """The forms of the values of an enumeration or a Literal.

    Args:
        values: all that there are.
        python: the name of their type; None: that of each.
    """
    names = {"str": "str", "int": "int", "float": "float", "bool": "bool", "NoneType": "none"}
    forms: set[Form] = set()
    for value in values:
        # A member that is text or a number itself, such as one of a StrEnum, is written as that.
        base = next((name for each in type(value).__mro__ if (name := names.get(each.__name__))), None)
        if base is None:
            return f"has a value that is a {type(value).__name__}: give it texts or integers"
        form, plain = PLAIN[base]
        forms.add((form, plain if python is None else python))
    return frozenset(forms)


def literal_forms(expected: Iterable[object]) -> frozenset[Form] | str:
    """The forms of a Literal."""
    values = list(expected)
    if any(isinstance(value, Enum) for value in values):
        return "is a Literal of members of an enumeration: let it be the enumeration itself"
    return value_forms(values, None)


def union_forms(forms: Sequence[frozenset[Form]]) -> frozenset[Form] | str:
    """The forms of a union, of which one form must not stand for two types.

    Args:
        forms: those of each member.
    """
    for one, other in combinations(forms, 2):
        for first in sorted(one):
            for second in sorted(other):
                if first[0] == second[0] and not (first == second and first in _INTERCHANGEABLE):
                    return (
                        f"is a union of {first[1]} and {second[1]}, both of which are a JSON {first[0]}: keep one "
                        "of them" + (", or give them a discriminator" if first[0] == "object" else "")
                    )
    return frozenset[Form]().union(*forms)


def said_of(kind: str) -> str:
    """What to say of a type of which it is not known that JSON carries it, after "is" or "are"."""
    said = {"any": "of any type (`Any`, or a generic without its argument)", "union": "a union", "nullable": "optional"}
    return said.get(kind, f"of a type ({kind}) of which it is not known that JSON carries it")
