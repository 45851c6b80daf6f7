"""From a chat request to what the engine takes: media opened within limits, the prompt, settings by their names."""

import re
import secrets
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from PIL import Image

from ..decisions import prompts_of
from ..errors import UserError, WrongValue
from ..generation.apart import fields_apart
from ..generation.config import APART, TOGETHER, SamplerConfig
from ..generation.presets import preset_of, settings_of
from ..images import load_image, open_picture
from ..json_text import shown
from ..media import of_data_uri, open_text
from ..video import frames_evenly, load_frames
from .errors import Refused
from .forms import APART as OTHER_WORDS
from .forms import AttentionRequest, ChatRequest, Message
from .limits import Limits

MOST_SEED = 2**63 - 1
ALIASES = {"num_denoising_steps": "steps", "max_denoising_steps": "steps", "block_length": "block_length"}
SCALAR = r'(?:"(?:[^"\\\x00-\x1f\x7f]|\\["\\nrt])*"|-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?|true|false|null)'


@dataclass
class Asked:
    """A request that was read.

    parts: of one conversation, for the engine, with its settings; of several, where fields are asked apart.
    schema: then their JSON's, else None.
    """

    parts: list[tuple[dict[str, torch.Tensor], SamplerConfig]]
    schema: dict | None
    seed: int
    answers: int
    logprobs: bool
    runners_up: int

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt, of all parts together."""
        return sum(inputs["input_ids"].shape[1] for inputs, _ in self.parts)


def read(form: ChatRequest, processor, generation_config, limits: Limits, fetches: bool) -> Asked:
    """A request as prompt and settings. Raises Refused for what cannot be met, with the field it is about."""
    if form.top_logprobs and not form.logprobs:
        raise Refused(400, "top_logprobs is given without logprobs; set logprobs to true", "top_logprobs")
    if form.stream_options is not None and not form.stream:
        raise Refused(400, "stream_options is given without stream; set stream to true", "stream_options")
    if form.diffusing and not form.stream:
        raise Refused(400, "diffusing is given without stream; set stream to true", "diffusing")
    sampler = sampler_of(form, generation_config, processor.reproduce_original)
    if sampler.canvas_length > limits.tokens:
        raise Refused(
            400, f"the answer may have {sampler.canvas_length} tokens, more than the {limits.tokens} that are served",
            "max_tokens",
        )  # fmt: skip
    answers = form.n or 1
    if answers > limits.answers:
        raise Refused(400, f"n is {answers}, more than the {limits.answers} that are served", "n")
    if answers > 1 and not sampler.temperature and sampler.remasking != "random":
        raise Refused(400, f"n is {answers}, but without chance all answers are one; set a temperature", "n")
    schema = None
    if sampler.fields == APART:
        schema = sampler.constraint["json_schema"]
        parts = parts_apart(form, schema, sampler, processor, limits, fetches)
    else:
        parts = [(inputs_of(form, processor, limits, fetches), sampler)]
    seed = secrets.randbelow(MOST_SEED) if form.seed is None else form.seed
    return Asked(parts, schema, seed, answers, bool(form.logprobs), form.top_logprobs or 0)


def parts_apart(
    form: ChatRequest, schema: dict, sampler: SamplerConfig, processor, limits: Limits, fetches: bool
) -> list[tuple[dict, SamplerConfig]]:
    """The prompt of each field of a schema, its description behind the last message, and its settings.

    Raises Refused for what asks for one row of tokens, where there is one a field.
    """
    if form.messages[-1].role != "user":
        raise Refused(400, "fields apart are asked behind a user's message, and the last is another's", "messages")
    for name, is_asked in (("logprobs", form.logprobs), ("diffusing", form.diffusing), ("n", (form.n or 1) > 1)):
        if is_asked:
            raise Refused(400, f"{name} is of one row of tokens, and fields apart have one each; leave it out", name)
    *history, last = Media(limits, fetches).opened(form.messages)
    said = [{"type": "text", "text": last["content"]}] if isinstance(last["content"], str) else last["content"]
    is_said = any(part["type"] == "text" and part["text"].strip() for part in said)
    asked = fields_apart(schema)
    texts = [{"type": "text", "text": "\n" * is_said + field.text} for field in asked]
    chats = [[*history, last | {"content": [*said, text]}] for text in texts]
    try:
        prompts, pictures = prompts_of(processor, chats, enable_thinking=form.enable_thinking)
    except UserError as error:
        raise Refused(400, str(error), "messages") from error
    alone = [replace(sampler, constraint=field.constraint, fields=TOGETHER) for field in asked]
    return [({"input_ids": torch.tensor([ids])} | pictures, one) for ids, one in zip(prompts, alone, strict=True)]


def inputs_of(form: ChatRequest | AttentionRequest, processor, limits: Limits, fetches: bool) -> dict:
    """The prompt of a request's messages: input_ids (1, L), and of its pictures. Raises Refused."""
    messages = Media(limits, fetches).opened(form.messages)
    try:
        inputs = processor.apply_chat_template(
            messages,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            enable_thinking=form.enable_thinking,
        )
    except UserError as error:
        raise Refused(400, str(error), "messages") from error
    inputs = dict(inputs)
    inputs.pop("attention_mask", None)  # of one conversation, nothing is hidden
    return inputs


