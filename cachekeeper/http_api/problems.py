"""Refusals: what is wrong with a request, said as problem details (RFC 9457). They never hold a value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

LONGEST_FIELD = 64


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with one event.

    Attributes:
        field: a CloudEvents attribute such as `id`, or a field of the data such as `data.user_id`.
        detail: what is wrong with it.
        index: which event of a batch, from 0; None where the request is one event.
    """

    field: str
    detail: str
    index: int | None = None

    def shown(self) -> dict[str, str | int]:
        """As it stands in the answer. The names of fields are the caller's: they are cut."""
        cut = self.field if len(self.field) <= LONGEST_FIELD else f"{self.field[:LONGEST_FIELD]}…"
        at: dict[str, str | int] = {} if self.index is None else {"index": self.index}
        return {**at, "field": cut, "detail": self.detail}


class Refused(Exception):
    """An event cannot be taken.

    Attributes:
        faults: at least one.
    """

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.detail}" for fault in faults))
        self.faults = faults


class Problem(Exception):
    """The answer to a request that is not granted.

    Attributes:
        status: the HTTP status.
        detail: what is wrong, and the cure.
        faults: which events, and which fields of them.
        headers: of the answer.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.faults = faults
        self.headers = headers


def problem_response(problem: Problem) -> Response:
    """Problem details; their `type` is left out, which means: no more than the status says."""
    body: dict[str, object] = {
        "title": problem.status.phrase,
        "status": problem.status.value,
        "detail": problem.detail,
    }
    if problem.faults:
        body["errors"] = [fault.shown() for fault in problem.faults]
    # ASCII: the name of a field may hold a lone surrogate, which UTF-8 cannot carry.
    text = json.dumps(body)
    return Response(text, problem.status.value, problem.headers, "application/problem+json")


def on_problem(_: Request, error: Exception) -> Response:
    """Starlette's handler of `Problem`."""
    assert isinstance(error, Problem)  # noqa: S101  # it is registered for no other
    return problem_response(error)


def on_http_exception(_: Request, error: Exception) -> Response:
    """Starlette's handler of what the router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)  # noqa: S101  # it is registered for no other
    return problem_response(Problem(HTTPStatus(error.status_code), error.detail, headers=error.headers))


def on_failure(_: Request, __: Exception) -> Response:
    """Starlette's handler of all else, which is also logged."""
    return problem_response(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of this server; its log says more"))
