"""Describe the door in OpenAPI 3.1, with a schema for each registered event."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from pydantic import TypeAdapter

from cachekeeper.http_api.decoding import ATTRIBUTES
from cachekeeper.http_api.messages import BATCHED, BINARY, STRUCTURED
from cachekeeper.model.event_field_types import Id
from cachekeeper.model.events import Event
from cachekeeper.model.registry import Registry
from cachekeeper.settings import DoorSettings

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
# In the data an id may also be an integer; as an attribute it is text.
_ID: Schema = next(kind for kind in TypeAdapter(Id).json_schema()["anyOf"] if kind["type"] == "string")
_PROBLEM = "application/problem+json"

_ABOUT = (
    "Takes events as CloudEvents 1.0 over HTTP: one in structured mode, several in batched mode, or one in binary "
    "mode, with its attributes in ce- headers and its data in the body. The answer is 202 once the broker has all of "
    "them. If one event of a batch is wrong, nothing is published. Sending events again does no harm, if they keep "
    "their id."
)

_PROBLEM_SCHEMA: Schema = {
    "description": "Problem details (RFC 9457).",
    "type": "object",
    "required": ["title", "status", "detail"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "detail"],
                "properties": {
                    "index": {"type": "integer", "description": "The position of the event in the batch, from 0."},
                    "field": {"type": "string", "description": "The wrong field, such as data.user_id."},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}


def document(registry: Registry, settings: DoorSettings) -> Schema:
    """Make the OpenAPI document.

    Args:
        registry: the registered events.
        settings: has the limits to state.
    """
    kinds = registry.events.values()
    events = {kind.__name__: _event_schema(kind) for kind in kinds}
    parts = {name: part for kind in kinds for name, part in _json_schema(kind).get("$defs", {}).items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "cachekeeper: the HTTP door", "version": version("cachekeeper"), "description": _ABOUT},
        "paths": {
            "/events": {"post": _post(registry, settings)},
            "/healthz": {"get": _get("Check that the process runs", "It runs", 200)},
            "/readyz": {"get": _get("Check that the broker answers", "It answers", 200, 503)},
            "/openapi.json": {"get": _get("This document", "This document", 200)},
        },
        "components": {
            "schemas": {
                **parts,
                **events,
                "Event": {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in sorted(events)]},
                "Problem": _PROBLEM_SCHEMA,
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _post(registry: Registry, settings: DoorSettings) -> Schema:
    one: Schema = {"$ref": "#/components/schemas/Event"}
    batch = {"type": "array", "items": one, "maxItems": settings.http_batch_limit_events}
    data = {"anyOf": [_data_schema(kind) for kind in registry.events.values()]}
    told = {
        400: "An event is wrong: the answer names the event and the field. Nothing was published",
        401: "The key is missing or wrong",
        408: "The body did not arrive in time",
        413: f"More than {settings.http_body_limit_bytes} bytes, or {settings.http_batch_limit_events} events",
        415: "The content type or the encoding is not supported",
        503: "The broker did not confirm the events, but may have some of them. Send them again",
    }
    refusals = {str(status): _problem(text) for status, text in told.items()}
    for status, header in (("401", "WWW-Authenticate"), ("503", "Retry-After")):
        refusals[status]["headers"] = {header: {"required": True, "schema": {"type": "string"}}}
    return {
        "summary": "Publish events",
        "operationId": "publish",
        "security": [{"key": []}],
        # Only the binary mode uses these, and requires the first four: OpenAPI cannot say that.
        "parameters": [
            {"name": f"ce-{name}", "in": "header", "required": False, "schema": {"type": "string"}}
            for name in ("specversion", "id", "source", "type", "time")
        ],
        "requestBody": {
            "required": True,
            "content": {STRUCTURED: {"schema": one}, BATCHED: {"schema": batch}, BINARY: {"schema": data}},
        },
        "responses": {
            "202": {
                "description": "The broker has all of them",
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["accepted"],
                            "properties": {"accepted": {"type": "integer", "minimum": 0}},
                        }
                    }
                },
            },
            **refusals,
        },
    }


def _get(summary: str, good: str, *statuses: int) -> Schema:
    responses = {
        str(status): {"description": good, "content": {"application/json": {"schema": {"type": "object"}}}}
        if status < 400  # noqa: PLR2004  # where the errors of HTTP begin
        else _problem("It does not answer")
        for status in statuses
    }
    return {"summary": summary, "security": [], "responses": responses}


def _problem(text: str) -> Schema:
    return {"description": text, "content": {_PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


def _json_schema(kind: type[Event]) -> Schema:
    return kind.model_json_schema(ref_template="#/components/schemas/{model}")


def _event_schema(kind: type[Event]) -> Schema:
    return {
        "type": "object",
        "required": ["specversion", "id", "source", "type", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": _ID,
            "source": _TEXT,
            "type": {"const": kind.type_name()},
            "time": {"type": "string", "format": "date-time"},
            "datacontenttype": {"const": BINARY},
            "dataschema": _TEXT,
            "subject": _TEXT,
            "data": _data_schema(kind),
        },
        # Any extension attribute is allowed, and ignored.
        "propertyNames": {"pattern": "^[a-z0-9]+$"},
    }


def _data_schema(kind: type[Event]) -> Schema:
    """The schema of the data: the event's fields without those that are attributes of the CloudEvent."""
    found = _json_schema(kind)
    fields: Mapping[str, Schema] = found["properties"]
    kept = {name: _plain(schema) for name, schema in fields.items() if name not in ATTRIBUTES}
    required = [name for name in found.get("required", ()) if name not in ATTRIBUTES]
    return {"type": "object", "properties": kept, "required": required, "additionalProperties": False}


def _plain(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if name not in {"title", "default"}}
