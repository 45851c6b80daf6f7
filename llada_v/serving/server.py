"""A request's way in, and its events' way out: key, limits, body, form, engine, and errors as clients are told them.

request -> key, limits, form -> `reading` in a thread -> engine -> events
"""

import asyncio
import hmac
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from pydantic import ValidationError

from ..errors import UserError
from ..generation.apart import put_together
from ..json_text import parse_json, shown
from . import engine as engines
from .engine import Engine, Failed, Finished, Full, OutOfTime, Step, Stopping, TooLarge
from .errors import Refused
from .forms import AttentionRequest, ChatRequest
from .limits import Limits
from .metrics import Metrics
from .reading import Asked, read
from .stream import Writer

FormType = TypeVar("FormType", ChatRequest, AttentionRequest)
READERS = 2  # threads that decode pictures and write prompts


@dataclass(frozen=True)
class ServerConfig:
    """How the server behaves beside its limits.

    name: of the model. keys: any of which a client must show; none: all are served. origins: of pages on other hosts
    that may ask. fetches: whether pictures are fetched from public web addresses. hosts: names by which clients may
    call the server; none: any. A page whose own name is made to point here would otherwise count as this server's.
    """

    name: str = "llada-v"
    keys: Sequence[str] = ()
    origins: Sequence[str] = ()
    fetches: bool = False
    hosts: Sequence[str] = ()


