"""The mean of the weights of models that were trained from one another (model soups, arXiv 2203.05482).

What two stages forgot of each other's lessons is often right again half-way between them.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..checkpoint.files import shapes_of
from ..modeling_llada_v import LladaVForConditionalGeneration
from .saving import write_like


def average(sources: Sequence[str | Path], target: str | Path) -> None:
    """Write the model whose every weight is the mean of those of `sources`, with the processor of the last.

    sources: folders or hub names of two or more models of one architecture. Sums are taken in float32, one source at a
        time in memory beside them; the weights are written in the dtype of the last source.
    Raises ValueError for fewer than two sources, models that differ in shape, or a target that exists.
    """
    if len(sources) < 2:
        raise ValueError(f"found {len(sources)} models to average; name at least two")
    if Path(target).exists():
        raise ValueError(f"{target} exists; name a folder to make")
    mean = LladaVForConditionalGeneration.from_pretrained(sources[-1], dtype=torch.float32)
    total = mean.state_dict()  # the model's own storage
    for source in sources[:-1]:
        model = LladaVForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
        check_shapes(sources[-1], shapes_of(mean), source, shapes_of(model))
        for name, weight in model.state_dict().items():
            total[name] += weight
    for weight in total.values():
        weight /= len(sources)
    write_like(mean, sources[-1], target)


def check_shapes(first: str | Path, ours: dict, other: str | Path, theirs: dict) -> None:
    """Raise ValueError with the first weight that two models, given as shapes by name, do not share."""
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            told = f"{name} is {ours.get(name)} in {first} and {theirs.get(name)} in {other}"
            raise ValueError(f"{told}; only equals have a mean")
