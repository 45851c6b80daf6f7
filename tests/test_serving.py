"""The server: OpenAI's forms, exact and nothing ignored; limits, keys, and clients that misbehave."""

import http.client
import json
import logging
import socket
import struct
import time

import pytest
from server import ask, data_url, serving
from test_engine import alone, inputs_of, picture, trained  # noqa: F401  # the fixture

from llada_v import SamplerConfig
from llada_v.fields import rules_of
from llada_v.serving.forms import APART, Diffusion
from llada_v.serving.run import known_there
from llada_v.serving.server import ServerConfig

QUESTION = "How many objects are there?"
LONG = {"stop_token_ids": [], "preset": "exact"}  # an answer that takes a step for each of its tokens


@pytest.fixture(scope="module")
def live(trained):  # noqa: F811
    with serving(*trained, limits={"body_seconds": 1.5, "write_seconds": 1.0, "body_mib": 2}) as found:
        yield found


# Answers


def test_an_answer_is_that_of_generate_in_openais_form(live, trained):  # noqa: F811
    model, processor = trained
    shown = picture(3)
    status, found = live.chat(model="llada-v-tiny", messages=ask(QUESTION, shown), diffusion={"preset": "exact"})
    ids, text = alone(model, processor, inputs_of(processor, QUESTION, [shown]), SamplerConfig(gen_length=32))
    assert status == 200
    assert found["object"] == "chat.completion" and found["id"].startswith("chatcmpl-")
    (choice,) = found["choices"]
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert choice["finish_reason"] == "stop" and choice["logprobs"] is None
    usage = found["usage"]
    assert usage["completion_tokens"] == len(ids)
    assert usage["total_tokens"] == usage["prompt_tokens"] + len(ids)
    assert found["timings"]["steps"] == found["timings"]["forwards"] and found["timings"]["milliseconds"] > 0


@pytest.mark.parametrize("asked", [{}, {"logprobs": True, "top_logprobs": 2}, {"diffusing": True}])
def test_a_stream_spells_the_same_answer_from_left_to_right(live, asked):
    body = dict(messages=ask("List everything.", picture(4)), diffusion={"preset": "fast"})
    _, whole = live.chat(**body, **{name: value for name, value in asked.items() if name != "diffusing"})
    chunks = live.stream(**body, **asked, stream_options={"include_usage": True})
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert "".join(each["delta"].get("content", "") for each in choices) == whole["choices"][0]["message"]["content"]
    assert [each["finish_reason"] for each in choices if each["finish_reason"]] == ["stop"]
    assert chunks[-1]["usage"] == whole["usage"] and all(chunk["usage"] is None for chunk in chunks[:-1])
    if "logprobs" in asked:
        told = [entry for each in choices if each["logprobs"] for entry in each["logprobs"]["content"]]
        assert told == whole["choices"][0]["logprobs"]["content"]
        assert all(len(entry["top_logprobs"]) == 2 for entry in told)
        assert "".join(entry["token"] for entry in told) == whole["choices"][0]["message"]["content"]


def test_frames_show_masks_fall_to_none_and_strict_clients_see_an_empty_delta(live):
    chunks = live.stream(
        messages=ask("List everything.", picture(4)), diffusing=True, diffusion={"gen_length": 16} | LONG
    )
    frames = [chunk for chunk in chunks if chunk.get("type") == "diffusion_frame"]
    assert [frame["step"] for frame in frames] == list(range(1, 17)) and frames[0]["total"] == 16
    masked = [sum(token["state"] == "masked" for token in frame["tokens"]) for frame in frames]
    assert masked == list(range(15, -1, -1))
    for frame in frames:
        assert frame["choices"] == [{"index": 0, "delta": {}, "finish_reason": None}]
        assert sum(token["state"] == "new" for token in frame["tokens"]) == 1
        assert all((token["probability"] is None) == (token["state"] == "masked") for token in frame["tokens"])
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])
    assert frames[-1]["text"] == text and "▒" in frames[0]["text"]


def test_runners_up_stand_in_frames_where_they_are_asked_for(live):
    body = dict(messages=ask(QUESTION, picture(4)), diffusing=True, logprobs=True, top_logprobs=3)
    frame = next(chunk for chunk in live.stream(**body) if "type" in chunk)
    new = next(token for token in frame["tokens"] if token["state"] == "new")
    assert new["runners_up"][0]["id"] == new["id"] and len(new["runners_up"]) == 3
    assert new["runners_up"][0]["probability"] == pytest.approx(new["probability"], abs=1e-5)


