"""`llada-v chat`: turns, commands and stops, with the model here and at a server, in a terminal and in a pipe."""

import io
import json
import os
import select
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llada_v import cli
from llada_v.answering import DEMO_IMAGE, DEMO_QUESTIONS
from llada_v.cli.chat import Chat
from llada_v.client import Server
from llada_v.errors import WrongValue
from llada_v.terminal import Screen

COUNTED = "How many objects are there?"


class Echo:
    """Says what it was asked, and remembers it."""

    def __init__(self):
        self.asked = []

    def __call__(self, messages, settings, seed, show):
        self.asked.append((messages, settings, seed))
        return f"answer {len(self.asked)}", "at once"


@pytest.fixture
def chat():
    return Chat(Echo(), Screen(io.StringIO()), {"steps": 4}, seed=3)


def test_a_question_comes_with_the_turns_before_it(chat):
    assert chat.take("one?") == chat.take("two?") == 0
    messages, settings, seed = chat.say.asked[1]
    assert [(message["role"], message["content"]) for message in messages] == [
        ("user", "one?"),
        ("assistant", "answer 1"),
        ("user", "two?"),
    ]
    assert (settings, seed) == ({"steps": 4}, 3)
    assert chat.screen.out.getvalue() == "answer 1\nanswer 2\n"


def test_pictures_stand_before_the_next_question_alone(chat, tmp_path):
    files = [tmp_path / "a b.png", tmp_path / "c.png"]
    for file in files:
        file.write_bytes(DEMO_IMAGE.read_bytes())
    assert chat.take(f"/image '{files[0]}' {files[1]}") == 0
    chat.take("which?")
    chat.take("and?")
    kinds = [part["type"] for part in chat.say.asked[0][0][0]["content"]]
    assert kinds == ["image", "image", "text"]
    assert chat.say.asked[1][0][-1]["content"] == "and?"


def test_reset_forgets_turns_and_pictures(chat):
    chat.take(f"/image {DEMO_IMAGE}")
    chat.take("/reset")
    chat.take("one?")
    assert len(chat.say.asked[0][0]) == 1 and chat.say.asked[0][0][0]["content"] == "one?"


def test_settings_change_and_go_back(chat):
    assert chat.take("/settings rule=threshold threshold=0.8 steps= gen-length=auto compile=true") == 0
    chat.take("?")
    expected = {"rule": "threshold", "threshold": 0.8, "gen_length": "auto", "compile": True}
    assert chat.say.asked[0][1] == expected


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/bogus", "there is no /bogus; /help"),
        ("/rest", "did you mean 'reset'?"),
        ("/image", "needs a file"),
        ("/image nothing.png", "no picture at nothing.png"),
        ("/image 'a", "quotation"),
        ("/settings step=3", "did you mean 'steps'?"),
        ("/settings steps=0", "steps is 0"),
        ("/settings threshold=0.5", "set rule='threshold'"),
    ],
)
def test_a_wrong_line_is_told_and_changes_nothing(chat, line, told, capsys):
    assert chat.take(line) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and told in error
    assert chat.settings == {"steps": 4} and not chat.messages and not chat.pictures


def test_an_answer_that_fails_leaves_the_chat_as_it_was(chat, capsys):
    def refuse(*arguments):
        raise WrongValue("too long")

    chat.take("one?")
    good, chat.say = chat.say, refuse
    assert chat.take("two?") == 1
    chat.say = good
    assert len(chat.messages) == 2 and "too long" in capsys.readouterr().err


# At a server


