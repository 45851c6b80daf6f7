"""transformers' own server answers about pictures with the model: through openai's client, whole and as a stream, and
through its door for typed decisions."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec

import openai
import pytest

from llada_v.answering import DEMO_IMAGE, DEMO_MODEL

pytestmark = pytest.mark.slow
COMMAND = "import llada_v, transformers.cli.transformers as cli; cli.main()"
DATA = "data:image/png;base64," + base64.b64encode(DEMO_IMAGE.read_bytes()).decode()
PICTURE = {"type": "image_url", "image_url": {"url": DATA}}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where transformers' server listens, with the tiny model in it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["serve", str(DEMO_MODEL), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = (tmp_path_factory.mktemp("serve") / "log.txt").open("w+")
    server = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *options], stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert server.poll() is None, log.seek(0) or log.read()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def question(text="How many objects are there?"):
    return [{"role": "user", "content": [PICTURE, {"type": "text", "text": text}]}]


def test_the_client_gets_an_answer_about_a_picture(address):
    client = openai.OpenAI(base_url=address, api_key="none", timeout=120)
    found = client.chat.completions.create(model=str(DEMO_MODEL), messages=question(), max_tokens=16)
    assert found.choices[0].message.content.strip() == "3" and found.choices[0].finish_reason == "stop"
    chunks = client.chat.completions.create(model=str(DEMO_MODEL), messages=question(), max_tokens=16, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).strip() == "3"


def test_a_stop_string_ends_the_answer(address):
    client = openai.OpenAI(base_url=address, api_key="none", timeout=120)
    asked = dict(model=str(DEMO_MODEL), max_tokens=32, temperature=0)
    whole = client.chat.completions.create(messages=question("List everything."), **asked).choices[0].message.content
    word = whole.split()[2]
    cut = client.chat.completions.create(messages=question("List everything."), stop=[word], **asked)
    assert cut.choices[0].message.content.split()[:3] == whole.split()[:3]
    assert len(cut.choices[0].message.content) < len(whole)


if find_spec("transformers.decision"):  # since transformers 5.23

    def test_closed_questions_get_probabilities(address):
        body = {
            "model": str(DEMO_MODEL),
            "state": "<picture>",
            "questions": {
                "count": {
                    "type": "choice",
                    "instructions": "How many objects are there?",
                    "criteria": {"2": None, "3": None},
                }
            },
            "assets": {"<picture>": {"type": "image", "format": "png", "data_base64": DATA.rpartition(",")[2]}},
        }
        asked = urllib.request.Request(
            f"{address}/systemone", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=120) as response:
            found = json.load(response)["answers"]["count"]
        assert found["choice"] == "3" and found["probabilities"]["3"] > 0.9
