"""How much memory a device needs for a recipe: `llada-v budget RECIPE`. Nothing is loaded, no weight is made.

Weights, gradients and optimizer follow from the number of parameters. Activations are what autograd really keeps of
one block of tower and trunk, run on torch's meta device, times the number of blocks (with gradient checkpointing: the
inputs of all blocks, and one block whole). A batch is taken to be as long as the recipe allows.
"""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from transformers import SiglipVisionModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..anyres import Layout, num_features
from ..head import LOGITS_AT_ONCE
from ..modeling_llada import LladaModel, rotary_tables
from .build import empty_model, part_of
from .plan import checkpoint_bytes, config_of, num_moments
from .recipe import Recipe
from .zero import offloads, read_deepspeed, zero_stage

CAPTION = 256  # tokens taken for the text of a caption
CONTEXT = 1_000_000_000  # bytes that CUDA and its libraries take on a device before the first tensor, roughly
PREFETCH = 2  # batches that a loader's worker is ahead, torch's default
PRODUCTS = (linear, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)
ATTENTION = "budget"  # name of an attention that makes what flash attention keeps


@dataclass(frozen=True)
class Sharding:
    """What is scattered: the ZeRO stage, whether weights and optimizer live in main memory, whether torch does it."""

    name: str
    stage: int
    offload: bool = False
    is_fsdp: bool = False


SHARDINGS = (
    Sharding("none", 0),
    Sharding("ZeRO-2", 2),
    Sharding("ZeRO-3", 3),
    Sharding("ZeRO-3, offload", 3, True),
    Sharding("FSDP2", 3, is_fsdp=True),
)


def sharding_of(recipe: Recipe, settings: dict | None, num_devices: int) -> Sharding:
    """The one that a run has. settings: DeepSpeed's, if there are any."""
    if recipe.fsdp and num_devices > 1:
        return SHARDINGS[-1]
    if settings is None:
        return SHARDINGS[0]
    stage, offload = zero_stage(settings), offloads(settings)
    return Sharding(f"ZeRO-{stage}" + (", offload" if offload else ""), stage, offload)


@dataclass(frozen=True)
class Budget:
    """Bytes on one device, and in main memory for one device: what is offloaded, or a checkpoint that is written."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    working: float
    offloaded: float = 0.0

    @property
    def total(self) -> float:
        """All that lies on the device, without CUDA's own."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.working


