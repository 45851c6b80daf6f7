"""POST /v1/diffusion/attention: where a token looked, through the server."""

import base64
import io

import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from llada_v.looks import attention_row
from llada_v.serving.app import create_app
from llada_v.serving.engine import Engine
from llada_v.serving.limits import EngineConfig
from llada_v.serving.server import ServerConfig

PATH = "/v1/diffusion/attention"


def picture(width, height, colour="red"):
    held = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(held, "PNG")
    url = "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def asked(*pictures, answer=(None,) * 8, position=2, **more):
    content = [*pictures, {"type": "text", "text": "What is this?"}]
    return {"messages": [{"role": "user", "content": content}], "answer": list(answer), "position": position} | more


@pytest.fixture(scope="module")
def client(tiny_model, tiny_processor):
    engine = Engine(tiny_model, tiny_processor, EngineConfig(tick_tokens=400))
    with TestClient(create_app(engine, ServerConfig(name="tiny"))) as found:
        found.engine = engine
        yield found


def test_a_token_has_a_map_over_each_picture_and_shares_that_add_up(client):
    found = client.post(PATH, json=asked(picture(120, 40), picture(40, 120))).json()
    assert [each["index"] for each in found["pictures"]] == [0, 1]
    for each in found["pictures"]:
        assert len(each["weights"]) == each["rows"] and len(each["weights"][0]) == each["columns"]
    assert sum(found["share"].values()) == pytest.approx(1, abs=1e-5)
    total = sum(sum(map(sum, each["weights"])) for each in found["pictures"])
    assert 0 < total <= found["share"]["pictures"]


def test_text_alone_has_shares_and_no_map(client, tiny_model, tiny_processor):
    found = client.post(PATH, json=asked(answer=[9, None, None], position=1)).json()
    assert found["pictures"] == [] and found["share"]["pictures"] == 0
    prompt = tiny_processor.apply_chat_template(
        [{"role": "user", "content": "What is this?"}],
        add_generation_prompt=True,
        tokenize=True,
        return_tensors="pt",
    )
    mask = tiny_model.config.mask_token_id
    ids = torch.cat((prompt, torch.tensor([[9, mask, mask]])), dim=1)
    trunk = tiny_model.model.language_model
    row = attention_row(trunk, trunk.embed_tokens(ids), prompt.shape[1] + 1)
    assert found["share"]["answer"] == pytest.approx(row[-3:].sum().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (asked(position=8), "position is 8, and the answer has 8 tokens"),
        (asked(answer=[10**6]), "position is 2"),
        (asked(answer=[10**6], position=0), "outside the"),
        (asked(answer=[None] * 500), "there may be 400"),
        (asked(model="other"), "no model 'other'"),
        (asked(layers=3), "unknown field layers"),
        (asked(answer=[]), "answer"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_cannot_be_is_refused_by_name(client, body, told):
    found = client.post(PATH, json=body)
    assert found.status_code in (400, 404) and told in found.json()["error"]["message"]


def test_a_fault_of_the_engines_thread_is_no_end_of_it(client):
    def fail():
        raise RuntimeError("odd")

    with pytest.raises(RuntimeError, match="odd"):
        client.engine.run(fail).result(10)
    assert client.engine.run(lambda: 3).result(10) == 3
    assert client.post(PATH, json=asked()).status_code == 200


def test_the_page_asks_no_other_host_and_runs_no_code_of_others(client):
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert "http" not in page.text
    for name, kind in (("page.js", "javascript"), ("page.css", "css")):
        part = client.get(f"/static/{name}")
        assert part.status_code == 200 and kind in part.headers["content-type"]
        assert "http" not in part.text.replace("http://www.w3.org/2000/svg", "")
    assert "AttentionRequest" in client.get("/openapi.json").json()["components"]["schemas"]
