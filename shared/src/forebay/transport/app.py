"""What every service's application begins with: errors as JSON, wire version, deadlines, health, status, metrics."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import orjson
from aiohttp import web

from forebay.contracts import WIRE_VERSION, ErrorReply, Record, StatusReply, encode
from forebay.contracts.codec import WIRE_HEADER
from forebay.contracts.traces import TRACES_PATH, TraceReply
from forebay.contracts.versions import accepted_text, is_taken
from forebay.errors import (
    CallerError,
    ForebayError,
    InternalError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    TooLarge,
    Unauthenticated,
    UnsupportedWireVersion,
)
from forebay.runtime import Deadline, logs
from forebay.runtime.tls import TlsFiles
from forebay.telemetry import current_context
from forebay.transport import openapi
from forebay.transport.client import DEADLINE_HEADER
from forebay.transport.openapi import OPENAPI_PATH, operation
from forebay.transport.versions import decode_body

if TYPE_CHECKING:
    from forebay.telemetry import Telemetry

R = TypeVar("R", bound=Record)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

ADMIN_ROLES = ("admin", "master")
BODY_TIMEOUT_S = 30.0
DEADLINE_MAX_S = 3600.0
_WIRE_TEXT = str(WIRE_VERSION)


@dataclass(frozen=True)
class ServiceInfo:
    """Who serves."""

    service: str
    member_id: str
    version: str
    started_at_s: float


INFO = web.AppKey("forebay_info", ServiceInfo)
TELEMETRY: web.AppKey[Telemetry] = web.AppKey("forebay_telemetry")
ADMIN_TOKEN: web.AppKey[str | None] = web.AppKey("forebay_admin_token")
OPEN_SOCKETS: web.AppKey[set[str]] = web.AppKey("forebay_open_sockets")
"""Names of Unix sockets for everybody on this host: who comes by one is no administrator for that."""
TLS: web.AppKey[TlsFiles | None] = web.AppKey("forebay_tls")
STATUS: web.AppKey[Callable[[], StatusReply]] = web.AppKey("forebay_status")
WAITING_FOR: web.AppKey[Callable[[], tuple[str, ...]]] = web.AppKey("forebay_waiting_for")
CHECK: web.AppKey[Callable[[], Awaitable[tuple[str, ...]]]] = web.AppKey("forebay_check")


def make_app(
    info: ServiceInfo,
    telemetry: Telemetry,
    *,
    status: Callable[[], StatusReply],
    waiting_for: Callable[[], tuple[str, ...]],
    body_max_bytes: int = 1 << 20,
    admin_token: str | None = None,
    tls: TlsFiles | None = None,
) -> web.Application:
    """An application with ``/healthz``, ``/readyz``, ``/metrics``, ``/v1/status``, ``/v1/traces/…``, ``/openapi.json``
    and the rules that all routes obey.

    ``waiting_for`` names what is missing until the service is ready (empty: ready); what takes a look is asked by
    ``/readyz`` alone, of ``app[CHECK]``, which must answer within a time of its own. A `ForebayError` from a handler
    becomes its `ErrorReply`; any other exception is logged and becomes ``internal`` without its text. A request with
    the header ``forebay-deadline-ms`` is bounded by it; one of a wire version that is not next to ours is refused,
    naming both. ``tls`` are the listener's files, by which `require_role` and `require_admin` read certificates.
    """
    app = web.Application(middlewares=[_guard], client_max_size=body_max_bytes)
    app[INFO] = info
    app[TELEMETRY] = telemetry
    app[ADMIN_TOKEN] = admin_token
    app[TLS] = tls
    app[OPEN_SOCKETS] = set()
    app[STATUS] = status
    app[WAITING_FOR] = waiting_for
    app.on_response_prepare.append(_add_wire_version)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/v1/status", _status)
    app.router.add_get(f"{TRACES_PATH}{{trace_id}}", _trace)
    app.router.add_get(OPENAPI_PATH, _openapi)
    return app


async def read_record(request: web.Request, kind: type[R]) -> R:
    """The request's body as a checked record. Unknown fields are left out when the header says that a newer build sent
    them, and refused otherwise: a person's mistake is not passed over.

    Raises:
        TooLarge: above the application's limit.
        InvalidRequest: not JSON, not a ``kind``, or a body that breaks off.
        DeadlineExceeded: the body did not come within `BODY_TIMEOUT_S`.
    """
    return decode_body(kind, await _body(request), request.headers.get(WIRE_HEADER))


async def read_json(request: web.Request) -> object:
    """The request's body as plain JSON, for what is checked elsewhere. Raises as ``read_record`` does."""
    try:
        return orjson.loads(await _body(request))
    except orjson.JSONDecodeError as e:
        raise InvalidRequest(f"the body is not JSON: {e}") from e