def test_several_pictures_videos_as_frames_and_earlier_turns_are_one_conversation(live, trained):  # noqa: F811
    model, processor = trained
    shown = [picture(6), picture(7)]
    messages = [
        *ask("What is different?", *shown),
        {"role": "assistant", "content": "nothing", "refusal": None},
        {"role": "user", "content": QUESTION},
    ]
    told = [*messages[1:]]
    told[0] = {"role": "assistant", "content": "nothing"}
    parts = [{"type": "image", "image": each} for each in shown] + [{"type": "text", "text": "What is different?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}, *told],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    _, text = alone(model, processor, dict(inputs), SamplerConfig(gen_length=32))
    status, found = live.chat(messages=messages, diffusion={"preset": "exact"})
    assert (status, found["choices"][0]["message"]["content"]) == (200, text)
    frames = {"type": "video", "video": [data_url(each) for each in shown]}
    video = [{"role": "user", "content": [frames, {"type": "text", "text": "What happens?"}]}]
    assert live.chat(messages=video)[0] == 200


def test_several_answers_have_a_seed_each_and_the_same_seed_gives_the_same(live):
    body = dict(messages=ask("List everything.", picture(8)), temperature=2.0, seed=5, n=3)
    first, again = live.chat(**body)[1], live.chat(**body)[1]
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2] and len(set(texts)) > 1
    chunks = live.stream(**body)
    streamed = ["", "", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == texts


def test_an_answer_that_fills_its_canvas_ends_for_its_length_and_a_stop_ends_it_before(live):
    body = dict(messages=ask("List everything.", picture(4)), diffusion=LONG)
    _, whole = live.chat(**body, max_tokens=8)
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == "length" and whole["usage"]["completion_tokens"] == 8
    text = choice["message"]["content"]
    letter = next(letter for letter in text[1:] if letter.strip())
    _, cut = live.chat(**body, max_completion_tokens=8, stop=letter)
    assert cut["choices"][0]["message"]["content"] == text[: text.index(letter)]
    chunks = live.stream(**body, max_completion_tokens=8, stop=[letter])
    streamed = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert streamed == text[: text.index(letter)]


@pytest.mark.parametrize(
    "shape",
    [
        {"guided_choice": ["yes", "no"]},
        {"guided_regex": "(yes|no)"},
        {"structured_outputs": {"choice": ["yes", "no"]}},
    ],
)
def test_answers_have_the_shape_that_is_asked_for(live, shape):
    status, found = live.chat(messages=ask("Is there a red star?", picture(2)), **shape)
    assert status == 200 and found["choices"][0]["message"]["content"] in ("yes", "no")


@pytest.mark.parametrize("kind", ["json_schema", "json_object", "guided_json"])
def test_answers_are_json_where_it_is_asked_for(live, kind):
    schema = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
    shape = {
        "json_schema": {"response_format": {"type": kind, "json_schema": {"name": "n", "schema": schema}}},
        "json_object": {"response_format": {"type": kind}},
        "guided_json": {"guided_json": schema},
    }[kind]
    status, found = live.chat(messages=ask(QUESTION, picture(2)), **shape)
    assert status == 200, found
    said = json.loads(found["choices"][0]["message"]["content"])
    assert isinstance(said, dict) and (kind == "json_object" or isinstance(said["count"], int))


def test_aliases_of_other_servers_are_followed(live):
    body = dict(messages=ask("List everything.", picture(4)), max_tokens=16)
    exact = {"preset": "exact", "stop_token_ids": []}
    for alias in ("num_denoising_steps", "max_denoising_steps"):
        assert live.chat(**body, diffusion=exact, **{alias: 4})[1]["timings"]["steps"] == 4
    blocks = live.stream(**body, diffusion=exact, block_length=4, diffusing=True)
    frames = [chunk for chunk in blocks if "type" in chunk]
    assert all(token["state"] == "masked" for token in frames[3]["tokens"][4:])
    plain = live.chat(**body, diffusion={"rule": "threshold", "threshold": 0.7, "cache": "none"})[1]
    aliased = live.chat(**body, diffusion={"cache": "none"}, threshold=0.7)[1]
    assert aliased["timings"]["steps"] == plain["timings"]["steps"]


def test_every_setting_of_the_sampler_stands_in_the_form():
    assert set(Diffusion.model_fields) == set(rules_of(SamplerConfig)) - set(APART) | {"preset"}


# Errors

URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TEXT = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("change", "param", "told"),
    [
        ({"foo": 1}, "foo", "unknown field foo"),
        ({"diffusion": {"stepz": 3}}, "diffusion.stepz", "unknown field"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "Input should be"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "the question is empty"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}]}, None, "unknown field"),
        ({"messages": [{"role": "user", "content": [URL]}]}, "messages[0].content[0]", "not a picture"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"top_p": 0.5}, "top_p", "greater than or equal to 1"),
        ({"max_tokens": 5000}, "max_tokens", "more than the 1024 that are served"),
        ({"max_tokens": 8, "max_completion_tokens": 9}, "max_completion_tokens", "leave one of them out"),
        ({"n": 2}, "n", "set a temperature"),
        ({"top_logprobs": 2}, "top_logprobs", "set logprobs to true"),
        ({"stream_options": {}}, "stream_options", "set stream to true"),
        ({"diffusing": True}, "diffusing", "set stream to true"),
        ({"diffusion": {"gen_length": 10, "block_length": 3}}, "diffusion.gen_length", "not a multiple of"),
        ({"diffusion": {"threshold": 0.5, "rule": "factor"}}, "diffusion.threshold", "leave threshold out"),
        ({"guided_regex": "("}, None, "no regular expression"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "give one"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "needs json_schema"),
        ({"guided_regex": "a+", "stop": "b"}, None, "leave stop_token_ids and stop_strings out, or constraint"),
        ({"guided_json": {"oneOf": [{"type": "null"}]}}, None, "in place of oneOf write anyOf"),
        ({"stop": ["a"] * 101}, None, "101 stops"),
        ({"tools": []}, "tools", "unknown field"),
    ],
)
def test_what_cannot_be_met_is_refused_with_its_field(live, change, param, told):
    status, found = live.chat(**{"messages": TEXT} | change)
    error = found["error"]
    assert status == 400 and error["type"] == "invalid_request_error", found
    assert told in error["message"] and (param is None or error["param"] == param), error


