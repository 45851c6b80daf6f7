"""One YAML file knows an experiment: every key of `Recipe`, none missing, none unknown. Command-line words override.

Two recipes list the same keys in the same order, so `diff -y` of two stages is the whole difference.
"""

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import yaml

PARTS = ("vision_tower", "projector", "language_model")


@dataclass(frozen=True)
class Recipe:
    """The settings of one training stage.

    model: folder or hub name to start from.
    output: folder of checkpoints and, at its top, of the finished model.
    data: records, a JSON array or JSON Lines.
    image_root: folder that relative picture and video paths start from.
    style: "chat" trains on conversations, "caption" on pictures and their captions alone.
    train: the parts that learn, of vision_tower, projector, language_model (which includes embeddings, head and the
        newline feature); the rest is frozen.
    learning_rate: peak rate of the language model.
    projector_learning_rate, vision_learning_rate: peak rates of the other parts; None: learning_rate.
    warmup_ratio: share of the steps that warm up linearly; a cosine to 0 follows.
    weight_decay, max_grad_norm: AdamW's decay and the norm that gradients are clipped to.
    global_batch_size: records of one optimizer step, over all devices.
    micro_batch_size: records of one forward pass; accumulation follows from the two.
    epochs: passes over the records.
    max_length: longest sequence in tokens; a longer record stops the run.
    max_frames: most frames taken from a video.
    train_eos_padding: batches are filled with EOS that is attended to and predicted, as the original's projector
        stage does; otherwise filler is hidden and not trained, as in its other stages (one record a batch).
    pad_to_multiple_of: batches are filled up to a multiple of this length; 1 fills to the longest record only.
    group_by_length: batches hold records of similar length.
    bf16: compute in bfloat16, weights and optimizer in float32.
    gradient_checkpointing: recompute activations in the backward pass.
    attn_implementation: sdpa, eager or flash_attention_2.
    save_steps, save_total: optimizer steps between checkpoints, and how many are kept.
    log_steps: optimizer steps between log lines.
    workers: processes that load and encode records.
    seed: source of every random number of the run.
    """

    model: str
    output: str
    data: str
    image_root: str
    style: str
    train: list[str]
    learning_rate: float
    projector_learning_rate: float | None
    vision_learning_rate: float | None
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    global_batch_size: int
    micro_batch_size: int
    epochs: float
    max_length: int
    max_frames: int
    train_eos_padding: bool
    pad_to_multiple_of: int
    group_by_length: bool
    bf16: bool
    gradient_checkpointing: bool
    attn_implementation: str
    save_steps: int
    save_total: int
    log_steps: int
    workers: int
    seed: int

    def __post_init__(self):
        unknown = sorted(set(self.train) - set(PARTS))
        if unknown or not self.train:
            raise ValueError(f"train is {self.train}; list one or more of {', '.join(PARTS)}")
        if self.style not in ("chat", "caption"):
            raise ValueError(f"style is {self.style!r}; choose chat or caption")
        for name in ("global_batch_size", "micro_batch_size", "max_length", "pad_to_multiple_of"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    def accumulation(self, num_devices: int) -> int:
        """Forward passes per optimizer step and device. Raises ValueError where the global batch cannot be split."""
        at_once = self.micro_batch_size * num_devices
        if self.global_batch_size % at_once:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} cannot be split over {num_devices} devices with "
                f"micro_batch_size {self.micro_batch_size}; make it a multiple of {at_once}"
            )
        return self.global_batch_size // at_once

    def save(self, file: str | Path) -> None:
        """Write the resolved recipe as YAML."""
        Path(file).write_text(yaml.safe_dump(asdict(self), sort_keys=False))


def load_recipe(file: str | Path, overrides: dict[str, str] | None = None) -> Recipe:
    """The recipe in a YAML file, with overrides given as YAML text by key.

    Raises FileNotFoundError for a missing file, ValueError for a missing or unknown key or a value of a wrong type.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"no recipe at {file}; the project's recipes are under scripts/recipes")
    values = parse(Path(file).read_text(), file)
    if not isinstance(values, dict):
        raise ValueError(f"{file} is not a recipe: expected one 'key: value' a line")
    known = {field.name: field for field in fields(Recipe)}
    for key, text in (overrides or {}).items():
        values[key] = parse(text, f"--{key}")
        if key not in known:
            raise ValueError(f"--{key} is not a key of a recipe; the keys are {', '.join(known)}")
    unknown, missing = sorted(set(values) - set(known)), [name for name in known if name not in values]
    if unknown or missing:
        raise ValueError(f"{file}: unknown keys {unknown}, missing keys {missing}; every recipe has the same keys")
    assert all(field.default is MISSING for field in known.values())
    return Recipe(**{name: checked(name, values[name], known[name].type) for name in known})


def parse(text: str, where):
    """The value that a YAML text stands for."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not valid YAML: {error}") from error


def checked(name: str, value, kind):
    """The value, if it has the type that the recipe's field asks for; whole numbers and '1e-5' pass as floats."""
    if (kind is float or kind == float | None and value is not None) and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} is {value!r}; it must be a number") from error
    expected = list if kind == list[str] else kind
    if not isinstance(value, expected) or expected is int and isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be {getattr(kind, '__name__', kind)}")
    return value