class Server:
    """What the routes share."""

    def __init__(self, engine: Engine, config: ServerConfig, limits: Limits):
        self.engine, self.config, self.limits = engine, config, limits
        self.metrics = Metrics(engine)
        self.readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self.clients: Counter[str] = Counter()
        self.is_stopping = False
        self.created = int(time.time())

    @property
    def is_ready(self) -> bool:
        """Whether a request would be taken."""
        return self.engine.is_alive and not self.is_stopping

    # A request's way in

    def check_host(self, host: str) -> None:
        """Raises Refused for a request that calls the server by a name that is not its own."""
        name = host.rsplit("]", 1)[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        if self.config.hosts and name.lower() not in self.config.hosts:
            raise Refused(
                403,
                f"this server is not called {host[:100]!r}, but {', '.join(self.config.hosts)}; "
                "start it with --allow-host NAME if it is",
                code="unknown_host",
            )

    def client_of(self, request: Request) -> str:
        """Who asks: a key, else an address. Raises Refused without a key that is known, where there are keys."""
        if self.config.keys:
            scheme, _, key = request.headers.get("authorization", "").partition(" ")
            given = key.strip().encode() if scheme.lower() == "bearer" else b""
            known = [hmac.compare_digest(given, each.encode()) for each in self.config.keys]  # all, whichever fits
            if not any(known):
                raise Refused(
                    401, "the key is missing or not known; send Authorization: Bearer KEY", code="invalid_api_key"
                )
            return f"key {known.index(True)}"
        return request.client.host if request.client else "local"

    @asynccontextmanager
    async def counted(self, client: str) -> AsyncIterator[None]:
        """A request among those of its client and of all. Raises Refused where there are too many."""
        for there, most, told in (
            (self.clients[client], self.limits.client_requests, "you have"),
            (self.clients.total(), self.limits.all_requests, "the server has"),
        ):
            if there >= most:
                raise Refused(
                    429, f"{told} {there} requests at once, as many as may be; try again later", retry_after=1
                )
        self.clients[client] += 1
        try:
            yield
        finally:
            self.clients[client] -= 1
            if not self.clients[client]:
                del self.clients[client]

    async def body_of(self, request: Request) -> bytes:
        """The body, within its limits of size and time."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, f"the body is {kind or 'of no type'}; send application/json")
        most = self.limits.body_mib * 2**20
        told = f"the body is larger than the {self.limits.body_mib} MiB that are taken"
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > most:
            raise Refused(413, told)
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise Refused(413, told)
                    parts.append(part)
        except TimeoutError as error:
            raise Refused(408, f"the body took more than {self.limits.body_seconds:g} seconds") from error
        return b"".join(parts)

    def form_of(self, body: bytes, kind: type[FormType]) -> FormType:
        """A body as a form of that kind, for the model that is served. Raises Refused for all else."""
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(400, "the body is not UTF-8 text") from error
        try:
            form = kind.model_validate(parse_json(text, "the body"))
        except ValidationError as error:
            raise refused_form(error) from error
        except UserError as error:
            raise Refused(400, str(error).removesuffix("; download or copy it again")) from error
        if form.model not in (None, self.config.name):
            told = f"there is no model {shown(form.model)}; this server has {self.config.name!r}"
            raise Refused(404, told, "model", "model_not_found")
        return form

    def read(self, body: bytes) -> tuple[ChatRequest, Asked]:
        """A body as a request that was read. In a thread of its own: pictures are decoded here."""
        form, engine = self.form_of(body, ChatRequest), self.engine
        return form, read(form, engine.processor, engine.model.generation_config, self.limits, self.config.fetches)

    def submit(self, asked: Asked, watches: bool, events: "Events") -> list[Writer]:
        """Hand a request to the engine, once for each answer, or for each field of the only one."""
        num_prompt = asked.num_prompt
        writers: list[Writer] = []
        parts = asked.parts * asked.answers
        events.schema = asked.schema
        try:
            for index, (inputs, sampler) in enumerate(parts):
                request = engines.Request(
                    inputs,
                    sampler,
                    events.listener(index),
                    (asked.seed + index) % 2**63,
                    watches,
                    asked.runners_up,
                    self.limits.request_seconds,
                )
                job = self.engine.submit(request)
                events.jobs.append(job)
                if asked.schema is not None and writers:
                    continue  # the fields' answers are one
                writers.append(Writer(job.plan, self.engine.model.config.mask_token_id, index, asked.logprobs))
        except UserError as error:
            events.cancel()
            raise refused(error, num_prompt) from error
        return writers


class Events:
    """The engine's events of one request, brought to the server's loop. Use it as a context: leaving cancels."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.jobs: list[engines.Job] = []
        self.schema: dict | None = None  # whose fields the jobs are
        self.fields: dict[int, Finished] = {}
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[tuple[int, engines.Event]] = asyncio.Queue()

    def listener(self, index: int):
        """What the engine's thread calls."""

        def listen(event: engines.Event) -> None:
            try:
                self.loop.call_soon_threadsafe(self.queue.put_nowait, (index, event))
            except RuntimeError:  # the loop is closed: nobody is there to hear
                pass

        return listen

    async def next(self) -> tuple[int, Step | Finished]:
        """The next event. Raises Refused for a failure."""
        index, event = await self.queue.get()
        if isinstance(event, Failed):
            raise refused(event.error)
        if self.schema is None:
            return index, event
        if isinstance(event, Finished):
            self.fields[index] = event
        if len(self.fields) < len(self.jobs):
            return await self.next()
        return 0, joined([self.fields[index] for index in range(len(self.jobs))], self.schema)

    def cancel(self) -> None:
        """Nobody waits any more."""
        for job in self.jobs:
            self.engine.cancel(job)


def joined(fields: list[Finished], schema: dict) -> Finished:
    """The answer to a schema from those to its fields."""
    return Finished(
        token_ids=[token for done in fields for token in done.token_ids],
        positions=[],
        text=put_together(schema, [done.text for done in fields]),
        stopped=True,
        order=[step for done in fields for step in done.order],
        num_forwards=sum(done.num_forwards for done in fields),
        seconds=max(done.seconds for done in fields),
        waited_seconds=max(done.waited_seconds for done in fields),
        ticks_waited=sum(done.ticks_waited for done in fields),
    )


def refused(error: BaseException, num_prompt: int | None = None) -> Refused:
    """What a client is told of an error of the engine."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Full):
        return Refused(429, str(error), code="queue_full", retry_after=error.retry_after)
    if isinstance(error, Stopping):
        return Refused(503, str(error), code="stopping", retry_after=5)
    if isinstance(error, OutOfTime):
        return Refused(504, str(error), code="timeout")
    if isinstance(error, TooLarge):
        return Refused(400, str(error), code="too_large")
    if isinstance(error, UserError):
        return Refused(400, str(error), code="context_length_exceeded" if "positions" in str(error) else None)
    return Refused(500, "the server made a mistake; it is written in its log", code="internal_error")


def refused_form(error: ValidationError) -> Refused:
    """The first thing that is wrong with a form, and where. An unknown field comes before all else."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
    unions = ("function-", "literal[", "constrained-", "list[", "str", "int", "float", "bool", "none")
    where = ""
    for place in first["loc"]:
        if isinstance(place, int):
            where += f"[{place}]"
        elif not place.startswith(unions) and place not in ("text", "image_url", "video_url", "video") or not where:
            where += f".{place}" if where else place
    if first["type"] == "extra_forbidden":
        return Refused(400, f"unknown field {where}", where, "unknown_field")
    return Refused(400, f"{where or 'the body'}: {first['msg']}", where or None)
