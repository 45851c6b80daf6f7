"""What every request passes on the wire: an id, a line in the log, time limits for clients that do not read or send.

{"time": ..., "id": ..., "method": "POST", "path": "/v1/chat/completions", "status": 200, "ms": 41.2, ...}
"""

import asyncio
import json
import logging
import uuid
from datetime import UTC, datetime

from starlette.datastructures import Headers
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import Refused
from .server import Server

log = logging.getLogger("llada_v.requests")
MOST_SHOWN = 200
CLOSED = 499  # in the log: the client went away


class Wire:
    """The outermost layer of the application."""

    def __init__(self, app, server: Server):
        self.app, self.server = app, server

    async def __call__(self, scope, receive, send) -> None:
        """Pass a request on; a fault becomes a 500 without a trace, which the log has."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        begun, status = loop.time(), CLOSED
        request_id = uuid.uuid4().hex[:24]
        state = scope.setdefault("state", {})
        state |= {"id": request_id, "begun": begun, "log": {}}

        async def send_in_time(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            try:
                async with asyncio.timeout(self.server.limits.write_seconds):
                    await send(message)
            except TimeoutError as error:
                raise ClientStalled from error

        try:
            self.server.check_host(Headers(scope=scope).get("host", ""))
            await self.app(scope, receive, send_in_time)
        except Refused as error:
            await error.response()(scope, receive, send_in_time)
        except ClientStalled:
            state["log"]["stalled"] = True
            transport = scope.get("extensions", {}).get("llada_v.transport")
            if transport is not None:
                transport.abort()
        except Exception:
            log.exception("request %s failed", request_id)
            if status == CLOSED:
                failed = Refused(500, "the server made a mistake; it is written in its log", code="internal_error")
                await failed.response()(scope, receive, send_in_time)
        finally:
            self.server.metrics.responses.labels(str(status)).inc()
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "id": request_id,
                "method": scope["method"],
                "path": scope["path"][:MOST_SHOWN],
                "status": status,
                "ms": round(1000 * (loop.time() - begun), 1),
            }
            log.info(json.dumps(line | {name: value for name, value in state["log"].items() if value is not None}))


class ClientStalled(Exception):
    """A client that does not read."""


class PatientProtocol(H11Protocol):
    """uvicorn's protocol, but a head that does not come in time ends the connection. `seconds` is set by the server."""

    seconds = 30.0

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self.head_timer = self.loop.call_later(self.seconds, self.end_unless_begun)

    def end_unless_begun(self) -> None:
        """Close a connection on which no request has begun."""
        if self.cycle is None and not self.transport.is_closing():
            self.transport.abort()

    def connection_lost(self, exc) -> None:
        self.head_timer.cancel()
        super().connection_lost(exc)
