"""One YAML file knows an experiment: the keys of `Recipe` that differ from their defaults. Command-line words override.

    base: finetune          # another recipe to start from: a name, or a file seen from this one
    epochs: 3               # 2,000 records are few

The resolved recipe, which a run keeps beside its weights, has every key, so `diff` of two runs is the whole story.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import yaml

from ..data.yaml_text import parse_yaml, read_yaml
from ..errors import WrongValue
from ..fields import check, documented, loaded, plain, rules_of, setting
from ..shipped import recipe_file

PARTS = ("vision_tower", "projector", "language_model")
BASE = "base"


@documented
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of one training stage. Raises ValueError for values that cannot be or do not fit together."""

    model: str = setting(told="folder or hub name to start from")
    projector: str | None = setting(
        None,
        "the projector that an earlier projector stage has trained: its output folder or file",
        none="the model's own",
    )
    output: str = setting(told="folder of checkpoints and, at its top, of the finished model", may_change=True)
    data: str | list[str] = setting(
        told="one source of records or a list of them: a JSON array, JSON Lines, WebDataset tars, a mixture (.yaml); "
        "{a,b} and {000..012} in a name stand for several files; s3://, gs://, hf:// and https:// are read from there",
        least=1,
    )
    image_root: str | list[str] = setting(
        ".", "folder that relative picture and video paths start from, or several that are tried in order", least=1
    )
    index_folder: str | None = setting(
        None,
        "where the index of the records is kept; to be named where they are not on this machine",
        none="`.index` beside the first source",
        may_change=True,
    )
    on_bad_record: str = setting(
        "stop",
        "stop ends the run with the record's id; skip leaves the record out and notes it in `bad_records.jsonl` in the "
        "output",
        choices=("stop", "skip"),
        may_change=True,
    )
    max_bad_share: float = setting(
        0.01, "share of all records that may be skipped; more end the run", least=0, most=1, may_change=True
    )
    on_changed_data: str = setting(
        "stop",
        "stop refuses to go on from a checkpoint with other records than the run began with; go_on says so and goes "
        "on, in the order of the new ones",
        choices=("stop", "go_on"),
        may_change=True,
    )
    style: str = setting(
        "chat",
        "chat trains on conversations, caption on pictures and their captions alone",
        choices=("chat", "caption"),
    )
    train: list[str] = setting(
        list(PARTS),
        "the parts that learn; language_model includes embeddings, head and the newline feature; the rest is frozen",
        choices=PARTS,
        least=1,
    )
    lora_rank: int = setting(
        0,
        "rank of the adapters that learn in place of the weights of language_model and vision_tower; 0: the weights "
        "learn. The projector, if trained, learns as a whole",
        least=0,
        most=4096,
    )
    lora_alpha: float = setting(32.0, "adapters count lora_alpha / lora_rank times", above=0, most=100_000)
    lora_dropout: float = setting(0.0, "share of the adapters' inputs that is dropped while training", least=0, below=1)
    quantize: str | None = setting(
        None,
        "4bit: the frozen language model in 4 bits, with bitsandbytes",
        none="as it is",
        choices=("4bit",),
    )
    optimizer: str = setting(
        "adamw",
        "muon makes the steps of the blocks' and the projector's matrices orthogonal and leaves all else to AdamW "
        "(arXiv 2502.16982): more is learned from as many records, from random weights above all",
        choices=("adamw", "muon"),
    )
    learning_rate: float = setting(1e-5, "peak rate of the language model", above=0, most=1)
    projector_learning_rate: float | None = setting(
        None, "peak rate of the projector", none="learning_rate", above=0, most=1
    )
    vision_learning_rate: float | None = setting(
        None, "peak rate of the vision tower", none="learning_rate", above=0, most=1
    )
    # From 1 on transformers takes it for a number of steps.
    warmup_ratio: float = setting(
        0.03, "share of the steps that warm up linearly; a cosine to 0 follows", least=0, below=1
    )
    warm_restarts: dict = setting(
        {},
        "steps after which the rates start anew, each with the share of the peak that they then come to, as {2000: 1}; "
        "every time they warm up and fall to 0 as if that were a run of its own (arXiv 1608.03983)",
    )
    average: int = setting(
        1,
        "the finished model is the mean of the weights at the ends of the last so many cycles that warm_restarts makes "
        "(arXiv 1803.05407); 1: the weights of the last step",
        least=1,
        most=1000,
    )
    weight_decay: float = setting(0.0, "the optimizer's decay", least=0, most=100)
    max_grad_norm: float = setting(1.0, "the norm that gradients are clipped to", above=0, most=1_000_000)
    global_batch_size: int = setting(64, "records of one optimizer step, over all devices", least=1, most=10_000_000)
    micro_batch_size: int = setting(
        1, "records of one forward pass; accumulation follows from the two", least=1, most=1_000_000
    )
    pack_length: int = setting(
        0,
        "records stand in rows of about so many tokens, several in one and without filler, and do not see each other; "
        "losses stay the same, short records take less time. A longer record has a row of its own, a step as many "
        "forward passes as its records need. 0: a row a record",
        least=0,
        most=10_000_000,
        may_change=True,
    )
    epochs: float = setting(1.0, "passes over the records", above=0, most=1_000_000)
    max_steps: int | None = setting(
        None, "optimizer steps, in place of epochs", none="as many as epochs makes", least=1, most=1_000_000_000
    )
    max_length: int = setting(
        8192, "longest sequence in tokens; a longer record stops the run", least=1, most=10_000_000
    )
    max_frames: int = setting(0, "most frames taken from a video; 0: all, one a second", least=0, most=1_000_000)
    max_tiles: int | None = setting(
        None,
        "most tiles a single picture is cut into, the squashed one counted; fewer make shorter sequences "
        "and lose details",
        none="as many as the canvases have",
        least=1,
        most=10_000,
    )
    train_eos_padding: bool = setting(
        False,
        "batches are filled with EOS that is attended to and predicted, as the original's projector stage does; "
        "otherwise filler is hidden and not trained, as in its other stages (one record a batch)",
    )
    pad_to_multiple_of: int = setting(
        1,
        "batches are filled up to a multiple of this length; 1 fills to the longest record only",
        least=1,
        most=1_000_000,
    )
    group_by_length: bool = setting(True, "a step holds records of one modality, sorted by length; see `order`")
    in_order: bool = setting(
        False,
        "records come in the order of the data instead of a random one, so that what is easy can come first; needs "
        "group_by_length, which mixes those of 50 steps in a row",
    )
    t_min: float = setting(0.0, "lowest noise level; t ~ U(t_min, 1). 0 is the original's", least=0, below=1)
    antithetic_t: bool = setting(
        False, "the noise levels of a global batch are spread evenly over their range instead of drawn one by one"
    )
    complementary_masking: bool = setting(
        False,
        "each answer is trained twice, the second time with the opposite mask, so that every token is predicted; the "
        "pictures pass the tower once. Better use of few records (arXiv 2505.16839)",
    )
    dialogue_causal: bool = setting(
        False,
        "later turns are hidden from earlier ones, as they are when a dialogue is answered turn by turn; the "
        "original's alternative, worse than full attention on most benchmarks (arXiv 2505.16933). Makes L x L masks",
    )
    turns_apart: bool = setting(
        False,
        "turns see the pictures and themselves, not each other: many questions about one picture, each answered as if "
        "it were the only one, at little more than the cost of one. Makes L x L masks",
    )
    turn_canvas: int = setting(
        0,
        "with turns_apart, each turn also stands as it does when it is asked alone: its positions count on from the "
        "pictures, and its answer (header included) is followed by EOS that is predicted, up to a multiple of so many "
        "tokens, as in a canvas; otherwise the number of masks and the place of a question can tell it. Batches by "
        "length do not count the EOS. 0: turns follow one another as in a dialogue",
        least=0,
        most=1_000_000,
    )
    rope_inv_freq: str | None = setting(
        None,
        "rotary frequencies; bf16_rounded continues weights that were trained so, as the published ones probably were",
        none="as in the model's config",
        choices=("exact", "bf16_rounded"),
    )
    bf16: bool = setting(True, "compute in bfloat16; the optimizer's weights and moments stay float32")
    gradient_checkpointing: bool = setting(True, "recompute activations in the backward pass", may_change=True)
    compile: bool = setting(
        False,
        "compile the transformer blocks with torch.compile; the first steps take minutes, the others less time",
        may_change=True,
    )
    attn_implementation: str = setting(
        "sdpa", "what computes attention", choices=("sdpa", "eager", "flash_attention_2"), may_change=True
    )
    deepspeed: str | None = setting(
        None,
        "file of DeepSpeed settings, which scatter optimizer, gradients and weights over the devices",
        none="every device has them all",
    )
    fsdp: bool = setting(
        False,
        "in place of deepspeed, torch itself scatters optimizer, gradients and weights over the devices (FSDP2), and "
        "checkpoints are written while training goes on",
    )
    eval_data: str | list[str] | None = setting(
        None,
        "a few hundred records that are not trained on, as in data, with pictures under image_root: their loss is "
        "logged, of the same noise each time, by modality and level of noise, with its standard error",
        none="none",
        least=1,
        may_change=True,
    )
    eval_steps: int = setting(
        0,
        "optimizer steps between such measurements; 0: one, after the last step",
        least=0,
        most=1_000_000_000,
        may_change=True,
    )
    show_questions: int = setting(
        0,
        "how many of the held-out questions are answered after each measurement, for `run.html` in the output, wandb "
        "and tensorboard to show beside the true answers",
        least=0,
        most=1000,
        may_change=True,
    )
    early_stop: int | None = setting(
        None,
        "measurements in a row without a lower held-out loss than before after which the run ends as finished",
        none="it takes all its steps",
        least=1,
        most=1_000_000,
        may_change=True,
    )
    keep_best: bool = setting(
        False,
        "the weights with the lowest held-out loss so far are kept as a model of their own, `best` in the output",
        may_change=True,
    )
    save_steps: int = setting(
        1000,
        "optimizer steps between checkpoints; 0: none before the end",
        least=0,
        most=1_000_000_000,
        may_change=True,
    )
    save_minutes: float | None = setting(
        None,
        "minutes after a checkpoint when the next one is due, though save_steps has not brought it",
        none="steps alone count",
        above=0,
        most=1_000_000,
        may_change=True,
    )
    save_total: int = setting(1, "how many checkpoints are kept", least=1, most=1_000_000, may_change=True)
    on_save: str | None = setting(
        None,
        "shell command after each checkpoint and after the finished model, with the folder in $LLADA_V_SAVED and its "
        "step in $LLADA_V_STEP, as to copy it elsewhere; training goes on meanwhile",
        none="none",
        may_change=True,
    )
    log_steps: int = setting(1, "optimizer steps between log lines", least=1, most=1_000_000_000, may_change=True)
    report_to: list[str] = setting(
        ["tensorboard"], "where numbers go besides the log", choices=("wandb", "tensorboard"), may_change=True
    )
    peak_tflops: float | None = setting(
        None,
        "what a device can do at most, in 10^12 operations a second, for the share of it that is used",
        none="what its maker states, or for an unknown one a large matrix product that is timed",
        above=0,
        most=1_000_000,
        may_change=True,
    )
    workers: int = setting(4, "processes that load and encode records", least=0, most=1024, may_change=True)
    seed: int = setting(42, "source of every random number of the run", least=0, most=2**32 - 1)

    def __post_init__(self):
        check(self)
        if self.eval_steps and self.eval_data is None:
            raise WrongValue(f"eval_steps is {self.eval_steps}, but there is no eval_data; name some, or set it to 0")
        for name in ("show_questions", "early_stop", "keep_best"):
            if getattr(self, name) and self.eval_data is None:
                raise WrongValue(f"{name} is {plain(getattr(self, name))}, which needs eval_data; name some records")
        if self.show_questions and self.style != "chat":
            raise WrongValue(f"show_questions is {self.show_questions}, but style {self.style} answers no questions")
        if self.lora_rank and set(self.train) == {"projector"}:
            raise WrongValue(
                f"lora_rank is {self.lora_rank}, but train is [projector], which learns as a whole; "
                "add language_model or vision_tower, or set lora_rank to 0"
            )
        if self.quantize is not None and not self.lora_rank:
            raise WrongValue(f"quantize is {self.quantize}, but weights in 4 bits cannot learn; set lora_rank")
        if self.quantize is not None and self.deepspeed is not None:
            raise WrongValue(f"quantize is {self.quantize}, which DeepSpeed cannot scatter; set deepspeed to null")
        if self.fsdp and self.deepspeed is not None:
            raise WrongValue(f"fsdp is true and deepspeed is {self.deepspeed}; set fsdp to false, or deepspeed to null")
        if self.fsdp and self.quantize is not None:
            raise WrongValue(f"quantize is {self.quantize}, which fsdp cannot scatter; set fsdp to false")
        if self.optimizer == "muon" and (self.fsdp or self.deepspeed is not None):
            raise WrongValue(
                "optimizer is muon, which needs whole matrices; set deepspeed to null and fsdp to false, or "
                "optimizer to adamw"
            )
        for name in ("dialogue_causal", "turns_apart"):
            if getattr(self, name) and (self.style != "chat" or "flash" in self.attn_implementation):
                raise WrongValue(f"{name} needs style chat and attn_implementation sdpa or eager")
        if self.in_order and not self.group_by_length:
            raise WrongValue("in_order needs group_by_length; set both to true, or in_order to false")
        if self.dialogue_causal and self.turns_apart:
            raise WrongValue("dialogue_causal and turns_apart are both true; choose one")
        steps = list(self.warm_restarts)
        if any(type(step) is not int for step in steps) or any(b <= a for a, b in pairwise([0, *steps])):
            raise WrongValue(f"warm_restarts has the steps {steps}; they must be whole numbers that rise, from 1 on")
        for step, share in self.warm_restarts.items():
            if type(share) not in (int, float) or not 0 < share <= 1:
                raise WrongValue(f"warm_restarts has {share!r} at {step}; a share is above 0 and at most 1")
        if self.average > 1 + len(steps):
            raise WrongValue(
                f"average is {self.average}, more than the {1 + len(steps)} that warm_restarts makes; lower it"
            )
        if self.average > 1 and (self.lora_rank or self.trains_projector_only):
            raise WrongValue(f"average is {self.average}, which is for models that are saved whole; set it to 1")
        if self.pack_length:
            self.check_packing()
        if self.turn_canvas and not (self.turns_apart and self.train_eos_padding):
            raise WrongValue(
                f"turn_canvas is {self.turn_canvas}, which needs turns_apart and train_eos_padding; "
                "set both to true, or turn_canvas to 0"
            )

    def check_packing(self) -> None:
        """Raise ValueError for what does not go with records that share a row."""
        others = {"micro_batch_size": 1, "pad_to_multiple_of": 1, "train_eos_padding": False, "dialogue_causal": False}
        for name, value in (others | {"turns_apart": False, "compile": False}).items():
            if getattr(self, name) != value:
                raise WrongValue(
                    f"pack_length is {self.pack_length}, with which {name} must be {plain(value)}, not "
                    f"{plain(getattr(self, name))}; change one of them"
                )

    @property
    def hides_turns(self) -> bool:
        """Whether some turns of a conversation do not see others."""
        return self.dialogue_causal or self.turns_apart

    @property
    def trains_projector_only(self) -> bool:
        """Whether the stage leaves a projector behind instead of a model."""
        return self.train == ["projector"]

    def accumulation(self, num_devices: int) -> int:
        """Forward passes per optimizer step and device. Raises ValueError where the global batch cannot be split."""
        at_once = self.micro_batch_size * num_devices
        if self.global_batch_size % at_once:
            raise WrongValue(
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

    Raises FileNotFoundError for a missing file, ValueError for an unknown key, a required one that is missing, a base
    that leads back to its start, or a value that cannot be.
    """
    values = values_of(recipe_file(file))
    for key, text in (overrides or {}).items():
        if key not in rules_of(Recipe):
            raise WrongValue(f"--{key} is not a key of a recipe; the keys are {', '.join(rules_of(Recipe))}")
        values[key] = parse_yaml(text, f"--{key}")
    return loaded(Recipe, values, str(file))


def values_of(file: Path, above: tuple[Path, ...] = ()) -> dict:
    """The keys of a recipe's file over those of its base. above: files that stand on this one."""
    if file.resolve() in above:
        raise WrongValue(f"{file} is its own base, by way of {', '.join(map(str, above))}; take one base out")
    values = read_yaml(file, "the project's recipes are under scripts/recipes")
    if not isinstance(values, dict):
        raise WrongValue(f"{file} is not a recipe: expected one 'key: value' a line")
    base = values.pop(BASE, None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise WrongValue(f"{file}: base is {base!r}; it must be the name or the file of another recipe")
    return values_of(base_of(file, base), (*above, file.resolve())) | values


def base_of(file: Path, base: str) -> Path:
    """The file of a base: seen from the recipe that names it, or a shipped one by its name."""
    beside = file.parent / (base if Path(base).suffix else f"{base}.yaml")
    return beside if beside.is_file() else recipe_file(base)
