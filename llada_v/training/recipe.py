"""One YAML file knows an experiment: every key of `Recipe`, none missing, none unknown. Command-line words override.

Two recipes list the same keys in the same order, so `diff -y` of two stages is the whole difference.
"""

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import get_args, get_origin

import yaml

from ..data.yaml_text import parse_yaml, read_yaml
from ..shipped import recipe_file

PARTS = ("vision_tower", "projector", "language_model")
CHOICES = {
    "train": PARTS,
    "style": ("chat", "caption"),
    "on_bad_record": ("stop", "skip"),
    "on_changed_data": ("stop", "go_on"),
    "quantize": (None, "4bit"),
    "rope_inv_freq": (None, "exact", "bf16_rounded"),
    "attn_implementation": ("sdpa", "eager", "flash_attention_2"),
    "report_to": ("wandb", "tensorboard"),
}
LOWEST = {
    "global_batch_size": 1,
    "micro_batch_size": 1,
    "max_length": 1,
    "pad_to_multiple_of": 1,
    "turn_canvas": 0,
    "save_total": 1,
    "log_steps": 1,
    "save_steps": 0,
    "lora_rank": 0,
    "workers": 0,
}


@dataclass(frozen=True)
class Recipe:
    """The settings of one training stage.

    model: folder or hub name to start from.
    projector: the projector that an earlier projector stage has trained: its output folder or file; None:
        the model's own.
    output: folder of checkpoints and, at its top, of the finished model.
    data: one source of records or a list of them: a JSON array, JSON Lines, WebDataset tars, a mixture (.yaml);
        `{a,b}` and `{000..012}` in a name stand for several files.
    image_root: folder that relative picture and video paths start from, or several that are tried in order.
    index_folder: where the index of the records is kept; None: `.index` beside the first source.
    on_bad_record: "stop" ends the run with the record's id; "skip" leaves the record out and notes it in
        `bad_records.jsonl` in the output.
    max_bad_share: share of all records that may be skipped; more end the run.
    on_changed_data: "stop" refuses to go on from a checkpoint with other records than the run began with; "go_on" says
        so and goes on, in the order of the new ones.
    style: "chat" trains on conversations, "caption" on pictures and their captions alone.
    train: the parts that learn, of vision_tower, projector, language_model (which includes embeddings, head and the
        newline feature); the rest is frozen.
    lora_rank: rank of the adapters that learn in place of the weights of language_model and vision_tower; 0: the
        weights learn. The projector, if trained, learns as a whole.
    lora_alpha: adapters count lora_alpha / lora_rank times.
    lora_dropout: share of the adapters' inputs that is dropped while training.
    quantize: 4bit: the frozen language model in 4 bits, on a CUDA device with bitsandbytes; None: as it is.
    learning_rate: peak rate of the language model.
    projector_learning_rate, vision_learning_rate: peak rates of the other parts; None: learning_rate.
    warmup_ratio: share of the steps that warm up linearly; a cosine to 0 follows.
    weight_decay, max_grad_norm: AdamW's decay and the norm that gradients are clipped to.
    global_batch_size: records of one optimizer step, over all devices.
    micro_batch_size: records of one forward pass; accumulation follows from the two.
    epochs: passes over the records.
    max_steps: optimizer steps, in place of epochs; None: as many as epochs makes.
    max_length: longest sequence in tokens; a longer record stops the run.
    max_frames: most frames taken from a video; 0: all, one a second.
    train_eos_padding: batches are filled with EOS that is attended to and predicted, as the original's projector
        stage does; otherwise filler is hidden and not trained, as in its other stages (one record a batch).
    pad_to_multiple_of: batches are filled up to a multiple of this length; 1 fills to the longest record only.
    group_by_length: a step holds records of one modality, sorted by length; see `order`.
    in_order: records come in the order of the data instead of a random one, so that what is easy can come first;
        needs group_by_length, which mixes those of 50 steps in a row.
    t_min: lowest noise level; t ~ U(t_min, 1). 0 is the original's.
    antithetic_t: the noise levels of a global batch are spread evenly over their range instead of drawn one by one.
    complementary_masking: each answer is trained twice, the second time with the opposite mask, so that every token is
        predicted; the pictures pass the tower once. Better use of few records (arXiv 2505.16839).
    dialogue_causal: later turns are hidden from earlier ones, as they are when a dialogue is answered turn by turn; the
        original's alternative, worse than full attention on most benchmarks (arXiv 2505.16933). Makes L x L masks.
    turns_apart: turns see the pictures and themselves, not each other: many questions about one picture, each answered
        as if it were the only one, at little more than the cost of one. Makes L x L masks.
    turn_canvas: with turns_apart, each turn also stands as it does when it is asked alone: its positions count on from
        the pictures, and its answer (header included) is followed by EOS that is predicted, up to a multiple of so many
        tokens, as in a canvas; otherwise the number of masks and the place of a question can tell it. Batches by
        length do not count the EOS. 0: turns follow one another as in a dialogue.
    rope_inv_freq: exact or bf16_rounded rotary frequencies, the latter to continue weights that were trained so, as the
        published ones probably were; None: as in the model's config.
    bf16: compute in bfloat16; the optimizer's weights and moments stay float32.
    gradient_checkpointing: recompute activations in the backward pass.
    compile: compile the transformer blocks with torch.compile; the first steps take minutes, the others less time.
    attn_implementation: sdpa, eager or flash_attention_2.
    deepspeed: file of DeepSpeed settings, which scatter optimizer, gradients and weights over the devices; None: every
        device has them all.
    save_steps, save_total: optimizer steps between checkpoints, 0 for none before the end, and how many are kept.
    log_steps: optimizer steps between log lines.
    report_to: where numbers go besides the log: wandb, tensorboard.
    peak_tflops: what a device can do at most, in 10^12 operations a second, for the share of it that is used; None:
        what its maker states, or for an unknown one a large matrix product that is timed.
    workers: processes that load and encode records.
    seed: source of every random number of the run.
    """

    model: str
    projector: str | None
    output: str
    data: str | list[str]
    image_root: str | list[str]
    index_folder: str | None
    on_bad_record: str
    max_bad_share: float
    on_changed_data: str
    style: str
    train: list[str]
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    quantize: str | None
    learning_rate: float
    projector_learning_rate: float | None
    vision_learning_rate: float | None
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    global_batch_size: int
    micro_batch_size: int
    epochs: float
    max_steps: int | None
    max_length: int
    max_frames: int
    train_eos_padding: bool
    pad_to_multiple_of: int
    group_by_length: bool
    in_order: bool
    t_min: float
    antithetic_t: bool
    complementary_masking: bool
    dialogue_causal: bool
    turns_apart: bool
    turn_canvas: int
    rope_inv_freq: str | None
    bf16: bool
    gradient_checkpointing: bool
    compile: bool
    attn_implementation: str
    deepspeed: str | None
    save_steps: int
    save_total: int
    log_steps: int
    report_to: list[str]
    peak_tflops: float | None
    workers: int
    seed: int

    def __post_init__(self):
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            words = ["null" if choice is None else choice for choice in choices]
            if isinstance(value, list):
                if set(value) - set(choices):
                    raise ValueError(f"{name} is {value}; list one or more of {', '.join(words)}")
            elif value not in choices:
                raise ValueError(f"{name} is {value!r}; choose {' or '.join(words)}")
        if not self.train:
            raise ValueError(f"train is []; list one or more of {', '.join(PARTS)}")
        for name, lowest in LOWEST.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {lowest}")
        for name in ("max_bad_share", "lora_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and at most 1")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps is {self.max_steps}; it must be at least 1, or null")
        if not 0 <= self.t_min < 1:
            raise ValueError(f"t_min is {self.t_min}; it must be at least 0 and below 1")
        if self.quantize is not None and not self.lora_rank:
            raise ValueError(f"quantize is {self.quantize}, but weights in 4 bits cannot learn; set lora_rank")
        if self.quantize is not None and self.deepspeed is not None:
            raise ValueError(f"quantize is {self.quantize}, which DeepSpeed cannot scatter; set deepspeed to null")
        for name in ("dialogue_causal", "turns_apart"):
            if getattr(self, name) and (self.style != "chat" or "flash" in self.attn_implementation):
                raise ValueError(f"{name} needs style chat and attn_implementation sdpa or eager")
        if self.in_order and not self.group_by_length:
            raise ValueError("in_order needs group_by_length; set both to true, or in_order to false")
        if self.dialogue_causal and self.turns_apart:
            raise ValueError("dialogue_causal and turns_apart are both true; choose one")
        if self.turn_canvas and not (self.turns_apart and self.train_eos_padding):
            raise ValueError(
                f"turn_canvas is {self.turn_canvas}, which needs turns_apart and train_eos_padding; "
                "set both to true, or turn_canvas to 0"
            )

    @property
    def hides_turns(self) -> bool:
        """Whether some turns of a conversation do not see others."""
        return self.dialogue_causal or self.turns_apart

    @property
    def trains_projector_only(self) -> bool:
        """Whether the stage leaves a projector behind instead of a model."""
        return self.train == ["projector"] and not self.lora_rank

    def accumulation(self, num_devices: int) -> int:
        """Forward passes per optimizer step and device. Raises ValueError where the global batch cannot be split."""
        at_once = self.micro_batch_size * num_devices
        if self.global_batch_size % at_once:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} cannot be split over {num_devices} devices with "
                f"micro_batch_size {self.micro_batch_size}; make it a multiple of {at_once}"
            )
        return self.global_batch_size // at_once

    def as_dict(self) -> dict:
        """Its values by key."""
        return asdict(self)

    def as_yaml(self) -> str:
        """The text of a recipe file that loads as this one."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


def load_recipe(file: str | Path, overrides: dict[str, str] | None = None) -> Recipe:
    """The recipe in a YAML file, or a shipped one by its name (`recipe_file`), with overrides as YAML text by key.

    Raises FileNotFoundError for a missing file, ValueError for a missing or unknown key or a value of a wrong type.
    """
    values = read_yaml(recipe_file(file), "the project's recipes are under scripts/recipes")
    if not isinstance(values, dict):
        raise ValueError(f"{file} is not a recipe: expected one 'key: value' a line")
    known = {field.name: field for field in fields(Recipe)}
    for key, text in (overrides or {}).items():
        values[key] = parse_yaml(text, f"--{key}")
        if key not in known:
            raise ValueError(f"--{key} is not a key of a recipe; the keys are {', '.join(known)}")
    unknown, missing = sorted(set(values) - set(known)), [name for name in known if name not in values]
    if unknown or missing:
        raise ValueError(f"{file}: unknown keys {unknown}, missing keys {missing}; every recipe has the same keys")
    assert all(field.default is MISSING for field in known.values())
    return Recipe(**{name: checked(name, values[name], known[name].type) for name in known})


def checked(name: str, value, kind):
    """The value, if it has the type that the recipe's field asks for; whole numbers and '1e-5' pass as floats."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if value is None and NoneType in kinds:
        return None
    if float in kinds and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} is {value!r}; it must be a number") from error
    plain = tuple(get_origin(kind) or kind for kind in kinds)
    is_text_list = not isinstance(value, list) or list[str] not in kinds or all(isinstance(word, str) for word in value)
    if not isinstance(value, plain) or bool not in kinds and isinstance(value, bool) or not is_text_list:
        raise ValueError(f"{name} is {value!r}; it must be {' or '.join(spelled(kind) for kind in kinds)}")
    return value


def spelled(kind) -> str:
    """A type as a recipe's reader knows it."""
    return "null" if kind is NoneType else "list of str" if kind == list[str] else kind.__name__
