"""transformers' typed decisions (`DecisionPipeline`, `/v1/systemone` of its server; transformers 5.23 and later).

A request is {"state", "questions": {name: {"type", "instructions", "criteria"}}, "assets"}. transformers reads the
token behind a prompt; here the options themselves are read at masked positions, as `decide` does, and all questions
about the same pictures at once:

    request -> `SystemOneConfig.prepare_inputs` -> ids of prompt and questions, ids of the options -> `decide` -> scores
"""

import json
from typing import Any

import torch
from transformers.decision import DecisionConfig, Question, parse_questions
from transformers.decision.modeling_utils import DecisionMixin, process_scores

from .conversation import read_messages
from .decisions import features_of, shared_length
from .errors import WrongValue
from .generation.apart import YES_NO
from .generation.choices import Asked, read_alone, read_apart
from .json_text import shown
from .sequence import picture_inputs, pixel_inputs


class SystemOneConfig(DecisionConfig):
    """transformers' settings of decisions (`decision.json`), with prompts and options as LLaDA-V reads them.

    labels: what is read for an option, by type of question. By default the option itself: the name of a choice, the
        text of a level, yes and no.
    temperature, noul_options: as transformers has them.
    """

    def prepare_inputs(self, request: dict | str, processor) -> list[tuple[dict, list[Question]]]:
        """(inputs, questions) of each forward: one for all questions that show the same pictures.

        request: a dictionary or its JSON. A placeholder of `assets` stands for its picture wherever it is written.
        Inputs are those of `DecidesMixin.decide`. Raises ValueError for a request that cannot be asked.
        """
        if self.chat_template is not None:
            raise WrongValue(
                "decision_template.jinja writes prompts for a model that reads the token behind them; LLaDA-V reads "
                "the options at masked positions and writes its own prompts: remove the file"
            )
        request = json.loads(request) if isinstance(request, str) else request
        if not isinstance(request, dict) or not {"state", "questions"} <= request.keys():
            raise WrongValue(f"a request is {shown(request)}; give a state, and questions by name")
        questions, assets = parse_questions(request["questions"], self), request.get("assets") or {}
        groups: dict[Any, list] = {}
        visuals: dict[tuple[str, ...], list] = {}
        for question in questions:
            parts = parts_of(prompt_text(request["state"], question), assets)
            turns, images, _ = read_messages([{"role": "user", "content": parts}])
            names = tuple(part["name"] for part in parts if "name" in part)
            if images and names not in visuals:
                visuals[names] = processor.visuals_of(images, **processor.options({})["images_kwargs"])
            ids = processor.sequence([*turns, ("assistant", [])], visuals.get(names, []), is_open=True).input_ids
            shared = shared_length(ids, processor.config)
            groups.setdefault((names, tuple(ids[:shared])), []).append((ids[shared:], question))
        prompts = []
        for (names, front), asked in groups.items():
            behind = [ids for ids, _ in asked]
            inputs: dict[str, Any] = {
                "input_ids": torch.tensor([[*front, *(token for ids in behind for token in ids)]]),
                "marks": len(front) + torch.tensor([len(ids) for ids in behind]).cumsum(0),
                "shared": len(front),
                "options": [[processor.encode(text) for text in self.texts_of(question)] for _, question in asked],
            }
            prompts.append((inputs | pixel_inputs(visuals.get(names, [])), [question for _, question in asked]))
        return prompts

    def texts_of(self, question: Question) -> list[str]:
        """What is read for each option of a question."""
        if self.labels.get(question.type):
            return question.labels
        if question.type == "noul":
            return [YES_NO[option == "true"] for option in question.options]
        return [text_of(level) for level in question.descriptions] if question.type == "score" else question.options


class DecidesMixin(DecisionMixin):
    """`decide` for the model with its head; loading and saving stay as they are, so it stands behind them."""

    name_or_path: str
    config: Any
    model: Any
    generation_config: Any

    @property
    def decision_config(self) -> SystemOneConfig:  # type: ignore[override]  # transformers sets an attribute
        """That of the model's folder, or the default."""
        return SystemOneConfig.from_pretrained(self.name_or_path)  # type: ignore[return-value]  # one of its class

    @torch.no_grad()
    def decide(
        self,
        input_ids: torch.Tensor,
        marks: torch.Tensor,
        decision_questions: list[Question],
        decision_config: DecisionConfig | None = None,
        shared: int | None = None,
        options: list[list[list[int]]] | None = None,
        **pictures: torch.Tensor,
    ) -> list[torch.Tensor]:
        """The log-probability of each option of each question, divided by the temperature of its type.

        input_ids: (1, L) the prompt that all questions stand behind, then one question after the other.
        marks: (Q,) where each question ends, and its answer would begin.
        shared: positions of the prompt. options: per question the ids of its options. pictures: as the processor makes
            them. All from `SystemOneConfig.prepare_inputs`.
        Raises ValueError for inputs of another config: they do not hold what the options are.
        """
        if options is None or shared is None:
            raise WrongValue(
                "the inputs do not say what the options are: make them with the model's own decision_config "
                "(leave decision_config out, or give a SystemOneConfig)"
            )
        ids, ends = input_ids[0].tolist(), marks.tolist()
        asked = [
            Asked(ids[start:end], labels) for start, end, labels in zip([shared, *ends], ends, options, strict=False)
        ]
        features = features_of(self, picture_inputs(pictures))
        length = self.generation_config.max_new_tokens
        if "flash" in str(self.config._attn_implementation):  # see `read_apart`
            prompts = [ids[:shared] + question.ids for question in asked]
            found = read_alone(self, prompts, [question.labels for question in asked], length, features)
        else:
            found = read_apart(self, ids[:shared], asked, length, features)
        return process_scores(decision_config or self.decision_config, input_ids, marks, decision_questions, found)


def text_of(value) -> str:
    """A text as it is, anything else as JSON, nothing for None."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def prompt_text(state, question: Question) -> str:
    """State, instructions, and a line for each option that is described, as the user says them."""
    lines = [text_of(state), text_of(question.instructions)]
    if question.type != "score":  # a level's description is the option itself
        names = [YES_NO[name == "true"] if question.type == "noul" else name for name in question.options]
        told = map(text_of, question.descriptions)
        lines += [f"{name}: {line}" for name, line in zip(names, told, strict=True) if line]
    return "\n".join(line for line in lines if line)


def parts_of(text: str, assets: dict[str, Any]) -> list[dict]:
    """The text as parts of a message, with pictures where their placeholders stand; these also have their "name"."""
    for name in sorted(assets, key=len, reverse=True):
        if name and name in text:
            before, _, behind = text.partition(name)
            asset = assets[name]
            source = {"base64": asset.get("data_base64")} if isinstance(asset, dict) else {"image": asset}
            return [*parts_of(before, assets), {"type": "image", "name": name, **source}, *parts_of(behind, assets)]
    return [{"type": "text", "text": text}] if text.strip() else []
