"""Talk with the model in a terminal: turns, pictures, and answers that appear in place; or, piped, a line for a line.

A line is a question. Lines that begin with / are commands: /help lists them. Ctrl-C stops an answer, twice ends.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..client import Server
from ..conversation import user_message
from ..errors import MissingFile, UserError, WrongValue
from ..fields import kinds_of, meant, rules_of, text_of
from ..generation.config import SamplerConfig
from ..generation.presets import preset_of
from ..terminal import Frame, Piece, Screen
from .generate import APART as WITH_A_SHAPE
from .options import add_device_options, add_quantize, add_settings, given, need_to_quantize, reader

APART = (*WITH_A_SHAPE, "fields")
KEY = "LLADA_V_API_KEY"
FAST = "fast"  # whatever the model's own preset, what is set by hand has to go with the one that sets most
HISTORY_LINES = 1000
HELP = """/image PATH ...          show pictures with the next question
/reset                   forget the chat and its pictures
/settings                the sampler's settings; /settings NAME says what one means
/settings NAME=VALUE ... change some; NAME= goes back to the default
/help                    this list
/quit                    end, as Ctrl-D does"""
Say = Callable[[list[dict], dict, int, Callable[[Frame], None]], tuple[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the model is, the first pictures, and the sampler's settings."""
    add = parser.add_argument
    add("--model", help="folder or hub name (default: the tiny model that ships)")
    add("--url", metavar="ADDRESS", help="talk to a server instead, such as http://127.0.0.1:8000")
    add("--api-key", metavar="KEY", help=f"what the server asks for (default: ${KEY})")
    add("--image", action="append", default=[], metavar="FILE", help="a picture for the first question; repeatable")
    add_settings(parser, SamplerConfig, leave_out=APART)
    add("--seed", type=int, default=0, help="for temperature and random remasking (%(default)s)")
    add_device_options(parser)
    add_quantize(parser)


def run(args: argparse.Namespace) -> int:
    """Talk until there is nothing more to read; 1 where the last question of a pipe was not answered.

    Raises ValueError for settings that do not fit together, --url beside what chooses a model here, and whatever
    `load` and `Server` raise.
    """
    settings = given(args, SamplerConfig)
    SamplerConfig.preset(FAST, **settings)
    for option in ("model", "device", "dtype", "quantize"):
        if args.url and getattr(args, option) is not None:
            raise WrongValue(f"--{option} chooses a model here, and --url one elsewhere; give one of the two")
    for picture in args.image:
        check_picture(picture)
    need_to_quantize(args)
    screen = Screen()
    name, say = (of_server if args.url else of_model)(args)
    screen.note(f"{name}. /help lists the commands, Ctrl-D ends.")
    return Chat(say, screen, settings, args.seed, args.image).run()


class Chat:
    """The turns so far, the pictures of the next one, and the settings."""

    def __init__(self, say: Say, screen: Screen, settings: dict, seed: int = 0, pictures=()):
        """say: messages, settings, seed and what draws a frame -> the answer, and a line about what it took."""
        self.say, self.screen, self.settings, self.seed = say, screen, dict(settings), seed
        self.pictures = list(pictures)
        self.messages: list[dict] = []
        self.commands = {"image": self.image, "reset": self.reset, "settings": self.set, "help": self.help}

    def run(self) -> int:
        """Read lines until the last; the exit status."""
        is_asked = sys.stdin.isatty() and self.screen.is_live
        keep = remember_lines() if is_asked else None
        status, stops = 0, False
        while True:
            try:
                line = input("> ") if is_asked else read_line()
            except EOFError:
                break
            except KeyboardInterrupt:
                if stops or not is_asked:
                    break
                stops = True
                self.screen.note("\nCtrl-C again ends.")
                continue
            if line.strip() == "/quit":
                break
            try:
                status, stops = self.take(line.strip()), False
            except KeyboardInterrupt:
                if not is_asked:
                    raise
                status, stops = 1, True
                self.screen.erase()
                self.screen.note("stopped; the question is forgotten. Ctrl-C again ends.")
        if keep is None:
            return status
        keep()
        return 0

    def take(self, line: str) -> int:
        """One line: a command or a question. An error is told, and the chat goes on; then the status is 1."""
        word, _, rest = line.partition(" ")
        try:
            if word.startswith("/"):
                if word[1:] not in self.commands:
                    raise WrongValue(f"there is no {word}{meant(word[1:], self.commands)}; /help lists the commands")
                self.commands[word[1:]](rest)
            elif line:
                self.ask(line)
        except UserError as error:
            self.screen.erase()
            print("error:", " ".join(str(error).split()), file=sys.stderr, flush=True)
            return 1
        return 0

    def ask(self, question: str) -> None:
        """Answer a question; it stays in the chat if it was answered whole."""
        asked = user_message(question, self.pictures) if self.pictures else {"role": "user", "content": question}
        text, told = self.say([*self.messages, asked], self.settings, self.seed, self.screen.show)
        self.screen.finish(text)
        self.screen.note(told)
        self.messages += [asked, {"role": "assistant", "content": text}]
        self.pictures = []

    def image(self, rest: str) -> None:
        """`/image PATH ...`"""
        try:
            paths = [str(Path(word).expanduser()) for word in shlex.split(rest)]
        except ValueError as error:
            raise WrongValue(f"/image {rest}: {error}; put a path with blanks between quotation marks") from None
        if not paths:
            raise WrongValue("/image needs a file: /image picture.png")
        for path in paths:
            check_picture(path)
        self.pictures += paths
        self.screen.note(f"{len(self.pictures)} for the next question: {', '.join(self.pictures)}")

    def reset(self, rest: str) -> None:
        """`/reset`"""
        self.messages, self.pictures = [], []
        self.screen.note("a new chat")

    def set(self, rest: str) -> None:
        """`/settings`, `/settings NAME`, `/settings NAME=VALUE ...`"""
        rules = {name: rule for name, rule in rules_of(SamplerConfig).items() if name not in APART}
        changed = dict(self.settings)
        for word in rest.split():
            name, equals, value = word.partition("=")
            name = name.replace("-", "_")
            if name not in rules:
                raise WrongValue(f"there is no setting {name!r}{meant(name, rules)}; they are {', '.join(rules)}")
            field, rule = rules[name]
            if not equals:
                self.screen.note(f"{name}: {text_of(field, rule)}")
            elif not value:
                changed.pop(name, None)
            elif bool in kinds_of(field):
                changed[name] = value == "true" if value in ("true", "false") else value
            else:
                changed[name] = reader(kinds_of(field))(value)
        SamplerConfig.preset(FAST, **changed)
        self.settings = changed
        if "=" in rest or not rest:
            told = ", ".join(f"{name}={value}" for name, value in changed.items())
            self.screen.note(f"{told or 'nothing set'}; the defaults otherwise. Names: {', '.join(rules)}")

    def help(self, rest: str) -> None:
        """`/help`"""
        self.screen.note(HELP)


