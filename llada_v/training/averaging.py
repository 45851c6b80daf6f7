"""The mean of the weights of models that were trained from one another (model soups, arXiv 2203.05482).

What two stages forgot of each other's lessons is often right again half-way between them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

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
    total: dict[str, torch.Tensor] = {}
    for source in sources:
        model = LladaVForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
        weights = model.state_dict()
        if total:
            check_shapes(sources[0], total, source, weights)
        for name, weight in weights.items():
            total[name] = total[name] + weight if name in total else weight.clone()
    model.load_state_dict({name: weight / len(sources) for name, weight in total.items()})
    write_like(model, sources[-1], target)


def check_shapes(first: str | Path, ours: dict, other: str | Path, theirs: dict) -> None:
    """Raise ValueError with the first weight that two models do not share."""
    for name in sorted(ours.keys() | theirs.keys()):
        shapes = [tuple(weights[name].shape) if name in weights else None for weights in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{name} is {shapes[0]} in {first} and {shapes[1]} in {other}; only equals have a mean")


def main(argv: list[str]) -> None:
    """`llada-v average DST SRC SRC ...`."""
    parser = argparse.ArgumentParser(
        prog="llada-v average", description="write the mean of several models' weights", allow_abbrev=False
    )
    parser.add_argument("target", metavar="DST", help="folder to make")
    parser.add_argument("sources", metavar="SRC", nargs="+", help="models, the last of which gives the processor")
    args = parser.parse_args(argv)
    average(args.sources, args.target)
    print(f"{args.target}: the mean of {len(args.sources)} models")