class Handler(BaseHTTPRequestHandler):
    """Speaks as `llada-v serve` does; the server's `script` says what is streamed."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.reply(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((body, self.headers.get("Authorization")))
        if self.server.refuses:
            return self.reply(*self.server.refuses)
        self.send_response(200)
        self.end_headers()
        for event in self.server.script:
            text = event if isinstance(event, str) else json.dumps(event)
            self.wfile.write(f"data: {text}\n\n".encode())

    def reply(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


def chunk(content=None, **more):
    delta = {} if content is None else {"content": content}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} | more


@pytest.fixture
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.asked, found.refuses = [], None
    tokens = [{"id": 7, "text": "3", "probability": 0.9, "state": "new"}]
    found.script = [
        chunk(type="diffusion_frame", step=1, total=2, text="▒", tokens=tokens),
        chunk("3"),
        chunk(timings={"forwards": 5}),
        {"choices": [], "usage": {"completion_tokens": 1}},
        "[DONE]",
    ]
    threading.Thread(target=found.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{found.server_port}"
    yield found
    found.shutdown()
    found.server_close()


def piped(monkeypatch, lines, *words):
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return cli.main(["chat", *words])


def test_a_server_answers_as_the_model_here_would(server, monkeypatch, capsys):
    words = ["--url", server.url, "--api-key", "secret", "--image", str(DEMO_IMAGE), "--steps", "8", "--seed", "5"]
    assert piped(monkeypatch, f"{COUNTED}\nWhy?\n", *words) == 0
    assert capsys.readouterr().out == "3\n3\n"
    (first, key), (second, _) = server.asked
    assert key == "Bearer secret"
    assert (first["model"], first["stream"], first["diffusing"]) == ("tiny", True, True)
    assert (first["diffusion"], first["seed"]) == ({"steps": 8}, 5)
    picture, text = first["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,") and text["text"] == COUNTED
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]


def test_what_a_server_refuses_is_one_line(server, monkeypatch, capsys):
    server.refuses = 400, {"error": {"message": "steps is 0; give more"}}
    assert piped(monkeypatch, "one?\n", "--url", server.url) == 1
    assert "status 400: steps is 0; give more" in capsys.readouterr().err


def test_a_stream_that_breaks_off_is_told(server, monkeypatch, capsys):
    server.script = server.script[:2]
    assert piped(monkeypatch, "one?\n", "--url", server.url) == 1
    assert "ended the answer before it was finished" in capsys.readouterr().err
    server.script = [{"error": {"message": "out of room"}}]
    assert piped(monkeypatch, "one?\n", "--url", server.url) == 1
    assert "out of room" in capsys.readouterr().err


def test_words_of_a_server_that_is_none_are_refused(capsys):
    for url, told in (("ftp://x", "no address"), ("http://127.0.0.1:1", "no server at")):
        assert cli.main(["chat", "--url", url]) == 2
        assert told in capsys.readouterr().err
    assert cli.main(["chat", "--url", "http://127.0.0.1:1", "--device", "cpu"]) == 2
    assert "--device chooses a model here" in capsys.readouterr().err


def test_closing_a_stream_closes_its_connection(server):
    here = Server(server.url + "/v1/")
    stream = here.ask([{"role": "user", "content": "?"}], {})
    next(stream)
    stream.close()
    assert here.connection.sock is None


# With the model that ships


def test_a_pipe_gets_an_answer_a_line(monkeypatch, capsys):
    lines = f"/image {DEMO_IMAGE}\n{DEMO_QUESTIONS[0]}\n\n{DEMO_QUESTIONS[1]}\n/quit\nnever?\n"
    assert piped(monkeypatch, lines) == 0
    assert capsys.readouterr().out == "3\ngreen\n"


@pytest.mark.slow
def test_in_a_terminal_an_answer_appears_in_place_and_control_c_stops_it_then_ends(tmp_path):
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "xterm-256color", "XDG_STATE_HOME": str(tmp_path)}
        os.execv(sys.executable, [sys.executable, "-m", "llada_v", "chat", "--image", str(DEMO_IMAGE)])
    seen = ""

    def until(text, seconds=120):
        """What is written up to that text."""
        nonlocal seen
        end = time.monotonic() + seconds
        while text not in seen:
            assert time.monotonic() < end, seen
            if select.select([terminal], [], [], 1)[0]:
                seen += os.read(terminal, 65536).decode("utf-8", "replace")
        found, seen = seen.split(text, 1)
        return found

    until("> ")
    os.write(terminal, b"/settings rule=top_k\n")
    until("> ")
    os.write(terminal, f"{COUNTED}\n".encode())
    shown = until("forward passes")
    assert "▒" in shown and "\x1b[J" in shown and "\x1b[38;2;" in shown
    assert shown.rsplit("\x1b[J", 1)[1].startswith("3\r\n")
    until("> ")
    os.write(terminal, b"/settings gen_length=1024 cache=none\n")
    until("> ")
    os.write(terminal, b"Tell me a long story.\n")
    until("step 1,")
    os.write(terminal, b"\x03")
    until("Ctrl-C again ends", 20)
    until("> ")
    os.write(terminal, b"\x03")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGINT)
    assert COUNTED in (tmp_path / "llada_v" / "chat_history").read_text()
