"""The door's application: check the key and the events, publish them, and answer 202 once the broker has them."""

from __future__ import annotations

import functools
import hashlib
import hmac
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cachekeeper.errors import BrokerUnavailable
from cachekeeper.http_api.decoding import read_events, texts_of
from cachekeeper.http_api.messages import BATCHED, media_type, read_message
from cachekeeper.http_api.openapi import document
from cachekeeper.http_api.problems import Problem, Refused, on_failure, on_http_exception, on_problem
from cachekeeper.model.registry import Registry, load_registry
from cachekeeper.publishing.publisher import Publisher, packed
from cachekeeper.publishing.wire_format import OutgoingMessage
from cachekeeper.settings import DoorSettings

logger = logging.getLogger("cachekeeper.door")

BODY_SECONDS: Final = 10.0
"""The time within which a whole body must arrive."""

AT_ONCE: Final = 16
"""The number of requests that publish at the same time, each on its own connection and thread. anyio has 40 threads."""

WAITING: Final = 256
"""The number of requests that may wait to publish, so that they do not fill the memory while the broker hangs."""

RETRY_SECONDS: Final = 5
"""The `Retry-After` of a 503: by then the broker may be available again."""

READY_SECONDS: Final = 1.0
"""How long `/readyz` reuses the last known state of the broker. Callers need no key, so this limits their probes."""


class Door:
    """The ASGI application.

    Args:
        settings: the door's settings.
        registry: the registered events; default: those of `settings.modules`.
        publisher: publishes the events; default: a new one with these settings.

    Raises:
        SettingsError, RegistrationError: as from `load_registry`.
    """

    def __init__(
        self, settings: DoorSettings, *, registry: Registry | None = None, publisher: Publisher | None = None
    ) -> None:
        self._settings = settings
        self._registry = load_registry(settings.modules) if registry is None else registry
        self._publisher = Publisher(settings) if publisher is None else publisher
        self._keys = [_digest(key.encode()) for key in settings.http_api_keys]
        self._slots = anyio.CapacityLimiter(AT_ONCE)
        self._probing = anyio.Lock()
        self._ready = (-math.inf, False)
        self._away = False
        self._document = document(self._registry, settings)
        self._app = Starlette(
            routes=[
                Route("/events", self._post_events, methods=["POST"]),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/openapi.json", self._openapi),
            ],
            exception_handlers={Problem: on_problem, HTTPException: on_http_exception, Exception: on_failure},
            lifespan=self._lifespan,
        )
        # No redirects: their URL would come from the request's Host header, and the client would send the body twice.
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a connection, as ASGI defines it."""
        await self._app(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await anyio.to_thread.run_sync(self._publisher.close)

    # --- publishing -------------------------------------------------------------------------------------------------

    async def _post_events(self, request: Request) -> Response:
        self._check_key(request)
        headers = request.headers.raw
        kind = media_type(headers)
        body = await self._body(request)
        try:
            found = read_message(kind, headers, body, self._settings.http_batch_limit_events)
            events = read_events(self._registry, found, batched=kind == BATCHED)
            texts = texts_of(events, batched=kind == BATCHED)
        except Refused as refused:
            raise Problem(
                HTTPStatus.BAD_REQUEST, "nothing was published; correct the fields in errors", faults=refused.faults
            ) from None
        await self._publish(texts)
        return JSONResponse({"accepted": len(texts)}, HTTPStatus.ACCEPTED.value)

    def _check_key(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        digest = _digest(given.strip().encode())
        # Compare digests, because comparing keys takes longer for longer keys. Compare with every key, so that the time
        # does not tell which one fits.
        fits = [hmac.compare_digest(digest, key) for key in self._keys]
        if scheme.lower() != "bearer" or not any(fits):
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "authorization: must be 'Bearer' and one of the keys in CACHEKEEPER_HTTP_API_KEYS",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, request: Request) -> bytes:
        limit = self._settings.http_body_limit_bytes
        too_large = Problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body may have at most {limit} bytes; send less at once"
        )
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise too_large
        body = bytearray()
        try:
            with anyio.fail_after(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise too_large
        except TimeoutError:
            raise Problem(
                HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive within {BODY_SECONDS:g} seconds; send it again"
            ) from None
        except ClientDisconnect:
            raise Problem(HTTPStatus.BAD_REQUEST, "the body ended early") from None  # the client has gone
        return bytes(body)

    async def _publish(self, texts: Sequence[str]) -> None:
        """Publish the events, and return once the broker has confirmed all of them."""
        if self._slots.statistics().tasks_waiting >= WAITING:
            raise self._unavailable("too many requests already wait for the broker")
        publish = functools.partial(self._publish_texts, texts)
        try:
            with anyio.fail_after(self._settings.publish_timeout_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise self._unavailable("the broker is too slow: this request waited too long for its turn") from None
        try:
            await anyio.to_thread.run_sync(publish)
        except BrokerUnavailable as error:
            self._note(away=True)
            raise self._unavailable(str(error)) from error
        finally:
            self._slots.release()
        self._note(away=False)

    def _publish_texts(self, texts: Sequence[str]) -> None:
        for batch in packed(texts):
            self._publisher.send(OutgoingMessage(batch))

    def _unavailable(self, detail: str) -> Problem:
        detail = f"{detail}; send the same events again later: that does no harm"
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"Retry-After": str(RETRY_SECONDS)})

    def _note(self, *, away: bool) -> None:
        """Remember whether the broker answered. Log a change only: once per outage, not once per request."""
        self._ready = (time.monotonic(), not away)
        if away != self._away:
            self._away = away
            logger.warning(
                "the broker is unavailable; requests get status 503" if away else "the broker is available again"
            )

    # --- about the door ---------------------------------------------------------------------------------------------

    async def _healthz(self, _: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _readyz(self, _: Request) -> Response:
        async with self._probing:
            asked, ready = self._ready
            if time.monotonic() - asked > READY_SECONDS:
                ready = await self._probe()
        if not ready:
            retry = {"Retry-After": str(RETRY_SECONDS)}
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "the broker does not answer", headers=retry)
        return JSONResponse({"status": "ready"})

    async def _probe(self) -> bool:
        try:
            await anyio.to_thread.run_sync(self._publisher.probe)
        except BrokerUnavailable:
            self._note(away=True)
            return False
        self._note(away=False)
        return True

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(self._document)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
