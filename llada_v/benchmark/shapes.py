"""The models that are measured without a checkpoint, and what is asked of them.

`tiny` is the model that ships. `small`, `mid` and `8b` have random weights, made on the device they run on: their speed
is that of trained weights of the same sizes, their confidence is not, so a rule that waits for confidence says nothing
there.
"""

import sys
from dataclasses import dataclass
from typing import Any

import torch

from ..configuration_llada_v import LladaVConfig
from ..errors import WrongValue
from ..modeling_llada_v import LladaVForConditionalGeneration
from .memory import GIB, free_memory

HEADROOM = 1.15  # of the weights' bytes: activations, the cache, the picture


@dataclass(frozen=True)
class Shape:
    """A size of model and of prompt.

    config: arguments of `LladaVConfig`; None: not made here, weights that ship.
    prompt_length: tokens; picture: (height, width) in pixels. None for questions of the small world.
    gen_length, steps: of the plain sampler; None: the model's own, and one token a step.
    """

    config: dict | None = None
    prompt_length: int | None = None
    picture: tuple[int, int] | None = None
    gen_length: int | None = None
    steps: int | None = None


# In a vocabulary of 1,024.
SPECIAL: tuple[str, ...] = ("image_token_id", "mask_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
SPECIAL += ("start_header_id", "end_header_id", "eot_token_id")

LONG_PROMPT: dict[str, Any] = dict(prompt_length=3687, picture=(768, 1024))  # 3,627 of the tokens are features
SHAPES = {
    "tiny": Shape(),
    # So small that everything that is measured can be rehearsed on a CPU.
    "small": Shape(
        config=dict(
            text_config=dict(
                vocab_size=1024, hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4
            ),
            vision_config=dict(
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=56,
            ),
            **dict(zip(SPECIAL, range(1016, 1024), strict=True)),
        ),
        prompt_length=160,
        picture=(112, 112),
        gen_length=32,
        steps=8,
    ),
    # The tower runs once an answer and is not what is measured.
    "mid": Shape(
        config=dict(
            text_config=dict(hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8),
            vision_config=dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4),
        ),
        gen_length=32,
        steps=4,
        **LONG_PROMPT,
    ),
    "8b": Shape(config={}, gen_length=128, **LONG_PROMPT),
}


def build(name: str, device: torch.device, dtype: torch.dtype, seed: int = 0) -> LladaVForConditionalGeneration:
    """The model of a shape with random weights, made on the device. Says on stderr how large it is.

    Raises ValueError where the device has too little free memory for it.
    """
    return random_model(LladaVConfig(**SHAPES[name].config), f"shape {name}", device, dtype, seed)


def random_model(
    config: LladaVConfig, name: str, device: torch.device, dtype: torch.dtype, seed: int = 0, copies: int = 1
) -> LladaVForConditionalGeneration:
    """A model with random weights, see `build`. copies: of its weights that will be there; 4 where AdamW trains."""
    with torch.device("meta"):
        count = sum(weight.numel() for weight in LladaVForConditionalGeneration(config).parameters())
    needed = count * dtype.itemsize * copies
    room = needed * HEADROOM
    free = free_memory(device)
    size = f"{name}: {count / 1e9:.2f} billion random weights in {str(dtype).removeprefix('torch.')}"
    if free is not None and room > free:
        smaller = "" if dtype.itemsize == 2 else f", or --dtype bfloat16, which needs {room / 2 / GIB:.1f}"
        raise WrongValue(
            f"{size} and room to run need {room / GIB:.1f} GiB, but {device} has {free / GIB:.1f} GiB free; "
            f"use another machine, a smaller shape{smaller}"
        )
    print(f"{size}, {needed / GIB:.1f} GiB on {device}", file=sys.stderr)
    torch.manual_seed(seed)
    with torch.device(device):
        model = LladaVForConditionalGeneration._from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False)