def test_another_model_is_not_found(live):
    assert live.chat(messages=TEXT, model="gpt")[0] == 404
    assert live.send("GET", "/v1/models/gpt")[0] == 404
    assert live.send("GET", "/v1/models/llada-v-tiny")[0] == 200


@pytest.mark.parametrize(
    "address",
    [
        "/etc/passwd",
        "file:" + "///etc/passwd",
        "data/demo.png",
        "http://127.0.0.1/x.png",
        "http://169.254.169.254/",
        "ftp://x/y",
        "",
    ],
)
def test_nothing_of_the_servers_disk_or_network_can_be_shown(live, address):
    part = {"type": "image_url", "image_url": {"url": address}}
    status, found = live.chat(messages=[{"role": "user", "content": [part]}])
    assert status == 400 and "data: URL" in found["error"]["message"]


def test_fetching_never_reaches_private_addresses(trained):  # noqa: F811
    with serving(*trained, fetches=True) as live:
        for address in ("http://127.0.0.1:1/x.png", "http://[::1]/x.png", "http://169.254.169.254/latest"):
            part = {"type": "image_url", "image_url": {"url": address}}
            status, found = live.chat(messages=[{"role": "user", "content": [part, {"type": "text", "text": "?"}]}])
            assert status == 400 and "not a public address" in found["error"]["message"], found


def test_a_body_that_is_no_json_too_large_or_of_another_kind_is_refused(live):
    path = "/v1/chat/completions"
    assert live.send("POST", path, raw=b"{")[0] == 400
    assert live.send("POST", path, raw=b"[1]")[0] == 400
    assert live.send("POST", path, raw=b"\xff\xfe")[0] == 400
    assert live.send("POST", path, raw=b"[" * 100_000)[0] == 400
    assert live.send("POST", path, raw=b"{}", headers={"Content-Type": "text/plain"})[0] == 415
    assert live.send("POST", path, raw=b" " * (2 * 2**20 + 1))[0] == 413
    assert live.send("PUT", path, raw=b"{}")[0] == 405
    assert live.send("GET", "/nothing")[0] == 404


def test_errors_hold_no_trace(trained, monkeypatch, caplog):  # noqa: F811
    with serving(*trained) as live:
        monkeypatch.setattr(live.app.state.server, "read", lambda body: 1 / 0)
        status, found = live.chat(messages=TEXT)
        assert status == 500 and "Traceback" not in json.dumps(found) and "division" not in json.dumps(found)
        monkeypatch.undo()
        monkeypatch.setattr(live.engine, "logits_of", lambda jobs: 1 / 0)
        status, found = live.chat(messages=TEXT)
        assert status == 500 and found["error"]["code"] == "internal_error"
        monkeypatch.undo()
        assert live.chat(messages=TEXT)[0] == 200
    assert "ZeroDivisionError" in caplog.text