class BudgetMaker:
    """Counts once what does not depend on the sharding; `budget` then is arithmetic.

    length: tokens of a row; None: the longest that the recipe allows, for captions one tile and a text.
    """

    model: Any  # our model, or peft's around it, which hands its attributes on

    def __init__(self, recipe: Recipe, length: int | None = None):
        self.recipe = recipe
        self.config, self.where = config_of(recipe)
        self.config._attn_implementation = "eager"
        self.model = empty_model(recipe, self.config)
        side = self.config.tile_side**2
        if length is None:
            length = min(recipe.max_length, side + CAPTION) if recipe.style == "caption" else recipe.max_length
        frame = num_features(Layout.VIDEO, 1, 1, self.config, frames=1)
        most = recipe.max_tiles or length // side
        tiles = (
            1
            if recipe.style == "caption"
            else max(1, min(most, length // side), min(recipe.max_frames, length // frame))
        )
        self.rows, self.length, self.tiles = recipe.micro_batch_size, length, tiles * recipe.micro_batch_size
        self.copies = 2 if recipe.complementary_masking else 1
        counts = [(part_of(n), p.numel(), p.requires_grad) for n, p in self.model.named_parameters()]
        self.total = sum(count for _, count, _ in counts)
        self.trained = sum(count for _, count, learns in counts if learns)
        self.moments = num_moments(recipe, self.model)
        self.head = block_size(self.model.lm_head)
        self.block = max(block_size(self.trunk.layers[0]), self.head)

    @property
    def trunk(self) -> LladaModel:
        """The language model's trunk, adapted or not."""
        return self.model.model.language_model if self.recipe.lora_rank == 0 else self.model.model.model.language_model

    @property
    def tower(self) -> SiglipVisionModel:
        """The vision tower, adapted or not."""
        return self.model.model.vision_tower if self.recipe.lora_rank == 0 else self.model.model.model.vision_tower

    def budget(self, sharding: Sharding, num_devices: int) -> Budget:
        """The budget under a sharding over a number of devices."""
        recipe, sharded = self.recipe, sharding.stage > 0
        weight_bytes, gradient_bytes, optimizer_bytes = self.bytes_per_weight(sharded and not sharding.is_fsdp)
        share = {stage: 1 / num_devices if sharding.stage >= stage else 1.0 for stage in (1, 2, 3)}
        weights = weight_bytes * share[3]
        gradients = gradient_bytes * share[2]
        optimizer = optimizer_bytes * share[1]
        is_half = sharded and recipe.bf16
        activations, working = self.activations(is_half)
        element = 2 if is_half else 4
        if sharding.is_fsdp:
            # Two blocks and the head are whole at a time, and the gradients of one.
            working += (2 * self.block + self.head) * element + self.block * (element + 4)
            return Budget(weights, gradients, optimizer, activations, working, 12 * self.trained / num_devices)
        if sharding.stage == 0 and num_devices > 1:
            working += gradient_bytes  # DDP's buckets
        elif sharding.stage == 2:
            working += (2 + 1) * 200_000_000 * element if num_devices > 1 else 0
        elif sharding.stage == 3:
            working += min(self.total, 1_000_000_000) * element if num_devices > 1 or sharding.offload else 0
        if not sharding.offload:
            return Budget(weights, gradients, optimizer, activations, working)
        if sharding.stage < 3:
            return Budget(weights, gradients, 0, activations, working, optimizer)
        return Budget(0, 0, 0, activations, working + 2 * self.block * element, weights + gradients + optimizer)

    def shared_bytes(self) -> int:
        """Bytes of the batches that the loader's workers of one device hold ready for it, pictures as float32."""
        tile = 4 * 3 * self.config.tile_size**2
        return self.recipe.workers * PREFETCH * (self.tiles * tile + 3 * 8 * self.rows * self.length)

    def bytes_per_weight(self, sharded: bool) -> tuple[float, float, float]:
        """Bytes of weights, gradients and optimizer before anything is scattered (see `load_model` for the dtypes)."""
        recipe = self.recipe
        frozen = self.total - self.trained
        if sharded:
            element = 2 if recipe.bf16 else 4
            return element * self.total, element * self.trained, (12 if recipe.bf16 else 8) * self.trained
        is_half = recipe.bf16 and (recipe.lora_rank > 0 or recipe.trains_projector_only)
        frozen_bytes: float = (2 if is_half else 4) * frozen
        if recipe.quantize:
            quantized = sum(
                p.numel() for name, p in self.trunk.named_parameters() if "_proj" in name and "lora" not in name
            )
            frozen_bytes = 2 * (frozen - quantized) + 0.52 * quantized  # 4 bits, and scales that are quantized too
        return frozen_bytes + 4 * self.trained, 4 * self.trained, 4 * self.moments

    def activations(self, is_half: bool) -> tuple[float, float]:
        """(kept for the backward pass, held for a moment in it), with all weights in bfloat16 or not."""
        recipe, text = self.recipe, self.config.text_config
        adapter_only = recipe.lora_rank > 0 or recipe.trains_projector_only
        stream = torch.bfloat16 if is_half or recipe.bf16 and adapter_only else torch.float32
        casts = recipe.bf16 and not is_half
        rows = self.rows * self.copies
        with torch.device("meta"):
            hidden = torch.empty(rows, self.length, text.hidden_size, dtype=stream, requires_grad=True)
            rotary = rotary_tables(text, torch.arange(self.length)[None], stream)
            states = torch.empty(
                self.tiles, self.config.tile_side**2, self.config.vision_config.hidden_size, dtype=stream
            ).requires_grad_("vision_tower" in recipe.train)
        trunk = kept(self.trunk.layers[0], stream, casts, recipe, hidden, rotary, None)
        tower = kept(self.tower.encoder.layers[0], stream, casts, recipe, states, None)
        if "vision_tower" not in recipe.train:
            tower = 0
        inputs = nbytes(hidden), nbytes(states) if tower else 0
        layers = text.num_hidden_layers, self.config.vision_config.num_hidden_layers
        if recipe.gradient_checkpointing:
            total = layers[0] * inputs[0] + layers[1] * inputs[1] + max(trunk, tower)
        else:
            total = layers[0] * trunk + layers[1] * tower
        if recipe.hides_turns:
            total += rows * self.length**2
        compute = 2 if recipe.bf16 else 4
        # Gradients inside one MLP; the logits of one chunk with their gradient; the head's gradient.
        mlp = 3 * rows * self.length * text.intermediate_size * compute
        logits = min(LOGITS_AT_ONCE, rows * self.length * text.vocab_size) * (4 + 2 * compute)
        if "language_model" in recipe.train and not recipe.lora_rank:
            logits += 4 * text.hidden_size * text.vocab_size
        if casts and not adapter_only:
            total += 2 * self.total  # autocast's copies of the weights
        return total, mlp + logits


def block_size(module: nn.Module) -> int:
    """Number of a module's weights."""
    return sum(parameter.numel() for parameter in module.parameters())


def nbytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor."""
    return tensor.numel() * tensor.element_size()


def kept(block: nn.Module, stream: torch.dtype, casts: bool, recipe: Recipe, *inputs) -> float:
    """Bytes that autograd keeps of a forward pass of a block, without its weights and its input.

    stream: dtype of weights that are frozen or not cast. casts: products are in bfloat16 under autocast.
    """
    twin: Any = copy.deepcopy(block).to(stream).train()
    twin.gradient_checkpointing = False
    for module in twin.modules():
        if hasattr(module, "config") and recipe.attn_implementation != "eager":
            module.config = copy.copy(module.config)
            module.config._attn_implementation = ATTENTION
    own = {id(tensor.untyped_storage()) for tensor in (*twin.parameters(), *inputs) if isinstance(tensor, torch.Tensor)}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if id(storage) not in own:
            found[id(storage)] = storage  # kept alive: an id means nothing after its object
        return tensor

    with ExitStack() as stack:
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        if casts:
            stack.enter_context(CastProducts())
        twin(*inputs)
    return float(sum(storage.nbytes() for storage in found.values()))


class CastProducts(TorchFunctionMode):
    """What autocast does to the products of a block; autocast itself knows no meta device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in PRODUCTS:
            args = [tensor if tensor is None else tensor.bfloat16() for tensor in args]
        return function(*args, **(kwargs or {}))


class KeptByFlash(torch.autograd.Function):
    """Keeps what flash attention keeps: queries, keys, values, output, and one float32 a row."""

    @staticmethod
    def forward(ctx, query, key, value):
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx, grad):
        raise AssertionError("only its memory is looked at")


def flash_like(module, query, key, value, attention_mask, **kwargs):
    """An attention in the form of transformers' interface that keeps what flash attention keeps."""
    dtype = torch.promote_types(value.dtype, torch.bfloat16) if value.dtype == query.dtype else torch.bfloat16
    mixed = KeptByFlash.apply(query.to(dtype), key.to(dtype), value.to(dtype))
    return mixed.transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, flash_like)


