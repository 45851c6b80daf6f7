"""A server of the tiny model on a port of its own, in a thread, and a plain client for it."""

import base64
import contextlib
import http.client
import io
import json
import logging
import threading
import time

import uvicorn

from llada_v.serving.app import create_app
from llada_v.serving.engine import Engine, EngineConfig
from llada_v.serving.limits import Limits
from llada_v.serving.run import listen, settings_of
from llada_v.serving.server import ServerConfig


class Live:
    """A server that runs, and requests to it."""

    def __init__(self, engine, app, port, process):
        self.engine, self.app, self.port, self.process = engine, app, port, process

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def send(self, method, path, body=None, headers=None, raw=None):
        """(status, headers, body) of one request. body: sent as JSON; raw: bytes as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        data = raw if body is None else json.dumps(body).encode()
        kind = {} if data is None else {"Content-Type": "application/json"}
        connection.request(method, path, data, kind | (headers or {}))
        response = connection.getresponse()
        found = response.status, dict(response.getheaders()), response.read()
        connection.close()
        return found

    def chat(self, headers=None, **body):
        """(status, what JSON says) of a chat completion."""
        status, _, text = self.send("POST", "/v1/chat/completions", body, headers)
        return status, json.loads(text)

    def stream(self, **body):
        """The chunks of a stream, which must end as OpenAI's do."""
        status, headers, text = self.send("POST", "/v1/chat/completions", body | {"stream": True})
        assert status == 200, text
        assert headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in text.decode().split("\n\n") if line]
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]]

    def wait_idle(self, seconds=10):
        """Until nothing runs and waits. Whether it came to that."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.engine.running and not self.engine.queue:
                return True
            time.sleep(0.01)
        return False


@contextlib.contextmanager
def serving(model, processor, engine=None, limits=None, **config):
    """A server that runs while the context lasts."""
    made = Engine(model, processor, EngineConfig(**(engine or {})))
    limits = Limits(**(limits or {}))
    app = create_app(made, ServerConfig(**{"name": "llada-v-tiny"} | config), limits)
    listener = listen("127.0.0.1", 0)
    process = uvicorn.Server(settings_of(app, limits, stop_seconds=5))
    thread = threading.Thread(target=process.run, kwargs={"sockets": [listener]}, daemon=True)
    logging.getLogger("llada_v.requests").setLevel(logging.INFO)
    thread.start()
    while not process.started:
        time.sleep(0.01)
    try:
        yield Live(made, app, listener.getsockname()[1], process)
    finally:
        process.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def data_url(picture, kind="PNG"):
    """A picture as a data: URL."""
    stream = io.BytesIO()
    picture.save(stream, kind)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(stream.getvalue()).decode()


def ask(text, *pictures):
    """The messages of one question about pictures."""
    parts = [{"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in pictures]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