# Settings


def sampler_of(form: ChatRequest, generation_config, reproduce_original: bool = False) -> SamplerConfig:
    """The settings of an answer, from the model's preset, the object `diffusion` and OpenAI's words."""
    given: dict[str, Any] = {} if form.diffusion is None else form.diffusion.model_dump(exclude_none=True)
    preset = given.pop("preset", None) or preset_of(generation_config, reproduce_original)
    for name, setting in ALIASES.items():
        put(given, setting, getattr(form, name), name)
    if form.threshold is not None:
        put(given, "threshold", form.threshold, "threshold")
        given.setdefault("rule", "threshold")
    put(given, "gen_length", form.max_tokens, "max_tokens")
    put(given, "gen_length", form.max_completion_tokens, "max_completion_tokens")
    put(given, "temperature", form.temperature, "temperature")
    if form.stop is not None:
        given["stop_strings"] = [form.stop] if isinstance(form.stop, str) else form.stop
    constraint = constraint_of(form)
    if constraint is not None:
        given["constraint"] = constraint
    given.setdefault("gen_length", generation_config.max_new_tokens)
    try:
        return SamplerConfig(**settings_of(preset, given))
    except UserError as error:
        raise Refused(400, str(error), field_of(str(error), form)) from error


def put(given: dict, setting: str, value, name: str) -> None:
    """Note a value under a setting. Raises Refused where another is there."""
    if value is None:
        return
    if setting in given and given[setting] != value:
        raise Refused(
            400, f"{name} is {shown(value)}, but {setting} is {shown(given[setting])} too; leave one of them out", name
        )
    given[setting] = value


def field_of(told: str, form: ChatRequest) -> str | None:
    """The field of the request that an error about settings begins with."""
    word = re.match(r"[a-z_]+", told)
    name = word[0] if word else ""
    if name in {field.name for field in fields(SamplerConfig)} - set(OTHER_WORDS):
        return "max_tokens" if name == "gen_length" and form.max_tokens else f"diffusion.{name}"
    return {"stop_strings": "stop"}.get(name)