def print_budget(recipe: Recipe, length: int | None, gpus: Sequence[int]) -> None:
    """Print the budget of every sharding and number of devices as a table.

    length: tokens of a row; None: the longest that the recipe allows.
    """
    if recipe.deepspeed is not None:
        read_deepspeed(recipe.deepspeed)
    maker = BudgetMaker(recipe, length)
    print(
        f"{recipe.model} ({maker.where}): {maker.total:,} parameters, {maker.trained:,} trained; "
        f"{maker.rows} rows of {maker.length:,} tokens with {maker.tiles} tiles a forward pass"
    )
    one = checkpoint_bytes(recipe, maker.total, maker.trained, maker.moments) / 1e9
    kept, shared = recipe.save_total, maker.shared_bytes() / 1e9
    print(f"disk: {one:.1f} GB a checkpoint, {(kept + 1) * one:.1f} GB for {kept} and the one that is being written")
    ahead = f"{recipe.workers} workers that are {PREFETCH} batches ahead"
    print(f"shared memory (/dev/shm): {shared:.2f} GB a device, for {ahead}")
    print("\nGB on each device (and in main memory for it), with about 1 GB for CUDA itself\n")
    print("| sharding | devices | weights | gradients | optimizer | activations | working | total | main memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    for sharding in SHARDINGS:
        if recipe.quantize and sharding.stage:
            continue
        for devices in gpus:
            if sharding.is_fsdp and devices == 1:
                continue  # nothing is scattered then
            found = maker.budget(sharding, devices)
            numbers = (found.weights, found.gradients, found.optimizer, found.activations, found.working)
            cells = [f"{number / 1e9:.1f}" for number in (*numbers, found.total + CONTEXT, found.offloaded)]
            print(f"| {sharding.name} | {devices} | " + " | ".join(cells) + " |")
