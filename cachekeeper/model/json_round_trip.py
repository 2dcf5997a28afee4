"""Find the fields of an event class that JSON would change, by looking at pydantic's core schema of the class.

Events travel as JSON. A field survives if pydantic writes each of its values in one form and reads that form as the
same value. A union does not survive if two members share a form: with `UUID | str`, a text may come back as a UUID.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic_core import SchemaValidator, ValidationError

from cachekeeper.model.json_forms import (
    CARE,
    PLAIN,
    TEXTS,
    Form,
    Schema,
    literal_forms,
    plain_forms,
    said_of,
    union_forms,
    value_forms,
)

_TOO_EARLY = (
    "has a validator with mode='before' or mode='wrap', and inside it pydantic refuses the text or list that JSON "
    "has: use mode='after'"
)
_ARRAYS = frozenset({"deque", "frozenset", "list", "set"})
# Inside one of these pydantic no longer knows that it reads JSON, so a strict date field refuses text.
_BEFORE = frozenset({"function-before", "function-wrap"})
_WRAPPERS = frozenset({"default", "function-after", "function-before", "function-wrap"})
# Strict Python mode reads these types from the values that `json.loads` returns.
_AS_LOADED = frozenset({"any", "bool", "dict", "float", "int", "list", "literal", "none", "str"})
# JSON may change single values of these: an offset from UTC with seconds, an instance of a subclass, keys that are not
# Unicode text, and values that an application's validator returns.
_INEXACT = frozenset(
    {"dataclass", "datetime", "dict", "function-after", "function-before", "function-wrap", "model", "time"}
)
_KEYS = (TEXTS | {"bool", "enum", "float", "int", "literal"}) - {"none"}


@dataclass(slots=True)
class Report:
    """The findings about one class.

    Attributes:
        problems: a problem with its cure for each field that does not survive, by the field's path.
        needs_json_mode: whether strict Python mode cannot read the wire: it expects a `datetime`, and gets text.
        needs_reading_back: whether JSON keeps the types, but may change single values: an instance of a subclass,
            keys that are not Unicode text, an offset from UTC with seconds.
    """

    problems: dict[str, str] = field(default_factory=dict)
    needs_json_mode: bool = False
    needs_reading_back: bool = False


def check_round_trip(schema: Schema, doors: frozenset[object]) -> Report:
    """Check the fields of an event class.

    Args:
        schema: pydantic's core schema of the class.
        doors: validators that read the values of `json.loads` themselves.
    """
    walk = _Walk(doors)
    walk.fields_of(schema, "", {})
    return walk.report


class _Walk:
    """One walk through a schema."""

    def __init__(self, doors: frozenset[object]) -> None:
        self.report = Report()
        self._doors = doors
        self._definitions: dict[str, Schema] = {}
        self._inside: set[str] = set()

    def fields_of(self, schema: Schema, path: str, config: Schema) -> None:
        """Check the fields of a class, inside any wrappers."""
        kind = schema["type"]
        if kind == "definitions":
            self._define(schema)
            self.fields_of(schema["schema"], path, config)
        elif kind == "definition-ref":
            self.fields_of(self._definitions[schema["schema_ref"]], path, config)
        elif kind in _WRAPPERS:
            self._check_serializer(schema, path)
            with self._below(schema, path):
                self.fields_of(schema["schema"], path, config)
        elif kind in {"model", "dataclass"}:
            self._check_serializer(schema, path)
            own = schema.get("config", config if kind == "dataclass" else {})
            self.fields_of(schema["schema"], path, own)
        else:
            self._fields(schema, path, schema.get("config", config))

    def _fields(self, schema: Schema, path: str, config: Schema) -> None:
        found = schema["fields"]
        named = found.items() if isinstance(found, Mapping) else ((each["name"], each) for each in found)
        if "allow" in (schema.get("extra_behavior"), config.get("extra_fields_behavior")):
            self._refuse(path, "takes fields of any name and type: declare each field, and leave out extra='allow'")
        for name, each in named:
            inner = f"{path}.{name}" if path else name
            if "alias" in each or "validation_alias" in each or "serialization_alias" in each:
                self._refuse(inner, "has an alias, which the wire does not use: rename the field, and remove the alias")
            elif each.get("serialization_exclude") or "serialization_exclude_if" in each:
                self._refuse(inner, "is excluded, so the wire loses it: remove the field, or its exclusion")
            elif each.get("init") is False or each.get("init_only"):
                self._refuse(inner, "is not an argument (init=False), or not stored (InitVar): make it a plain field")
            else:
                self._field(each["schema"], inner, config)

    def _field(self, schema: Schema, path: str, config: Schema) -> None:
        try:
            self._forms(schema, path, config)
        except Exception as error:  # noqa: BLE001  # such as a schema of a later pydantic
            self._refuse(path, f"cannot be checked ({type(error).__name__}): {CARE}")

    def _forms(self, schema: Schema, path: str, config: Schema) -> frozenset[Form]:  # noqa: C901, PLR0911, PLR0912  # a case per kind
        """The forms in which a value is written. A value that does not survive is noted as a problem."""
        kind = schema["type"]
        self._check_serializer(schema, path)
        if kind not in _AS_LOADED and kind not in _WRAPPERS | {"definition-ref", "nullable", "union", "definitions"}:
            self.report.needs_json_mode = True
        if kind in _INEXACT and not self._is_door(schema):
            self.report.needs_reading_back = True
        if kind in PLAIN:
            return self._noted(path, plain_forms(kind, config))
        match kind:
            case "enum":
                values = [member.value for member in schema["members"]]
                return self._noted(path, value_forms(values, schema["cls"].__name__))
            case "literal":
                return self._noted(path, literal_forms(schema["expected"]))
            case "nullable":
                forms = self._forms(schema["schema"], path, config)
                if any(form == "null" and python not in {"none", "None"} for form, python in forms):
                    return self._refuse(path, "is optional, and has the value None: use a text or an integer instead")
                return forms | {PLAIN["none"]}
            case "union":
                return self._union(schema, path, config)
            case "tagged-union" if isinstance(schema["discriminator"], str):
                for choice in schema["choices"].values():
                    self._forms(choice, path, config)
                return frozenset({("object", "tagged-union")})
            case "dict":
                return self._dict(schema, path, config)
            case "definitions":
                self._define(schema)
                return self._forms(schema["schema"], path, config)
            case "definition-ref":
                return self._referred(schema["schema_ref"], path, config)
            case _ if kind in _WRAPPERS:
                if kind == "default":
                    self._check_default(schema, path, config)
                with self._below(schema, path):
                    return self._forms(schema["schema"], path, config)
            case "model" | "dataclass" | "typed-dict":
                return self._object(schema, path, config)
            case _ if kind in _ARRAYS or kind in {"tuple", "named-tuple"}:
                return self._array(schema, path, config)
        return self._refuse(path, f"is {said_of(kind)}: {CARE}")

    def _union(self, schema: Schema, path: str, config: Schema) -> frozenset[Form]:
        members = [choice[0] if isinstance(choice, tuple) else choice for choice in schema["choices"]]
        return self._noted(path, union_forms([self._forms(member, path, config) for member in members]))

    def _dict(self, schema: Schema, path: str, config: Schema) -> frozenset[Form]:
        keys = schema.get("keys_schema", {"type": "any"})
        bare = self._unwrapped(keys)
        inner = f"{path} (keys)"
        if bare["type"] not in _KEYS:
            self._refuse(inner, f"are {said_of(bare['type'])}, and keys in JSON are text: use one scalar type")
        else:
            forms = self._forms(keys, inner, config)
            if bare["type"] in {"enum", "literal"} and {form for form, _ in forms} - {"string"}:
                self._refuse(inner, "are not all text, but keys in JSON are: use only texts")
            if bare["type"] not in {"str", "literal"}:
                self.report.needs_json_mode = True
                if self._has_before(keys):
                    self._refuse(inner, _TOO_EARLY)
        self._forms(schema.get("values_schema", {"type": "any"}), f"{path} (values)", config)
        return frozenset({("object", "dict")})

    @contextmanager
    def _below(self, schema: Schema, path: str) -> Iterator[None]:
        """Report a 'before' or 'wrap' validator with something inside that needs JSON mode, except in `doors`."""
        report = self.report
        needed, report.needs_json_mode = report.needs_json_mode, False
        inexact = report.needs_reading_back
        yield
        if self._is_door(schema):
            report.needs_json_mode, report.needs_reading_back = needed, inexact
            return
        if schema["type"] in _BEFORE and report.needs_json_mode:
            self._refuse(path, _TOO_EARLY)
        report.needs_json_mode |= needed

    def _is_door(self, schema: Schema) -> bool:
        return schema["type"] == "function-before" and schema["function"]["function"] in self._doors

    def _has_before(self, schema: Schema) -> bool:
        while schema["type"] in _WRAPPERS:
            if schema["type"] in _BEFORE and not self._is_door(schema):
                return True
            schema = schema["schema"]
        return False

    def _unwrapped(self, schema: Schema) -> Schema:
        while schema["type"] in _WRAPPERS:
            schema = schema["schema"]
        return schema

    def _array(self, schema: Schema, path: str, config: Schema) -> frozenset[Form]:
        kind = schema["type"]
        inner = f"{path} (items)"
        if kind == "tuple":
            for item in schema["items_schema"]:
                self._forms(item, inner, config)
        elif kind == "named-tuple":
            for item in schema["fields"]:
                self._forms(item["schema"], f"{path}.{item['name']}", config)
        else:
            self._forms(schema.get("items_schema", {"type": "any"}), inner, config)
        return frozenset({("array", kind)})

    def _object(self, schema: Schema, path: str, config: Schema) -> frozenset[Form]:
        if schema.get("root_model"):
            inner = schema["schema"]
            if inner["type"] == "model-field":
                inner = inner["schema"]
            return self._forms(inner, path, schema.get("config", {}))
        if schema.get("custom_init"):
            self._refuse(path, "is of a class with its own __init__, which cannot read JSON: use a plain model")
        if schema["type"] == "dataclass" and schema["cls"].__eq__ is object.__eq__:
            self._refuse(path, "is of a class without an __eq__, so reading it back cannot be checked: remove eq=False")
        self.fields_of(schema, path, config)
        return frozenset({("object", schema["type"])})

    def _define(self, schema: Schema) -> None:
        self._definitions |= {each["ref"]: each for each in schema["definitions"]}

    def _referred(self, ref: str, path: str, config: Schema) -> frozenset[Form]:
        if ref in self._inside:
            self.report.needs_json_mode |= self._unwrapped(self._definitions[ref])["type"] not in _AS_LOADED
            return frozenset({("object", "itself")})
        self._inside.add(ref)
        forms = self._forms(self._definitions[ref], path, config)
        self._inside.discard(ref)
        return forms

    def _check_default(self, schema: Schema, path: str, config: Schema) -> None:
        if "default" not in schema:
            return  # a factory may have side effects, so it is not called
        default, checked = schema["default"], schema.get("validate_default", config.get("validate_default", False))
        whole = {"type": "definitions", "schema": schema["schema"], "definitions": [*self._definitions.values()]}
        try:
            found = SchemaValidator(cast("Any", whole), cast("Any", config)).validate_python(default)
        except ValidationError as error:
            said = error.errors(include_input=False, include_url=False, include_context=False)[0]["msg"]
            self._refuse(path, f"has a default that is not valid: {said}")
            return
        except Exception:  # noqa: BLE001  # such as a validator that reads other fields
            return
        if not checked and (found != default or not isinstance(default, type(found))):
            self._refuse(path, f"has a default that is a {type(default).__name__}: give it a {type(found).__name__}")

    def _check_serializer(self, schema: Schema, path: str) -> None:
        if "serialization" in schema:
            self._refuse(path, f"has a serializer of its own, whose output may be read as another value: {CARE}")

    def _noted(self, path: str, found: frozenset[Form] | str) -> frozenset[Form]:
        """The forms that were found; a text instead of forms is noted as a problem."""
        return self._refuse(path, found) if isinstance(found, str) else found

    def _refuse(self, path: str, problem: str) -> frozenset[Form]:
        self.report.problems.setdefault(path or "the event", problem)
        return frozenset()


def told(problems: Mapping[str, str]) -> Iterator[str]:
    """The problems of a report, one text per field."""
    for path, problem in problems.items():
        yield f"field {path}: {problem}"
