"""Typed decisions: closed questions about a picture, all read at once, each with its probabilities.

model, processor = load("model/llada-v-tiny")
found = decide(model, processor, {"Is there a red star?": bool, "How many objects are there?": range(6)}, ["demo.png"])
print(found["Is there a red star?"].value, found["Is there a red star?"].probability)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .conversation import list_of, read_messages, user_message
from .errors import WrongValue
from .generation.apart import YES_NO
from .generation.choices import Asked, read_alone, read_apart
from .json_text import shown
from .sequence import pixel_inputs

CLOSE = 0.2  # lead in probability below which the second is close
TEMPERATURES = (0.05, 20.0)  # between which one is looked for


@dataclass(frozen=True)
class Decision:
    """The answer to one closed question.

    value: the most probable one. probability: its own. probabilities: of every value, the most probable first.
    is_close: whether the second comes close (see `decide`).
    """

    value: Any
    probability: float
    probabilities: dict[Any, float]
    is_close: bool


def decide(
    model,
    processor,
    questions: Mapping[str, Any],
    images=(),
    video=None,
    temperature: float = 1.0,
    close: float = CLOSE,
    gen_length: int | None = None,
    alone: bool = False,
    memory=None,
) -> dict[str, Decision]:
    """The answer to each of several closed questions about the same pictures, or the same video, or none.

    questions: the question's text -> what it may be: `bool` (yes or no), a `range`, a list of texts or numbers, or a
        dictionary from values to the texts that say them, one or several: {True: ["yes", "Yes"], False: ["no", "No"]}.
        With a name of its own a question is (text, what it may be).
    images, video, memory: as `answer` takes them.
    temperature: what log-probabilities are divided by; above 1 less sure (see `fit_temperature`).
    close: the second is close where the first leads it by less, in probability.
    gen_length: masks of the canvas; None is the model's own length.
    alone: each question in a row of its own, where the pictures see it, as `generate` has it: slower, and the numbers
        of its first step. Else the pictures, which then see no question, pass the model once, and all
        questions together behind them.
    A label of several tokens has the probability of the chain from left to right (`generation.choices`).
    Raises ValueError for questions and values that cannot be asked, as `answer` for pictures, and as `read_choices`.
    """
    if not isinstance(questions, Mapping) or not questions:
        raise WrongValue(f"questions is {shown(questions)}; give a dictionary from questions to what they may be")
    if not temperature > 0:
        raise WrongValue(f"temperature is {temperature}; it must be above 0")
    named = {name: asked_of(name, given) for name, given in questions.items()}
    spelled = {name: spellings(name, may_be) for name, (_, may_be) in named.items()}
    labels = {
        name: [processor.encode(text) for texts in values.values() for text in texts]
        for name, values in spelled.items()
    }
    length = model.generation_config.max_new_tokens if gen_length is None else gen_length
    prompts, pictures = prompts_of(processor, [[user_message(text, images, video)] for text, _ in named.values()])
    features = features_of(model, pictures, memory)
    if alone:
        found = read_alone(model, prompts, list(labels.values()), length, features)
    else:
        shared = shared_length(prompts[0], model.config)
        asked = [Asked(prompt[shared:], given) for prompt, given in zip(prompts, labels.values(), strict=True)]
        found = read_apart(model, prompts[0][:shared], asked, length, features)
    return {
        name: decision(values, logs, temperature, close)
        for (name, values), logs in zip(spelled.items(), found, strict=True)
    }


class DecideMixin:
    """`decide` for the model: this module's, and where transformers calls it, transformers' own."""

    def decide(self, inputs=(), questions: Mapping[str, Any] | None = None, processor=None, **settings):
        """The answer to each closed question about the same pictures: model.decide([image], {...}, processor).

        inputs: a picture or several, as `answer` takes images. questions, settings: see `decide` of `decisions`.
        Without questions it is the call of transformers' decision pipeline, see `system_one.DecidesMixin`.
        Raises ValueError as `decide`, and without a processor, which writes the questions as tokens.
        """
        if questions is None and "decision_questions" in settings:
            return super().decide(**settings)  # type: ignore[misc]  # of a class that stands behind this one
        if processor is None:
            raise WrongValue("questions are written by the processor; give processor=processor")
        return decide(self, processor, questions, list_of(inputs), **settings)


def prompts_of(
    processor, chats: Sequence[list[dict]], max_tiles: int | None = None, enable_thinking: bool | None = None
) -> tuple[list[list[int]], dict[str, torch.Tensor]]:
    """The ids of the prompt of each chat, which all show the same pictures, and the pictures, cut into tiles once.

    max_tiles: see `answer`. enable_thinking: see `read_messages`, as for what is raised.
    """
    prompts, visuals = [], None
    for chat in chats:
        turns, pictures, videos = read_messages(chat, enable_thinking)
        if visuals is None:
            merged = processor.options({} if max_tiles is None else {"max_tiles": max_tiles})
            kind = "videos_kwargs" if videos else "images_kwargs"
            visuals = (
                processor.visuals_of(videos or pictures, bool(videos), **merged[kind]) if videos or pictures else []
            )
        prompts.append(processor.sequence([*turns, ("assistant", [])], visuals, is_open=True).input_ids)
    return prompts, pixel_inputs(visuals or [])


def features_of(model, pictures: Mapping[str, torch.Tensor], memory=None) -> torch.Tensor | None:
    """The features (F, D) of pictures as the processor makes them; None where there are none.

    memory: as `answer` takes it.
    """
    if not pictures:
        return None
    pictures = {name: tensor.to(model.device) for name, tensor in pictures.items()}
    return model.encode_pictures(**pictures) if memory is None else memory(**pictures)


def shared_length(prompt: list[int], config) -> int:
    """How much of a prompt is the same for all questions: up to the last picture, or to the user's turn."""
    marks = [place for place, token in enumerate(prompt) if token == config.image_token_id]
    return marks[-1] + 1 if marks else [place for place, t in enumerate(prompt) if t == config.start_header_id][-2]