# Keys, limits, figures


def test_with_keys_only_those_who_show_one_are_served(trained):  # noqa: F811
    with serving(*trained, keys=("alpha", "beta")) as live:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "alpha"}):
            assert live.chat(headers, messages=TEXT)[0] == 401
        assert live.send("GET", "/v1/models")[0] == 401 and live.send("GET", "/metrics")[0] == 401
        for key in ("alpha", "beta"):
            assert live.chat({"Authorization": f"Bearer {key}"}, messages=TEXT)[0] == 200
        assert live.send("GET", "/health")[0] == live.send("GET", "/ready")[0] == 200


def test_other_hosts_pages_may_ask_only_where_they_are_named(trained):  # noqa: F811
    origin = {"Origin": "https://a.example"}
    with serving(*trained, origins=("https://a.example",)) as live:
        assert live.send("GET", "/health", headers=origin)[1]["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-origin" not in live.send("GET", "/health", headers={"Origin": "https://b"})[1]


def test_a_server_of_this_machine_is_called_by_its_own_names_only(trained):  # noqa: F811
    """A page of a name that is made to point to 127.0.0.1 would be of the same origin."""
    with serving(*trained, hosts=known_there(ServerConfig(), "127.0.0.1").hosts) as live:
        for host in ("localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:8000", "[::1]"):
            assert live.send("GET", "/health", headers={"Host": host})[0] == 200
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::2]", ""):
            status, headers, body = live.send("GET", "/health", headers={"Host": host})
            assert status == 403 and headers["x-request-id"] and "--allow-host" in json.loads(body)["error"]["message"]
    assert not known_there(ServerConfig(), "0.0.0.0").hosts
    assert known_there(ServerConfig(hosts=("a.example",)), "127.0.0.1").hosts == ("a.example",)


def test_cors_is_off_unless_named(live):
    assert "access-control-allow-origin" not in live.send("GET", "/health", headers={"Origin": "https://a.example"})[1]


def test_pictures_pixels_and_frames_have_limits(trained):  # noqa: F811
    with serving(*trained, limits={"pictures": 2, "pixels": 10_000, "frames": 2}) as live:
        small, large = picture(1).resize((50, 50)), picture(1).resize((101, 100))
        assert live.chat(messages=ask(QUESTION, small, small))[0] == 200
        for messages, told in (
            (ask(QUESTION, small, small, small), "more than 2 pictures"),
            (ask(QUESTION, large), "10,100 pixels; there may be 10,000"),
            ([{"role": "user", "content": [{"type": "video", "video": [data_url(small)] * 3}]}], "3 frames"),
        ):
            status, found = live.chat(messages=messages)
            assert status == 400 and told in found["error"]["message"]


def test_a_full_queue_is_a_429_that_says_when_to_come_back(trained):  # noqa: F811
    with serving(*trained, engine={"max_running": 1, "queue_length": 0}) as live:
        stream = stalled(live, gen_length=512)
        status, headers, text = live.send("POST", "/v1/chat/completions", {"messages": TEXT})
        assert status == 429 and int(headers["retry-after"]) >= 1, text
        assert json.loads(text)["error"]["type"] == "rate_limit_error"
        stream.close()
        assert live.wait_idle()


def test_one_client_cannot_have_more_requests_than_it_may(trained):  # noqa: F811
    with serving(*trained, limits={"client_requests": 1}) as live:
        stream = stalled(live)
        assert live.chat(messages=TEXT)[0] == 429
        stream.close()
        assert live.wait_idle()


def test_metrics_count_what_was_done(live):
    live.chat(messages=TEXT)
    status, headers, text = live.send("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain")
    for name in (
        "llada_v_requests_total", "llada_v_queued", "llada_v_ticks_total", "llada_v_tokens_total",
        "llada_v_seconds_to_first_text_count", "llada_v_seconds_to_last_text_count",
        "llada_v_forwards_an_answer_count", "llada_v_pool_bytes", 'llada_v_responses_total{status="200"}',
    ):  # fmt: skip
        assert name.encode() in text, name


