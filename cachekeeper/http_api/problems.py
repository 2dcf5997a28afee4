"""Answer a wrong request with problem details (RFC 9457). They never hold a value of the request."""

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
        """The fault as JSON, for the answer. A long field name is cut: it may come from the caller."""
        cut = self.field if len(self.field) <= LONGEST_FIELD else f"{self.field[:LONGEST_FIELD]}…"
        at: dict[str, str | int] = {} if self.index is None else {"index": self.index}
        return {**at, "field": cut, "detail": self.detail}


class Refused(Exception):
    """An event is wrong and is not accepted.

    Attributes:
        faults: at least one.
    """

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.detail}" for fault in faults))
        self.faults = faults


class Problem(Exception):
    """An error answer to a request.

    Attributes:
        status: the HTTP status.
        detail: what is wrong, and what to do.
        faults: the wrong events and fields.
        headers: the headers of the answer.
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
    """Make the answer. It has no `type`: the problem then means no more than its status says."""
    body: dict[str, object] = {
        "title": problem.status.phrase,
        "status": problem.status.value,
        "detail": problem.detail,
    }
    if problem.faults:
        body["errors"] = [fault.shown() for fault in problem.faults]
    # As ASCII: the name of a field may hold a lone surrogate, which UTF-8 cannot encode.
    text = json.dumps(body)
    return Response(text, problem.status.value, problem.headers, "application/problem+json")


def on_problem(_: Request, error: Exception) -> Response:
    """Handle `Problem` for Starlette."""
    assert isinstance(error, Problem)  # noqa: S101  # it is registered for this class only
    return problem_response(error)


def on_http_exception(_: Request, error: Exception) -> Response:
    """Handle what Starlette's router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)  # noqa: S101  # it is registered for this class only
    return problem_response(Problem(HTTPStatus(error.status_code), error.detail, headers=error.headers))


def on_failure(_: Request, __: Exception) -> Response:
    """Handle every other error for Starlette, which also logs it."""
    return problem_response(
        Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an internal error of this server; its log has the details")
    )