def constraint_of(form: ChatRequest) -> dict | None:
    """The shape of the answer, as `SamplerConfig` takes it, from whichever field asks for one."""
    found: list[tuple[str, dict]] = []
    asked = form.response_format
    if asked is not None:
        if (asked.type == "json_schema") != (asked.json_schema is not None):
            raise Refused(
                400, "response_format needs json_schema with type json_schema, and only there", "response_format"
            )
        if asked.json_schema is not None:
            found.append(("response_format", {"json_schema": asked.json_schema.schema_}))
        elif asked.type == "json_object":
            found.append(("response_format", {"regex": json_object(2)}))
    for kind, name, value in (
        ("regex", "guided_regex", form.guided_regex),
        ("choices", "guided_choice", form.guided_choice),
        ("json_schema", "guided_json", form.guided_json),
    ):
        if value is not None:
            found.append((name, {kind: value}))
    structured = form.structured_outputs
    if structured is not None:
        for kind, value in (
            ("json_schema", structured.json_),
            ("regex", structured.regex),
            ("choices", structured.choice),
            ("template", structured.template),
        ):
            if value is not None:
                found.append(("structured_outputs", {kind: value}))
    if len(found) > 1:
        names = " and ".join(name for name, _ in found)
        raise Refused(400, f"{names} each ask for a shape of the answer; give one", found[1][0])
    return found[0][1] if found else None


def json_object(levels: int) -> str:
    """Any JSON object with that many levels of objects and lists inside each other."""
    value = SCALAR
    for level in range(levels, 0, -1):
        member = rf'"(?:[^"\\\x00-\x1f\x7f]|\\["\\nrt])*": {value}'
        whole = rf"\{{(?:{member}(?:, {member})*)?\}}"
        value = rf"(?:{SCALAR}|{whole}|\[(?:{value}(?:, {value})*)?\])" if level > 1 else whole
    return value


# Pictures and videos


class Media:
    """Opens what messages show, within limits. Nothing of the server's disk is ever read."""

    def __init__(self, limits: Limits, fetches: bool):
        """fetches: whether http(s) addresses are followed, to public hosts."""
        self.limits, self.fetches, self.count = limits, fetches, 0

    def opened(self, messages: list[Message]) -> list[dict]:
        """Messages as the processor takes them."""
        return [
            {
                "role": "system" if message.role == "developer" else message.role,
                "content": message.content
                if isinstance(message.content, str)
                else [
                    self.part(part, f"messages[{number}].content[{place}]")
                    for place, part in enumerate(message.content)
                ],
            }
            for number, message in enumerate(messages)
        ]

    def part(self, part, where: str) -> dict:
        """One part, its picture or video opened."""
        if part.type == "text":
            return {"type": "text", "text": part.text}
        try:
            if part.type == "image_url":
                return {"type": "image", "image": self.picture(part.image_url.url)}
            if part.type == "video":
                if len(part.video) > self.limits.frames:
                    raise WrongValue(f"{len(part.video)} frames; there may be {self.limits.frames}")
                return {"type": "video", "video": [self.picture(frame, counts=False) for frame in part.video]}
            clip = self.bytes_of(part.video_url.url)
            return {"type": "video", "video": load_frames(clip, self.frame_rule)}
        except UserError as error:
            raise Refused(400, f"{where}: {error}", where) from error

    def frame_rule(self, total: int, fps: float) -> list[int]:
        """One frame a second, as many as may be, at least two."""
        seconds = total / fps if fps else total
        return frames_evenly(total, int(min(self.limits.frames, max(2, seconds))))

    def picture(self, url: str, counts: bool = True) -> Image.Image:
        """A picture, decoded."""
        if counts:
            self.count += 1
            if self.count > self.limits.pictures:
                raise WrongValue(f"there are more than {self.limits.pictures} pictures, which is as many as may be")
        data = self.bytes_of(url)
        image, _ = open_picture(data)
        if image.width * image.height > self.limits.pixels:
            raise WrongValue(
                f"the picture has {image.width * image.height:,} pixels; there may be {self.limits.pixels:,}"
            )
        return load_image(data)

    def bytes_of(self, url: str) -> bytes:
        """What a data: URL holds, or a web address gives."""
        scheme = url[:8].lower()
        if scheme.startswith("data:"):
            return of_data_uri(url)
        if scheme.startswith(("http://", "https://")):
            if not self.fetches:
                raise WrongValue("web addresses are not fetched here; send the file as a data: URL")
            return open_text(url, allow_urls=True)
        raise WrongValue(f"{shown(url)} is no data: URL; write data:image/png;base64,DATA")
