"""JSON forms of single values, as pydantic writes them, and whether each form is read as the same value again.

Where a function returns a text instead of forms, the text names the problem and its cure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import combinations
from typing import Any, Final

Schema = Mapping[str, Any]
Form = tuple[str, str]
"""A JSON form (`string`, `number`, …), and the name of the Python type that is written in this form."""

CARE: Final = "use a type that JSON can represent, such as str or int, and convert the value in the handler"

TEXTS = frozenset({"bytes", "date", "datetime", "decimal", "str", "time", "timedelta", "uuid"})
# How many of pydantic's two settings for moments and durations apply to a type.
_TEMPORAL = {"date": 1, "datetime": 1, "time": 1, "timedelta": 2}
PLAIN: Mapping[str, Form] = {
    "bool": ("boolean", "bool"),
    "float": ("number", "float"),
    "int": ("number", "int"),
    "none": ("null", "None"),
    **{name: ("string", name) for name in TEXTS},
}
# Two members of a union may share one of these forms: the value is equal, whichever member reads it.
_INTERCHANGEABLE = frozenset(PLAIN.values()) - {("string", name) for name in TEXTS - {"str"}}


def plain_forms(kind: str, config: Schema) -> frozenset[Form] | str:
    """The form of a scalar type.

    Args:
        kind: one of `PLAIN`.
        config: pydantic's config of the class that holds the field.
    """
    if kind == "bytes" and {config.get("ser_json_bytes"), config.get("val_json_bytes")} != {"base64"}:
        return "holds bytes: set ser_json_bytes='base64' and val_json_bytes='base64' in the config of its class"
    names = ("ser_json_temporal", "ser_json_timedelta")[: _TEMPORAL.get(kind, 0)]
    for name in names:
        if config.get(name, "iso8601") != "iso8601":
            return f"is written as a number: set {name}='iso8601' in the config of its class"
    return frozenset({PLAIN[kind]})


def value_forms(values: Iterable[object], python: str | None) -> frozenset[Form] | str:
    """The forms of the values of an enumeration or a Literal.

    Args:
        values: all of them.
        python: the name of the type that they share; None where each value has a type of its own.
    """
    names = {"str": "str", "int": "int", "float": "float", "bool": "bool", "NoneType": "none"}
    forms: set[Form] = set()
    for value in values:
        # A member that is itself text or a number, such as one of a StrEnum, is written as its value.
        base = next((name for each in type(value).__mro__ if (name := names.get(each.__name__))), None)
        if base is None:
            return f"has a value of type {type(value).__name__}: use only texts or integers"
        form, plain = PLAIN[base]
        forms.add((form, plain if python is None else python))
    return frozenset(forms)


def literal_forms(expected: Iterable[object]) -> frozenset[Form] | str:
    """The forms of a Literal."""
    values = list(expected)
    if any(isinstance(value, Enum) for value in values):
        return "is a Literal of enum members: use the enum itself as the type"
    return value_forms(values, None)


def union_forms(forms: Sequence[frozenset[Form]]) -> frozenset[Form] | str:
    """The forms of a union. One form must not stand for two types.

    Args:
        forms: the forms of each member.
    """
    for one, other in combinations(forms, 2):
        for first in sorted(one):
            for second in sorted(other):
                if first[0] == second[0] and not (first == second and first in _INTERCHANGEABLE):
                    return (
                        f"is a union of {first[1]} and {second[1]}, and JSON writes both as {first[0]}: keep one "
                        "of them" + (", or add a discriminator" if first[0] == "object" else "")
                    )
    return frozenset[Form]().union(*forms)


def said_of(kind: str) -> str:
    """Describe a type that JSON may not keep. The text stands after "is" or "are"."""
    said = {"any": "of any type (`Any`, or a generic without its argument)", "union": "a union", "nullable": "optional"}
    return said.get(kind, f"of a type ({kind}) that JSON may change")
