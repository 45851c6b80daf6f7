"""The server's application: OpenAI's chat completions over one engine, its health, its figures, and the page.

    POST /v1/chat/completions /v1/diffusion/attention   GET /v1/models /health /ready /metrics /openapi.json / /static

A client that goes away takes its request with it; one that does not read is dropped.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from ..generation.presets import preset_of, settings_of
from .engine import Engine, Finished
from .errors import Refused
from .forms import AttentionRequest, ChatRequest
from .limits import Limits
from .looking import add_attention
from .server import Events, Server, ServerConfig, refused
from .stream import Writer, completion, head_of, timings_of, usage_of
from .wire import ClientStalled, Wire

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
REFS = "#/components/schemas/{model}"


def create_app(engine: Engine, config: ServerConfig | None = None, limits: Limits | None = None) -> FastAPI:
    """The application. The engine is started with it, and closed with it."""
    server = Server(engine, config or ServerConfig(), limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        if engine.thread.ident is None:
            engine.start()
        yield
        server.is_stopping = True
        await asyncio.to_thread(engine.close)
        server.readers.shutdown(cancel_futures=True)

    app = FastAPI(title="LLaDA-V", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.server = server
    add_errors(app)
    add_routes(app, server)
    add_page(app)
    add_schema(app)
    if server.config.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(server.config.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Wire, server=server)
    return app


def add_errors(app: FastAPI) -> None:
    """Every error in OpenAI's form."""

    @app.exception_handler(Refused)
    async def refuse(request: Request, error: Refused) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def refuse_plain(request: Request, error: HTTPException) -> Response:
        refused = Refused(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}").response()
        refused.headers.update(error.headers or {})
        return refused


def add_routes(app: FastAPI, server: Server) -> None:
    """What clients ask."""
    chat, attention = (
        {
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": REFS.format(model=form.__name__)}}},
            }
        }
        for form in (ChatRequest, AttentionRequest)
    )
    told: dict[int | str, dict] = {
        status: {"description": text, "content": {"application/json": {"schema": {"$ref": REFS.format(model="Error")}}}}
        for status, text in {
            400: "a request that cannot be met, and why",
            401: "no key that is known",
            403: "a name that is not the server's (`--allow-host`)",
            404: "no such model",
            408: "the body did not come in time",
            413: "the body is too large",
            415: "the body is no JSON",
            429: "too many requests; Retry-After says when to come back",
            500: "a fault of the server",
            503: "the server is stopping",
            504: "the answer took too long",
        }.items()
    }

    @app.post("/v1/chat/completions", openapi_extra=chat, responses=told, response_class=JSONResponse)
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        return await answer(server, request)

    add_attention(app, server, attention, told)

    @app.get("/v1/models", responses={401: told[401]})
    async def models(request: Request) -> dict:
        """The model that is served, its default settings, and the limits."""
        server.client_of(request)
        return {"object": "list", "data": [model_card(server)]}

    @app.get("/v1/models/{name:path}", responses={401: told[401], 404: told[404]})
    async def model(request: Request, name: str) -> dict:
        """One model."""
        server.client_of(request)
        if name != server.config.name:
            raise Refused(404, f"there is no model {name[:200]!r}", "model", "model_not_found")
        return model_card(server)

    @app.get("/health")
    async def health() -> Response:
        """Whether the server lives."""
        alive = engine_lives(server)
        return JSONResponse({"status": "ok" if alive else "the engine has ended"}, 200 if alive else 503)

    @app.get("/ready")
    async def ready() -> Response:
        """Whether a request would be taken."""
        is_ready = server.is_ready
        return JSONResponse({"status": "ready" if is_ready else "stopping"}, 200 if is_ready else 503)

    @app.get("/metrics", responses={401: told[401]})
    async def metrics(request: Request) -> Response:
        """Figures for Prometheus."""
        server.client_of(request)
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def engine_lives(server: Server) -> bool:
    """Whether the engine's thread runs."""
    return server.engine.thread.is_alive()


def model_card(server: Server) -> dict:
    """What /v1/models says of the model."""
    model, limits = server.engine.model, server.limits
    preset = preset_of(model.generation_config, server.engine.processor.reproduce_original)
    return {
        "id": server.config.name,
        "object": "model",
        "created": server.created,
        "owned_by": "llada-v",
        "max_model_len": model.config.text_config.max_position_embeddings,
        "preset": preset,
        "diffusion": settings_of(preset, {"gen_length": model.generation_config.max_new_tokens}),
        "limits": asdict(limits),
    }


