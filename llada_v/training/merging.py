"""Models made of models: the mean of several, and a base with its adapter."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from ..checkpoint.files import growing, shapes_of
from ..configuration_llada_v import LladaVConfig
from ..errors import MissingFile, WrongValue
from ..modeling_llada_v import LladaVForConditionalGeneration
from ..processing_llada_v import LladaVProcessor
from .adapters import import_peft

ADAPTER_CONFIG = "adapter_config.json"


def average(sources: Sequence[str | Path], target: str | Path) -> None:
    """Write the model whose every weight is the mean of those of `sources`, with the processor of the last.

    Of models that were trained from one another (model soups, arXiv 2203.05482): what two stages forgot of each other's
    lessons is often right again half-way between them.

    sources: folders or hub names of two or more models of one architecture. Sums are taken in float32, one source at a
        time in memory beside them; the weights are written in the dtype of the last source.
    Raises ValueError for fewer than two sources, models that differ in shape, or a target that exists.
    """
    if len(sources) < 2:
        raise WrongValue(f"found {len(sources)} models to average; name at least two")
    if Path(target).exists():
        raise WrongValue(f"{target} exists; name a folder to make")
    mean = LladaVForConditionalGeneration.from_pretrained(sources[-1], dtype=torch.float32)
    total = {name: weight.data for name, weight in mean.named_parameters()}  # each storage once, also of tied weights
    for source in sources[:-1]:
        model = LladaVForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
        check_shapes(sources[-1], shapes_of(mean), source, shapes_of(model))
        for name, weight in model.named_parameters():
            total[name] += weight.data
    for weight in total.values():
        weight /= len(sources)
    write_like(mean, sources[-1], target)


def check_shapes(first: str | Path, ours: dict, other: str | Path, theirs: dict) -> None:
    """Raise ValueError with the first weight that two models, given as shapes by name, do not share."""
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            told = f"{name} is {ours.get(name)} in {first} and {theirs.get(name)} in {other}"
            raise WrongValue(f"{told}; only equals have a mean")


def merge(adapter: str | Path, output: str | Path, base: str | None = None) -> None:
    """Write the model that base and adapter are together, in the base's own dtype, with its processor.

    base: folder or hub name; None: the one that the adapter was trained on. Sums are taken in float32.
    Raises FileNotFoundError where there is no adapter, ValueError for an output that exists.
    """
    peft = import_peft()
    file = Path(adapter) / ADAPTER_CONFIG
    if not file.is_file():
        raise MissingFile(f"no adapter at {adapter}: no {ADAPTER_CONFIG} there; name the output of a LoRA stage")
    if Path(output).exists():
        raise WrongValue(f"{output} exists; name a folder to make")
    base = base or json.loads(file.read_text())["base_model_name_or_path"]
    model = LladaVForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    write_like(peft.PeftModel.from_pretrained(model, adapter).merge_and_unload(), base, output)


def write_like(model, source: str | Path, folder: str | Path) -> None:
    """Write a model as one that `from_pretrained` takes, in the dtype and with the processor of the one at `source`.

    The folder is there when it is whole.
    """
    dtype = LladaVConfig.from_pretrained(source).dtype
    if dtype is not None:
        model = model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    with growing(Path(folder)) as draft:
        LladaVProcessor.from_pretrained(source).save_pretrained(draft)
        model.save_pretrained(draft)
