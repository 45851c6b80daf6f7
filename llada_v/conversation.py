"""Conversations as turns: who says what, and where pictures stand. Knows no tokenizer, no pixels and no ids.

    messages (chat) -> read_messages ->  turns, images, videos
    record (LLaVA)  -> turns_of, pieces_of -> turns

A turn is (role, pieces); a piece is text, or PICTURE where a picture or a video stands. In a chat message pictures are
parts of their own, so `<image>` in its text is text. In a record, and in a finished prompt, `<image>` is the mark of a
picture wherever there are pictures, and text where there are none.
"""

from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from .errors import WrongValue
from .json_text import shown

IMAGE = "<image>"  # where a picture or a video stands in a record's text and in a finished prompt
PICTURE = None  # the same among the pieces of a turn
THINK, NO_THINK = " /think", " /no_think"  # what ends a question of the reasoning data, of all other data beside it
SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
TOKENS = {
    "mask_token_id": "<|mdm_mask|>",
    "bos_token_id": "<|startoftext|>",
    "eos_token_id": "<|endoftext|>",
    "start_header_id": "<|start_header_id|>",
    "end_header_id": "<|end_header_id|>",
    "eot_token_id": "<|eot_id|>",
    "image_token_id": "<|reserved_token_0|>",
}
CHAT_TEMPLATE = (
    """{%- macro words(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- set at = namespace(empty=true, ends=false, text=false) -%}
{%- for part in content -%}
{%- if part['type'] == 'text' -%}
{%- if not at.empty and not at.text and not part['text'].startswith('\n') -%}
{{ '\n' }}{%- set at.ends = false -%}
{%- endif -%}
{{ part['text'] }}
{%- if part['text'] -%}{%- set at.empty = false -%}{%- set at.ends = false -%}{%- endif -%}
{%- if part['text'].strip() -%}{%- set at.text = true -%}{%- endif -%}
{%- else -%}
{{ ' <image>' if at.ends else '<image>' }}{%- set at.empty = false -%}{%- set at.ends = true -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools -%}{{ raise_exception('the model knows no tools; leave tools out') }}{%- endif -%}
{{- '<|startoftext|>' -}}
{%- if not messages or messages[0]['role'] != 'system' -%}
{{- '<|start_header_id|>system<|end_header_id|>\n\n"""
    + SYSTEM_PROMPT
    + """<|eot_id|>' -}}
{%- endif -%}
{%- set last = namespace(asked=-1) -%}
{%- for message in messages -%}{%- if message['role'] == 'user' -%}{%- set last.asked = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- set text = words(message['content']) -%}
{%- if enable_thinking is defined and enable_thinking is not none and loop.index0 == last.asked -%}
{%- set text = text + (' /think' if enable_thinking else ' /no_think') -%}
{%- endif -%}
{%- if text.count('<image>') == 1 and not text.startswith('<image>') -%}
{%- set text = ('<image>\n' + text.replace('<image>', '').strip()).strip() -%}
{%- endif -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + text -}}
{%- if not (continue_final_message and loop.last) -%}{{- '<|eot_id|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}
"""
)
"""The format below as a Jinja template: what other programs read beside the tokenizer. Equal token by token."""
ROLES = {"human": "user", "gpt": "assistant"}
NOISE_TAG = "QA_GT_caption_based_noisy"  # left over in some rows of the training data
SOURCES = {"image": ("image", "url", "path", "base64"), "video": ("video", "url", "path", "base64")}
Turn = tuple[str, list[str | None]]


class Conversation(NamedTuple):
    """Turns, and what their pictures are: images or videos, in order."""

    turns: list[Turn]
    images: list
    videos: list


# Chats