def test_a_request_is_one_line_of_json_in_the_log(live, caplog):
    caplog.set_level(logging.INFO, "llada_v.requests")
    _, found = live.chat(messages=TEXT, user="someone")
    lines = lambda: [record.message for record in caplog.records if record.name == "llada_v.requests"]  # noqa: E731
    assert wait_for(lines, 5)  # it is written behind the answer
    line = json.loads(lines()[-1])
    assert found["id"] == f"chatcmpl-{line['id']}" and line["status"] == 200 and line["user"] == "someone"
    assert {"time", "ms", "client", "prompt_tokens", "completion_tokens", "forwards"} <= line.keys()


def test_the_api_describes_itself(live):
    status, _, text = live.send("GET", "/openapi.json")
    schemas = json.loads(text)["components"]["schemas"]
    assert status == 200 and {"ChatRequest", "Diffusion", "Message", "Error"} <= schemas.keys()
    assert "gen_length" in schemas["Diffusion"]["properties"]


# Clients that go, stall or dawdle


def raw(body):
    """A chat request as it goes over the wire."""
    text = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text


def stalled(live, gen_length=128, **body):
    """A connection with a long stream that begins."""
    connection = socket.create_connection(("127.0.0.1", live.port))
    asked = {"messages": ask(QUESTION, picture(1)), "stream": True, "diffusing": True}
    connection.sendall(raw(asked | {"diffusion": LONG | {"gen_length": gen_length}} | body))
    assert connection.recv(20).startswith(b"HTTP/1.1 200")
    return connection


def test_a_client_that_goes_frees_all_it_held_within_a_second(live):
    connection = stalled(live, gen_length=512)
    assert wait_for(lambda: live.engine.running, 5)
    connection.close()
    assert live.wait_idle(1.0) and live.engine.pool.used == 0
    connection = http.client.HTTPConnection("127.0.0.1", live.port)  # one that waits for the whole answer
    body = {"messages": TEXT, "diffusion": LONG | {"gen_length": 512}}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    while not live.engine.running:
        time.sleep(0.01)
    connection.close()
    assert live.wait_idle(1.0)


@pytest.mark.slow
def test_a_client_that_does_not_read_is_dropped_and_does_not_stall_others(trained):  # noqa: F811
    with serving(*trained, limits={"write_seconds": 0.5}) as live:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", live.port))
        quick = LONG | {"gen_length": 512, "block_length": 4, "cache": "prompt", "refresh_interval": 0}
        connection.sendall(raw({"messages": TEXT, "stream": True, "diffusing": True, "diffusion": quick}))
        begun = time.monotonic()
        assert live.chat(messages=TEXT)[0] == 200
        assert time.monotonic() - begun < 20
        assert live.wait_idle(60)
        assert live.app.state.server.clients.total() == 0 or wait_for(lambda: not live.app.state.server.clients, 20)
        connection.close()


def wait_for(what, seconds):
    """Until it is so. Whether it came to that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not what():
        time.sleep(0.02)
    return bool(what())


def test_heads_and_bodies_that_dawdle_are_cut_off(live):
    head = socket.create_connection(("127.0.0.1", live.port))
    head.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost:")
    body = socket.create_connection(("127.0.0.1", live.port))
    body.sendall(raw({"messages": TEXT})[:-1])
    begun = time.monotonic()
    for connection, answer in ((head, b""), (body, b"HTTP/1.1 408")):
        connection.settimeout(10)
        assert connection.recv(12) == answer
    assert time.monotonic() - begun < 5
    assert live.chat(messages=TEXT)[0] == 200


def test_a_connection_that_is_reset_is_no_fault(live):
    connection = stalled(live)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert live.wait_idle(2.0)
    assert live.chat(messages=TEXT)[0] == 200


def test_a_server_that_stops_finishes_what_runs_and_turns_new_ones_away(trained):  # noqa: F811
    with serving(*trained) as live:
        live.app.state.server.is_stopping = True
        assert live.send("GET", "/ready")[0] == 503 and live.send("GET", "/health")[0] == 200
        live.engine.is_open = False
        status, found = live.chat(messages=TEXT)
        assert status == 503 and found["error"]["code"] == "stopping"
        live.engine.is_open = True


def test_a_temperature_has_a_seed_of_its_own_unless_one_is_given(live):
    body = dict(messages=TEXT, temperature=2.0, max_tokens=8, diffusion=LONG)
    texts = {live.chat(**body)[1]["choices"][0]["message"]["content"] for _ in range(3)}
    assert len(texts) > 1
