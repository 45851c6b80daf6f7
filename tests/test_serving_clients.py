"""Real clients and a fuzzer against a server: OpenAI's own package in twenty calls, schemathesis by the schema."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import openai
import pytest
from server import ask, serving
from test_engine import picture, trained  # noqa: F401  # the fixture

from llada_v.serving.run import listen
from llada_v.shipped import ROOT

LONG = {"stop_token_ids": [], "preset": "exact"}
TEXT = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def live(trained):  # noqa: F811
    with serving(*trained, keys=("secret",)) as found:
        yield found


def test_openais_python_client_makes_twenty_calls(live):
    client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="secret", max_retries=0)
    create = client.chat.completions.create
    model = client.models.list().data[0].id  # 1
    assert client.models.retrieve(model).id == model  # 2
    shown = ask("How many objects are there?", picture(3))
    one = create(model=model, messages=shown)  # 3
    assert one.choices[0].message.content and one.choices[0].finish_reason == "stop"
    assert one.usage.total_tokens == one.usage.prompt_tokens + one.usage.completion_tokens
    two = create(model=model, messages=ask("What is different?", picture(3), picture(4)))  # 4
    assert two.choices[0].finish_reason == "stop"
    turns = [*shown, one.choices[0].message.model_dump(), {"role": "user", "content": "Is there a red star?"}]
    assert create(model=model, messages=turns).choices[0].message.role == "assistant"  # 5
    system = [{"role": "system", "content": "Answer briefly."}, *shown]
    assert create(model=model, messages=system).choices  # 6
    pieces = [chunk.choices[0].delta.content or "" for chunk in create(model=model, messages=shown, stream=True)]  # 7
    assert "".join(pieces) == one.choices[0].message.content
    counted = list(create(model=model, messages=shown, stream=True, stream_options={"include_usage": True}))  # 8
    assert counted[-1].usage == one.usage and not counted[-1].choices
    framed = list(create(model=model, messages=shown, stream=True, extra_body={"diffusing": True}))  # 9
    assert "".join(chunk.choices[0].delta.content or "" for chunk in framed) == one.choices[0].message.content
    sure = create(model=model, messages=shown, logprobs=True, top_logprobs=3)  # 10
    told = sure.choices[0].logprobs.content
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 3 for entry in told)
    assert "".join(entry.token for entry in told) == one.choices[0].message.content
    short = create(model=model, messages=shown, max_tokens=4, extra_body={"diffusion": LONG})  # 11
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 4
    same = create(model=model, messages=shown, max_completion_tokens=4, extra_body={"diffusion": LONG})  # 12
    assert same.choices[0].message.content == short.choices[0].message.content
    letter = short.choices[0].message.content.strip()[-1]
    stopped = create(model=model, messages=shown, max_tokens=4, stop=[letter], extra_body={"diffusion": LONG})  # 13
    assert letter not in stopped.choices[0].message.content
    lots = dict(model=model, messages=shown, temperature=1.5, n=3, max_tokens=8, extra_body={"diffusion": LONG})
    several, again = create(**lots, seed=1), create(**lots, seed=1)  # 14, 15
    assert len(several.choices) == 3 and several.choices == again.choices
    schema = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
    shape = {"type": "json_schema", "json_schema": {"name": "found", "schema": schema}}
    assert "count" in json.loads(create(model=model, messages=shown, response_format=shape).choices[0].message.content)
    # 17 to 20: errors as the client knows them
    with pytest.raises(openai.BadRequestError, match="unknown field"):
        create(model=model, messages=shown, extra_body={"nothing": 1})
    with pytest.raises(openai.NotFoundError):
        create(model="gpt", messages=shown)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="wrong").models.list()
    with pytest.raises(openai.BadRequestError):
        create(model=model, messages=shown, max_tokens=10**6)


@pytest.mark.slow
def test_schemathesis_finds_no_fault_of_the_server(live):
    """Two thousand cases made from /openapi.json."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{live.url}/openapi.json"),
            *("--header", "Authorization: Bearer secret", "--checks", "not_a_server_error"),
            *("--max-examples", "400", "--phases", "examples,coverage,fuzzing", "--seed", "1", "--no-color"),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    print(run.stdout[-2000:])
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert live.chat({"Authorization": "Bearer secret"}, messages=TEXT)[0] == 200


@pytest.mark.slow
def test_a_server_that_is_killed_is_a_clear_error_and_back_when_it_is_started_again(tmp_path):
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    words = [sys.executable, "-m", "llada_v", "serve", "--port", str(port), "--stop-seconds", "5"]
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)

    def started():
        server = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1) as response:
                    assert response.status == 200
                    return server
            except urllib.error.URLError:
                time.sleep(0.1)
        raise AssertionError("it does not start")

    server = started()
    try:
        long = {"diffusion": LONG | {"gen_length": 512}, "diffusing": True}
        stream = client.chat.completions.create(model="llada-v-tiny", messages=TEXT, stream=True, extra_body=long)
        next(iter(stream))
        server.send_signal(signal.SIGKILL)
        with pytest.raises(openai.APIConnectionError):
            list(stream)
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
        server.wait()
        server = started()
        assert client.chat.completions.create(model="llada-v-tiny", messages=TEXT).choices
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        server.kill()


@pytest.mark.slow
def test_floods_and_bombs_are_refused_and_the_server_lives(trained):  # noqa: F811
    with serving(*trained) as live:
        status, _, _ = live.send("POST", "/v1/chat/completions", raw=b" " * (100 * 2**20))
        assert status == 413
        status, found = live.chat(messages=ask("How many?", *[picture(1).resize((8, 8))] * 1000))
        assert status == 400 and "more than 16 pictures" in found["error"]["message"]
        bomb = bomb_url(60_000)
        part = {"type": "image_url", "image_url": {"url": bomb}}
        status, found = live.chat(messages=[{"role": "user", "content": [part, {"type": "text", "text": "?"}]}])
        assert status == 400 and "pixels" in found["error"]["message"], found
        deep = b'{"messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
        assert live.send("POST", "/v1/chat/completions", raw=deep)[0] == 400
        schema = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(400)}}
        assert live.chat(messages=TEXT, guided_json=schema)[0] == 400
        assert live.chat(messages=TEXT, guided_regex="(a{1,300}b{1,300}){1,300}")[0] == 400
        assert live.chat(messages=TEXT)[0] == 200


def bomb_url(side):
    """A small PNG whose header tells of `side` x `side` pixels."""
    import base64
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes(10**6))
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()