def read_messages(messages: list, enable_thinking: bool | None = None) -> Conversation:
    """A chat as turns, the system prompt of the training data in front unless there is one.

    messages: {"role", "content"}; content is a text or parts {"type": "text", "text"}, {"type": "image", and one of
        "image", "url", "path", "base64"}, {"type": "image_url", "image_url": text or {"url"}}, and the same of videos.
    enable_thinking: True and False put the mode of the reasoning data behind the last question; None puts none.
    Raises ValueError for an empty conversation or question, an unknown role or part, text that is none, and pictures
    beside videos.
    """
    if not messages:
        raise WrongValue("the conversation is empty; give at least one message")
    turns = []
    images: list = []
    videos: list = []
    for message in messages:
        if not isinstance(message, dict):
            raise WrongValue(f"a message is a {type(message).__name__}; it has to be {{'role': ..., 'content': ...}}")
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant"):
            raise WrongValue(f"a message has role {shown(role)}; it may be system, user or assistant")
        if not isinstance(content, (str, list, tuple)):
            raise WrongValue(f"a message has content {shown(content)}; it may be a string or a list of parts")
        pieces: list[str | None] = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            kind, source = read_part(part)
            if kind == "text":
                # Pictures in front of the text stand on a line of their own, as in the training data.
                starts = pieces and is_blank(pieces) and not source.startswith("\n")
                pieces += ["\n"] * bool(starts) + [source] * bool(source)
            else:
                (images if kind == "image" else videos).append(source)
                pieces += [" ", PICTURE] if pieces[-1:] == [PICTURE] else [PICTURE]
        if role == "user" and is_blank(pieces):
            raise WrongValue("the question is empty; write what you want to know")
        turns.append((role, pieces))
    if images and videos:
        raise WrongValue(
            f"the conversation has {len(images)} images and {len(videos)} videos; the model was trained on one "
            "kind at a time"
        )
    if enable_thinking is not None:
        asked = [pieces for role, pieces in turns if role == "user"]
        if not asked:
            raise WrongValue("enable_thinking is said behind a question, and no message is the user's")
        asked[-1].append(THINK if enable_thinking else NO_THINK)
    if turns[0][0] != "system":
        turns.insert(0, ("system", [SYSTEM_PROMPT]))
    return Conversation(turns, images, videos)


def read_part(part) -> tuple[str, Any]:
    """What a part of a message is, "text", "image" or "video", and its text or source."""
    if not isinstance(part, dict):
        raise WrongValue(f"a message part is a {type(part).__name__}; it has to be {{'type': ..., ...}}")
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise WrongValue(f"a message part of type text has a text that is {type(part.get('text')).__name__}")
        return kind, part["text"]
    if kind in ("image_url", "video_url"):
        source = part.get(kind)
        source = source.get("url") if isinstance(source, dict) else source
        if not isinstance(source, str):
            raise WrongValue(f"a message part of type {kind} has no address; write {{{kind!r}: {{'url': ...}}}}")
        return kind.removesuffix("_url"), source
    if kind not in tuple(SOURCES):  # it may be a list, which no dict holds
        raise WrongValue(f"a message part has type {shown(kind)}; it may be text, image, image_url, video or video_url")
    given = [key for key in SOURCES[kind] if part.get(key) is not None]
    if len(given) != 1:
        raise WrongValue(
            f"a message part of type {kind} has {' and '.join(map(repr, given)) or f'no {kind!r}'}; give one of "
            f"{', '.join(SOURCES[kind])}"
        )
    source = part[given[0]]
    if given == ["base64"]:
        if not isinstance(source, str):
            raise WrongValue(f"a message part of type {kind} has base64 that is {type(source).__name__}; give a text")
        source = source if source[:5].lower() == "data:" else f"data:;base64,{source}"
    return kind, source


def plain_message(message) -> dict:
    """A message as a dictionary, its parts too: OpenAI's address of a picture under transformers' name.

    message: a dictionary, or an object of a client with `role` and `content`.
    """
    message = as_dict(message)
    if not isinstance(message, dict) or not isinstance(message.get("content"), (list, tuple)):
        return message
    parts = []
    for part in map(as_dict, message["content"]):
        if isinstance(part, dict) and part.get("type") in ("image_url", "video_url"):
            kind, source = read_part(part)
            part = {"type": kind, "url": source}
        parts.append(part)
    return message | {"content": parts}


