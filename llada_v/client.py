"""Answers of a server (`llada-v serve`, or another that speaks OpenAI's language), by the standard library.

server = Server("http://127.0.0.1:8000")
for event in server.ask([{"role": "user", "content": "Hello?"}], {"steps": 8}):
    ...    # what the stream holds, as dictionaries; closing the loop stops the answer
"""

import base64
import http.client
import json
import mimetypes
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from .errors import BadFile, MissingFile, WrongValue

DONE = "[DONE]"
SECONDS = 600.0  # without a word from the server


class Server:
    """Where it is, and which model it has."""

    def __init__(self, url: str, api_key: str | None = None, timeout: float = SECONDS):
        """url: http(s)://host:port, with or without /v1. api_key: what the server asks for, if anything.

        timeout: seconds without a word.
        Raises ValueError for an address that is none, and where no server of this kind answers.
        """
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WrongValue(f"{url} is no address of a server; write http://127.0.0.1:8000")
        self.url, self.parts, self.timeout = url, parts, timeout
        self.path = parts.path.rstrip("/").removesuffix("/v1") + "/v1"
        self.headers = {"Content-Type": "application/json"}
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"
        response = self.request("GET", "/models")
        try:
            self.model = json.loads(response.read())["data"][0]["id"]
        except (ValueError, LookupError, TypeError):
            raise WrongValue(f"{url} answers, but lists no models; is it llada-v serve?") from None

    def ask(self, messages: list[dict], diffusion: dict, seed: int | None = None) -> Iterator[dict]:
        """The chunks of a streamed answer. Pictures of the messages are files here, and travel as data.

        diffusion: settings of the sampler, by name.
        Raises ValueError for what the server refuses or a connection that breaks, FileNotFoundError for a picture that
        is not there.
        """
        body = {
            "model": self.model,
            "messages": [as_data(message) for message in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            "diffusing": True,
            "diffusion": diffusion,
        } | ({} if seed is None else {"seed": seed})
        response = self.request("POST", "/chat/completions", json.dumps(body))
        try:
            for line in response:
                data = line.decode("utf-8").strip().removeprefix("data:").strip()
                if data == DONE:
                    return
                if line.startswith(b"data:"):
                    event = json.loads(data)
                    if "error" in event:
                        raise WrongValue(f"{self.url}: {event['error']['message']}")
                    yield event
            raise WrongValue(f"{self.url} ended the answer before it was finished")
        except (OSError, http.client.HTTPException) as error:
            raise WrongValue(f"{self.url} broke off: {error or type(error).__name__}") from None
        finally:
            self.connection.close()  # the server notices, and stops

    def request(self, method: str, path: str, body: str | None = None) -> http.client.HTTPResponse:
        """The answer to a request. Raises ValueError where there is none, or one that is not 200."""
        kind = http.client.HTTPSConnection if self.parts.scheme == "https" else http.client.HTTPConnection
        self.connection = kind(self.parts.hostname, self.parts.port, timeout=self.timeout)
        try:
            self.connection.request(method, self.path + path, body, self.headers)
            response = self.connection.getresponse()
            if response.status == 200:
                return response
            told = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise WrongValue(f"no server at {self.url}: {error or type(error).__name__}") from None
        raise WrongValue(f"{self.url} answers with status {response.status}: {message_of(told)}")


def message_of(body: bytes) -> str:
    """What an error's body says."""
    try:
        return json.loads(body)["error"]["message"]
    except (ValueError, LookupError, TypeError):
        return body[:200].decode("utf-8", "replace")


def as_data(message: dict) -> dict:
    """A message whose pictures are files, as OpenAI's: each picture a data URI."""
    if isinstance(message["content"], str):
        return message
    parts = [
        {"type": "image_url", "image_url": {"url": data_uri(part["image"])}} if part["type"] == "image" else part
        for part in message["content"]
    ]
    return message | {"content": parts}


def data_uri(file) -> str:
    """A file as a `data:` URI. Raises FileNotFoundError and OSError, naming it."""
    try:
        data = Path(file).read_bytes()
    except FileNotFoundError:
        raise MissingFile(f"there is no picture at {file}") from None
    except OSError as error:
        raise BadFile(f"{file} cannot be read: {error}") from None
    kind = mimetypes.guess_type(str(file))[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