async def answer(server: Server, request: Request) -> Response:
    """POST /v1/chat/completions."""
    client = server.client_of(request)
    counted = server.counted(client)
    await counted.__aenter__()
    events = None
    try:
        body = await server.body_of(request)
        form, asked = await asyncio.get_running_loop().run_in_executor(server.readers, server.read, body)
        del body
        events = Events(server.engine)
        watches = asked.schema is None and (bool(form.stream) or asked.logprobs)
        writers = await asyncio.get_running_loop().run_in_executor(
            server.readers, server.submit, asked, watches, events
        )
        num_prompt = asked.num_prompt
        asked.parts = []
        head = head_of(f"chatcmpl-{request.state.id}", server.config.name)
        request.state.log |= {"client": client, "user": form.user, "prompt_tokens": num_prompt}
        if form.stream:
            for writer in writers:
                writer.with_frames = bool(form.diffusing)
            with_usage = form.stream_options is not None and form.stream_options.include_usage
            chunks = chunks_of(server, request, events, writers, head, num_prompt, with_usage)
            response = EventStream(chunks, counted, events)
            counted = events = None  # the stream's from here on
            return response
        done = await finished(server, request, events, writers)
        return JSONResponse(completion(head, writers, done, num_prompt))
    finally:
        if events is not None:
            events.cancel()
        if counted is not None:
            await counted.__aexit__(None, None, None)


async def finished(server: Server, request: Request, events: Events, writers: list[Writer]) -> list[Finished]:
    """All answers of a request, unless its client goes away."""
    gone = asyncio.ensure_future(disconnected(request))
    answers: dict[int, Finished] = {}
    try:
        while len(answers) < len(writers):
            coming = asyncio.ensure_future(events.next())
            await asyncio.wait((coming, gone), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                raise Refused(499, "the client went away")
            index, event = coming.result()
            if isinstance(event, Finished):
                answers[index] = event
            else:
                writers[index].step(event)
    finally:
        gone.cancel()
    found = [answers[index] for index in range(len(writers))]
    note(server, request, found)
    return found


async def disconnected(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def note(server: Server, request: Request, answers: list[Finished]) -> None:
    """Figures and log of a request that is done."""
    for done in answers:
        server.metrics.last.observe(done.seconds)
        server.metrics.forwards.observe(done.num_forwards)
    request.state.log |= {
        "completion_tokens": sum(len(done.token_ids) for done in answers),
        "forwards": sum(done.num_forwards for done in answers),
    }


async def chunks_of(
    server: Server,
    request: Request,
    events: Events,
    writers: list[Writer],
    head: dict,
    num_prompt: int,
    with_usage: bool,
) -> AsyncIterator[dict]:
    """A stream's chunks in order."""
    head = {**head, "object": "chat.completion.chunk"}
    if with_usage:
        head["usage"] = None
    for writer in writers:
        yield head | writer.choice({"role": "assistant", "content": ""})
    answers: dict[int, Finished] = {}
    has_text = False
    while len(answers) < len(writers):
        index, event = await events.next()
        if isinstance(event, Finished):
            answers[index] = event
            parts = writers[index].finish(event)
            parts[-1]["timings"] = timings_of([event])
        else:
            parts = writers[index].step(event)
        for part in parts:
            if not has_text and writers[index].sent:
                has_text = True
                server.metrics.first.observe(asyncio.get_running_loop().time() - request.state.begun)
            yield head | part
    found = [answers[index] for index in range(len(writers))]
    note(server, request, found)
    if with_usage:
        yield head | {"choices": [], "usage": usage_of(num_prompt, found)}


class EventStream(Response):
    """Chunks as server-sent events; what they hold is freed however the stream ends."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[dict], counted, events: Events):
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.chunks, self.counted, self.events = chunks, counted, events

    async def __call__(self, scope, receive, send) -> None:
        """Send until the end, or until the client goes."""
        sending = asyncio.ensure_future(self.send_all(send))
        gone = asyncio.ensure_future(self.wait_for_end(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self.events.cancel()
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
            await self.counted.__aexit__(None, None, None)

    async def wait_for_end(self, receive) -> None:
        """Returns when the client has gone."""
        while (await receive())["type"] != "http.disconnect":
            pass

    async def send_all(self, send) -> None:
        """Every chunk; an error is one too, since the status is sent already."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for chunk in self.chunks:
                await self.send_data(send, json.dumps(chunk, ensure_ascii=False, separators=(",", ":")))
            await self.send_data(send, "[DONE]")
        except Refused as error:
            await self.send_data(send, json.dumps(error.body, ensure_ascii=False))
        except ClientStalled:
            raise
        except Exception as error:
            log.exception("a stream failed")
            await self.send_data(send, json.dumps(refused(error).body))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def send_data(self, send, text: str) -> None:
        """One event."""
        await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})


def add_page(app: FastAPI) -> None:
    """The page, and what it is made of."""
    if not PAGE.is_dir():
        return

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)

    app.mount("/static", StaticFiles(directory=PAGE), name="static")


def add_schema(app: FastAPI) -> None:
    """/openapi.json with the forms of requests and errors."""
    plain = app.openapi

    def openapi() -> dict:
        if app.openapi_schema is None:
            schema = plain()
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            for kind in (ChatRequest, AttentionRequest):
                form = kind.model_json_schema(ref_template=REFS)
                schemas |= form.pop("$defs", {}) | {kind.__name__: form}
            schemas["Error"] = ERROR
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it


ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