def as_dict(value):
    """A dictionary of what an object holds, where it is a dataclass or pydantic's; anything else as it is."""
    if hasattr(value, "model_dump"):
        return value.model_dump(exclude_none=True)
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in fields(value) if getattr(value, item.name) is not None}
    return value


def user_message(text: str, images=(), video=None) -> dict:
    """The message that shows pictures, or a video, and then asks; see `read_messages`."""
    content = [{"type": "image", "image": image} for image in images]
    if video is not None:
        content.append({"type": "video", "video": video})
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


# Records


def turns_of(record: dict) -> list[dict]:
    """A record's turns. Raises ValueError where there is none, or one that is not a text from human or gpt."""
    turns = record.get("conversations")
    if not turns:
        raise WrongValue("the record has no conversations")
    if not isinstance(turns, list):
        raise WrongValue(f"conversations is {shown(turns)}; a list of turns is expected")
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("from") not in tuple(ROLES) or not isinstance(turn.get("value"), str):
            raise WrongValue(f"a turn has 'from' (human or gpt) and 'value' (a text); this one is {shown(turn)}")
    return turns


def check_order(turns: list[dict]) -> None:
    """Raise ValueError unless questions and answers take turns, the last is an answer, and no answer is empty."""
    for number, turn in enumerate(turns):
        expected = ("human", "gpt")[number % 2]
        if turn["from"] != expected:
            raise WrongValue(f"turn {number} is from {turn['from']}; human and gpt take turns, so expected {expected}")
        if expected == "gpt" and not turn["value"].strip():
            raise WrongValue(f"turn {number}, an answer, is empty; write it or remove the turn")
    if len(turns) % 2:
        raise WrongValue("the last turn is from human; a record ends with an answer from gpt")


# Pieces


def pieces_of(text: str, has_pictures: bool) -> list[str | None]:
    """A text with `<image>` marks as pieces; without pictures the marks are text."""
    if not has_pictures:
        return [text]
    first, *rest = text.split(IMAGE)
    return [first] + [piece for text in rest for piece in (PICTURE, text)]


def is_blank(pieces: list) -> bool:
    """Whether there is nothing to read."""
    return not "".join(piece for piece in pieces if piece is not PICTURE).strip()


def picture_first(pieces: list) -> list:
    """A turn with its only picture moved to the front, on a line of its own; all others unchanged."""
    pieces = [piece for piece in pieces if piece != ""]
    if pieces.count(PICTURE) != 1 or pieces[0] is PICTURE:
        return pieces
    text = "".join(piece for piece in pieces if piece is not PICTURE).strip()
    return [PICTURE, "\n" + text] if text else [PICTURE]


def stripped(pieces: list) -> list:
    """A turn without white space at its ends."""
    pieces = [piece for piece in pieces if piece != ""]
    if pieces and pieces[0] is not PICTURE:
        pieces[0] = pieces[0].lstrip()
    if pieces and pieces[-1] is not PICTURE:
        pieces[-1] = pieces[-1].rstrip()
    return pieces


def check_count(pieces: list, pictures: list, where: str) -> None:
    """Raise ValueError unless there is one mark for each picture."""
    written = pieces.count(PICTURE)
    if written != len(pictures):
        raise WrongValue(f"{where} has {written} {IMAGE} for {len(pictures)} pictures or videos; write one for each")


def render(turns: list[Turn], is_open: bool) -> str:
    """The prompt as text, `<image>` where pictures stand. Raises ValueError for words that would not stay words."""
    text = TOKENS["bos_token_id"]
    for role, pieces in turns:
        for piece in pieces:
            for mark in (*TOKENS.values(), IMAGE):
                if piece is not PICTURE and mark in piece:
                    raise WrongValue(
                        f"a message holds {mark}, which is no text in a finished prompt; use tokenize=True, where it is"
                    )
        content = "".join(IMAGE if piece is PICTURE else piece for piece in pieces)
        text += TOKENS["start_header_id"] + role + TOKENS["end_header_id"] + "\n\n" + content + TOKENS["eot_token_id"]
    return text.removesuffix(TOKENS["eot_token_id"]) if is_open else text


def list_of(value) -> list:
    """A list as it is, None as an empty one, anything else as a list of one."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