def read_line() -> str:
    """A line of a pipe. Raises EOFError behind the last."""
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def remember_lines() -> Callable[[], None]:
    """Offer the lines of earlier chats at the prompt; the function returned keeps those of this one."""
    import readline  # not on Windows, whose consoles remember lines themselves

    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "llada_v"
    file = folder / "chat_history"
    readline.set_history_length(HISTORY_LINES)
    with suppress(OSError):  # the first time, or a home that is not ours: then nothing is remembered
        readline.read_history_file(file)

    def keep() -> None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)

    return keep


def check_picture(path: str) -> None:
    """Raise FileNotFoundError for a picture that is not there, before it is asked about."""
    if not Path(path).is_file():
        raise MissingFile(f"there is no picture at {path}")


# Where answers come from


def of_model(args: argparse.Namespace) -> tuple[str, Say]:
    """The name of a model that is loaded here, and what it says."""
    import torch
    from transformers.utils import logging

    from ..answering import DEMO_MODEL, PictureMemory, answer, load
    from ..quantization import quantize

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    name = str(args.model or DEMO_MODEL)
    model, processor = load(name, args.device, args.dtype)
    if args.quantize:
        quantize(model, args.quantize)
    memory, length = PictureMemory(model), model.generation_config.max_new_tokens
    preset = preset_of(model.generation_config)

    def say(messages, settings, seed, show):
        def watch(state):
            show(Frame(state.step, state.num_steps, pieces_of(state, processor.decode)))

        content = messages[-1]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        found = answer(
            model,
            processor,
            parts[-1]["text"],
            [part["image"] for part in parts[:-1]],
            sampler=SamplerConfig.preset(preset, **{"gen_length": length} | settings),
            generator=torch.Generator(model.device).manual_seed(seed),
            callback=watch,
            memory=memory,
            history=messages[:-1],
        )
        return found.text, took(found.num_forwards, found.seconds)

    return Path(name).name, say


def pieces_of(state, decode: Callable[[list[int]], str]) -> list[Piece]:
    """The first answer of a `SamplerState`, up to its end."""
    end, new = int(state.stop_positions[0]), set(state.revealed[0])
    ids, is_masked, confidence = (part[0, :end].tolist() for part in (state.canvas, state.is_masked, state.confidence))
    return [
        Piece("", 0.0, "masked") if masked else Piece(decode([token]), sure, "new" if place in new else "kept")
        for place, (token, masked, sure) in enumerate(zip(ids, is_masked, confidence, strict=True))
    ]


def of_server(args: argparse.Namespace) -> tuple[str, Say]:
    """The name of a server's model, and what it says."""
    server = Server(args.url, args.api_key or os.environ.get(KEY))

    def say(messages, settings, seed, show):
        text, forwards, start = "", None, time.perf_counter()
        for event in server.ask(messages, settings, seed):
            if event.get("type") == "diffusion_frame":
                pieces = [Piece(part["text"], part["probability"] or 0.0, part["state"]) for part in event["tokens"]]
                show(Frame(event["step"], event["total"], pieces))
            for choice in event.get("choices", ()):
                text += choice["delta"].get("content") or ""
            forwards = event.get("timings", {}).get("forwards", forwards)
        return text.strip(), took(forwards, time.perf_counter() - start)

    return f"{server.model} at {server.url}", say


def took(forwards: int | None, seconds: float) -> str:
    """What an answer took, in a line."""
    passes = "" if forwards is None else f"{forwards} forward passes, "
    return f"{passes}{seconds:.2f} s"
