"""The forms of OpenAI's chat completions, as far as this model follows them, and what diffusion adds.

A field that is not here is an error that names it; a field that is here is followed, or refused where its value asks
for what cannot be done. The object `diffusion` is made from `SamplerConfig`, field by field.
"""

from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, create_model

from ..fields import Rule, kinds_of, rules_of, text_of
from ..generation.config import SamplerConfig
from ..generation.presets import PRESETS

MOST_MESSAGES = 1000
MOST_RUNNERS_UP = 20
MOST_CANVAS = 100_000
APART = ("constraint", "compile", "keep_features", "stop_strings")  # asked for in OpenAI's words, or not at all


class Form(BaseModel):
    """Unknown fields are refused, and no value is bent into another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Form):
    """Words."""

    type: Literal["text"]
    text: str


class Address(Form):
    """Where a picture or video is: a data: URL; http(s) only where the server was told to fetch."""

    url: str
    detail: Literal["auto", "high"] | None = Field(None, description="pictures are always looked at in detail")


class ImagePart(Form):
    """A picture."""

    type: Literal["image_url"]
    image_url: Address


class VideoPart(Form):
    """A video file."""

    type: Literal["video_url"]
    video_url: Address


class FramesPart(Form):
    """A video as its frames, in order."""

    type: Literal["video"]
    video: list[str] = Field(min_length=1, description="data: URLs of pictures")


Part = Annotated[TextPart | ImagePart | VideoPart | FramesPart, Field(discriminator="type")]


class Message(Form):
    """One turn. What clients copy from an earlier answer beside its text has to be empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    refusal: None = None
    annotations: None | Annotated[list, Field(max_length=0)] = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None


class StreamOptions(Form):
    """How a stream ends."""

    include_usage: bool = Field(False, description="a last chunk with `usage`")


class JsonSchema(Form):
    """A schema by name."""

    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = Field(None, description="answers always follow the schema")


class ResponseFormat(Form):
    """The shape of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Form):
    """The shape of the answer, in the words of other servers. Give one."""

    json_: dict[str, Any] | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    template: str | None = Field(None, description="fixed text with gaps such as {text:1-12}, {number}, {choice:a|b}")


def number_of(kind: type, rule: Rule) -> Any:
    """The type of a number within its limits."""
    limits: dict[str, Any] = {"ge": rule.least, "le": rule.most, "gt": rule.above, "lt": rule.below}
    return Annotated[kind, Field(**{name: limit for name, limit in limits.items() if limit is not None})]


def type_of(kinds: tuple, rule: Rule) -> Any:
    """The type of a setting, for a form."""
    found: list[Any] = []
    for kind in kinds:
        if kind in (int, float):
            found.append(number_of(kind, rule))
        elif kind is str and rule.choices:
            found.append(Literal[rule.choices])
        else:
            found.append(kind)
    return Union[tuple(found)]  # noqa: UP007  # of a list that is made here


def diffusion_form() -> type[Form]:
    """A form with every setting of `SamplerConfig`, and a preset."""
    fields: dict[str, Any] = {
        "preset": (Literal[tuple(PRESETS)] | None, Field(None, description="named settings, on which the others stand"))
    }
    for name, (field, rule) in rules_of(SamplerConfig).items():
        if name in APART:
            continue
        told = text_of(field, rule)
        fields[name] = (type_of(kinds_of(field), rule) | None, Field(None, description=told))
    return create_model("Diffusion", __base__=Form, __doc__="How the answer is revealed.", **fields)


Diffusion = diffusion_form()


class ChatRequest(Form):
    """POST /v1/chat/completions."""

    model: str | None = Field(None, description="a name from /v1/models; left out: the one that is served")
    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, description="the longest answer; the canvas has this length")
    max_completion_tokens: int | None = Field(None, ge=1, description="the same")
    stop: str | list[str] | None = None
    temperature: float | None = Field(None, ge=0, le=2, description="default: 0, the best token")
    top_p: Annotated[float, Field(ge=1, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    seed: int | None = Field(None, ge=0, lt=2**63)
    n: int | None = Field(None, ge=1)
    logprobs: bool | None = Field(None, description="of the step in which each token was revealed")
    top_logprobs: int | None = Field(None, ge=0, le=MOST_RUNNERS_UP)
    user: str | None = Field(None, description="written into the log")
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_json: dict[str, Any] | None = None
    enable_thinking: bool | None = Field(None, description="ends the question with the mode of the reasoning data")
    diffusion: Diffusion | None = None  # type: ignore[valid-type]  # made above
    diffusing: bool | None = Field(None, description="with stream: frames between the chunks show every step")
    num_denoising_steps: int | None = Field(None, ge=1, description="diffusion.steps")
    max_denoising_steps: int | None = Field(None, ge=1, description="diffusion.steps")
    block_length: int | None = Field(None, ge=1, description="diffusion.block_length")
    threshold: float | None = Field(None, ge=0, le=1, description="diffusion.threshold, with its rule")


class AttentionRequest(Form):
    """POST /v1/diffusion/attention."""

    model: str | None = Field(None, description="a name from /v1/models; left out: the one that is served")
    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    answer: list[Annotated[int, Field(ge=0)] | None] = Field(
        min_length=1, max_length=MOST_CANVAS, description="the canvas as token ids, null where a mask stands"
    )
    position: int = Field(ge=0, description="of the canvas: the token that looks")
    enable_thinking: bool | None = Field(None, description="as in the request that was answered")