def asked_of(name, given) -> tuple[str, Any]:
    """(text, what it may be) of a question."""
    text, may_be = given if isinstance(given, tuple) else (name, given)
    if not isinstance(text, str) or not text.strip():
        raise WrongValue(f"the question {shown(name)} has the text {shown(text)}; write what you want to know")
    return text, may_be


def spellings(name, may_be) -> dict[Any, list[str]]:
    """The texts of each value that a question may have.

    Raises ValueError for what is no closed question.
    """
    if may_be is bool:
        may_be = YES_NO
    elif isinstance(may_be, (list, range)):
        odd = [value for value in may_be if isinstance(value, bool) or not isinstance(value, (str, int, float))]
        if odd or len(set(may_be)) < len(may_be):
            raise WrongValue(f"{shown(name)} may be {shown(may_be)}; give different texts or numbers, or bool")
        may_be = {value: str(value) for value in may_be}
    if not isinstance(may_be, Mapping) or len(may_be) < 2:
        raise WrongValue(
            f"{shown(name)} may be {shown(may_be)}; give bool, a range, a list of at least two texts or numbers, or a "
            "dictionary from values to their texts"
        )
    found = {value: [texts] if isinstance(texts, str) else list(texts) for value, texts in may_be.items()}
    every = [text for texts in found.values() for text in texts]
    if not all(found.values()) or not all(isinstance(text, str) and text for text in every):
        raise WrongValue(f"{shown(name)} may be {shown(may_be)}; each value needs a text that is not empty")
    return found


def decision(values: Mapping[Any, list], logs: torch.Tensor, temperature: float, close: float) -> Decision:
    """From the texts of each value, or their ids, and the log-probabilities of all texts in order."""
    parts = (logs / temperature).log_softmax(0).exp().split([len(texts) for texts in values.values()])
    found = {value: float(part.sum()) for value, part in zip(values, parts, strict=True)}
    ranked = dict(sorted(found.items(), key=lambda item: -item[1]))
    (value, most), (_, second) = list(ranked.items())[:2]
    return Decision(value, most, ranked, most - second < close)


def fit_temperature(found: Sequence[Decision], right: Sequence[Any]) -> float:
    """The temperature under which the right values are the most probable (arXiv 1706.04599), by golden section.

    found: decisions at temperature 1, of questions that will not be judged with it. right: their right values.
    Exact where each value has one text. Raises ValueError where there are none, or a right value is not among those.
    """
    if not found or len(found) != len(right):
        raise WrongValue(f"there are {len(found)} decisions and {len(right)} right values; give as many, at least one")
    logs, places = [], []
    for one, value in zip(found, right, strict=True):
        if value not in one.probabilities:
            raise WrongValue(f"{shown(value)} is right, but the question may be {shown(list(one.probabilities))}")
        logs.append(torch.tensor(list(one.probabilities.values()), dtype=torch.float64).clamp_min(1e-300).log())
        places.append(list(one.probabilities).index(value))

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return -sum(float((part * scale).log_softmax(0)[at]) for part, at in zip(logs, places, strict=True))

    low, high = (math.log(limit) for limit in TEMPERATURES)
    golden = (math.sqrt(5) - 1) / 2
    while high - low > 1e-3:
        left, right_end = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right_end) if loss(left) < loss(right_end) else (left, high)
    return math.exp((low + high) / 2)