async def _body(request: web.Request) -> bytes:
    try:
        async with Deadline.after(BODY_TIMEOUT_S).timeout():
            return await request.read()
    except web.HTTPRequestEntityTooLarge as e:
        raise _too_large(request) from e
    except web.RequestPayloadError as e:
        raise InvalidRequest("the body breaks off or is malformed") from e


def record_response(record: Record, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A record as a JSON answer."""
    return web.Response(body=encode(record), status=status, headers=headers, content_type="application/json")


def require_admin(request: web.Request) -> None:
    """Lets administrators pass: by the bearer token if one is configured, else by a certificate (below), or over
    loopback or a Unix socket only. Under mutual TLS the certificate must be an ``admin``'s or a ``master``'s as well.

    Raises:
        Unauthenticated: no token, or the wrong one.
        PermissionDenied: no token is configured and the request came over the network, or by the certificate of
            another role.
    """
    require_role(request, *ADMIN_ROLES)
    token = request.config_dict[ADMIN_TOKEN]
    if token is None:
        if caller_roles(request) is None and not _is_local(request):
            raise PermissionDenied("no admin token is configured: changes are taken over loopback or Unix socket only")
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    given_bytes = given.strip().encode("utf-8", "surrogateescape")
    if kind.lower() != "bearer" or not hmac.compare_digest(given_bytes, token.encode()):
        raise Unauthenticated("this needs the admin token (authorization: Bearer …)", reason="admin_token")


def require_role(request: web.Request, *roles: str) -> None:
    """Under mutual TLS: lets those pass whose certificate names one of ``roles``. Otherwise everybody: other proofs
    decide then.

    Raises:
        PermissionDenied: the certificate names others.
    """
    held = caller_roles(request)
    if held is not None and held.isdisjoint(roles):
        wanted, shown = " or ".join(roles), ", ".join(sorted(held))
        raise PermissionDenied(f"this takes the certificate of a {wanted}; yours is a {shown}'s", reason="role")


def caller_roles(request: web.Request) -> frozenset[str] | None:
    """What the caller's certificate names; ``None`` without mutual TLS, and over the Unix socket."""
    tls = request.config_dict.get(TLS)
    if tls is None or not tls.is_mutual or request.get_extra_info("ssl_object") is None:
        return None
    return tls.roles(request.get_extra_info("peercert"))


def error_response(error: ForebayError, *, status: int | None = None) -> web.Response:
    """An error as its JSON answer, with the current trace id."""
    context = current_context()
    reply = ErrorReply(
        code=error.code,
        message=error.message,
        details=error.details,
        retryable=error.retryable,
        trace_id=context.trace_id if context else None,
    )
    return record_response(reply, status=status or error.status)


# -- the rules


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        headers = request.headers
        if not is_taken(wire := headers.get(WIRE_HEADER)):
            raise _other_wire(wire or "")
        if (deadline_ms := headers.get(DEADLINE_HEADER)) is None:
            return await handler(request)
        async with Deadline.after(_deadline_s(deadline_ms)).timeout():
            return await handler(request)
    except (asyncio.CancelledError, ConnectionError):
        raise
    except web.HTTPException as answer:
        if answer.status < 400:
            raise
        return _answer(request, _translate(request, answer), answer)
    except ForebayError as error:
        return _answer(request, error, error)
    except Exception as error:  # noqa: BLE001  # a bug in a handler must not cost the client its answer
        logs.get(__name__).error("handler_failed", route=request.path, error=repr(error), exc_info=True)
        return _answer(request, InternalError("an internal error; the log has it under this trace id"), error)


def _answer(request: web.Request, error: ForebayError, cause: Exception) -> web.Response:
    if request.writer.output_size > 0:
        raise ConnectionResetError("the reply had begun") from cause
    if isinstance(cause, web.HTTPException):
        response = error_response(error, status=cause.status)
        if "Allow" in cause.headers:
            response.headers["Allow"] = cause.headers["Allow"]
        return response
    return error_response(error)


def _translate(request: web.Request, answer: web.HTTPException) -> ForebayError:
    if answer.status == 404:
        return NotFound(f"there is no {request.path[:256]} here")
    if answer.status == 405:
        return InvalidRequest(f"{request.method[:16]} is not allowed on {request.path[:256]}")
    if answer.status == 413:
        return _too_large(request)
    return (CallerError if answer.status < 500 else InternalError)(answer.reason)


def _too_large(request: web.Request) -> TooLarge:
    limit = request.client_max_size
    return TooLarge(f"the body is longer than {limit} bytes", limit=limit)


def _deadline_s(text: str) -> float:
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise InvalidRequest(f"{DEADLINE_HEADER} is no number of milliseconds")
    return min(int(text) / 1000, DEADLINE_MAX_S)


def _other_wire(wire: str) -> UnsupportedWireVersion:
    return UnsupportedWireVersion(
        f"you speak wire version {wire[:16]}, this is {WIRE_VERSION} and works with {accepted_text()}",
        yours=wire[:16],
        ours=WIRE_VERSION,
    )


async def _add_wire_version(request: web.Request, response: web.StreamResponse) -> None:
    response.headers[WIRE_HEADER] = _WIRE_TEXT


def _is_local(request: web.Request) -> bool:
    ends: tuple[Any, Any] = (request.get_extra_info("sockname"), request.get_extra_info("peername"))
    if all(isinstance(end, (str, bytes)) for end in ends):  # a Unix socket
        return os.path.basename(os.fsdecode(ends[0])) not in request.config_dict[OPEN_SOCKETS]
    try:
        return all(ipaddress.ip_address(end[0].partition("%")[0]).is_loopback for end in ends)
    except (ValueError, TypeError, IndexError, AttributeError):
        return False


# -- the routes


@operation(media="text/plain")
async def _healthz(request: web.Request) -> web.Response:
    """Whether the process is alive."""
    return web.Response(text="ok\n")


@operation(media="text/plain", statuses=(200, 503))
async def _readyz(request: web.Request) -> web.Response:
    """Whether the service can serve: 200, or 503 and a line for each thing that is missing."""
    missing = request.app[WAITING_FOR]()
    if not missing and CHECK in request.app:
        missing = await request.app[CHECK]()
    if missing:
        return web.Response(status=503, text="".join(f"waiting for {what}\n" for what in missing))
    return web.Response(text="ready\n")


@operation(media="text/plain")
async def _metrics(request: web.Request) -> web.Response:
    """All metrics, in Prometheus form."""
    body = request.app[TELEMETRY].metrics.render()
    return web.Response(body=body, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})


@operation(gives=StatusReply)
async def _status(request: web.Request) -> web.Response:
    """What the service says of itself: settings, what it waits for, how its parts are."""
    return record_response(msgspec.structs.replace(request.app[STATUS](), now_s=time.time()))


@operation(gives=TraceReply)
async def _trace(request: web.Request) -> web.Response:
    """The spans that this process kept of a trace; of one whose requests carried ``tracestate: forebay=keep``."""
    return record_response(TraceReply(spans=request.app[TELEMETRY].tracer.ring.of(request.match_info["trace_id"])))


@operation()
async def _openapi(request: web.Request) -> web.Response:
    """This document (OpenAPI 3.1)."""
    info = request.app[INFO]
    return web.Response(
        body=orjson.dumps(openapi.document(request.app, info.service, info.version)), content_type="application/json"
    )


__all__ = [
    "ADMIN_TOKEN",
    "INFO",
    "OPEN_SOCKETS",
    "TELEMETRY",
    "ServiceInfo",
    "error_response",
    "make_app",
    "read_json",
    "read_record",
    "record_response",
    "require_admin",
    "require_role",
]
