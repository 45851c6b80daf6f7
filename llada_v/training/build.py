"""The model of a recipe, ready to train: loaded, with its projector, its adapters, and what is frozen."""

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.integrations import is_deepspeed_zero3_enabled

from ..configuration_llada_v import LladaVConfig
from ..errors import MissingFile, WrongValue
from ..modeling_llada_v import LladaVForConditionalGeneration
from .adapters import add_adapters, quantization
from .muon import takes_muon
from .recipe import PARTS, Recipe

PROJECTOR = "projector.safetensors"
# The published layout numbers the layers of the projector, with GELU between them.
PUBLISHED_LAYERS = {"0.": "linear_1.", "2.": "linear_2."}


def load_model(recipe: Recipe) -> nn.Module:
    """The model that the recipe starts from, with only its `train` parts trainable.

    Weights are float32 where they are trained and saved. A frozen model that is not saved, and any under DeepSpeed,
    which keeps float32 copies of its own, is bfloat16 if the recipe computes in it.
    """
    config = LladaVConfig.from_pretrained(recipe.model)
    is_half = recipe.bf16 and (recipe.deepspeed is not None or recipe.lora_rank > 0 or recipe.trains_projector_only)
    model = LladaVForConditionalGeneration.from_pretrained(
        recipe.model,
        config=set_options(config, recipe),
        dtype=torch.bfloat16 if is_half else torch.float32,
        attn_implementation=recipe.attn_implementation,
        quantization_config=quantization(recipe),
    )
    if recipe.projector is not None:
        load_projector(model, recipe.projector)
    model = prepare(model, recipe)
    if is_half and recipe.deepspeed is None:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return model


def empty_model(recipe: Recipe, config: LladaVConfig) -> nn.Module:
    """The same model without weights, to count with."""
    with torch.device("meta"):
        return prepare(LladaVForConditionalGeneration(set_options(config, recipe)), recipe)


def set_options(config: LladaVConfig, recipe: Recipe) -> LladaVConfig:
    """The config with what the recipe says about it."""
    if recipe.rope_inv_freq is not None:
        config.text_config.rope_inv_freq = recipe.rope_inv_freq
    return config


def prepare(model: LladaVForConditionalGeneration, recipe: Recipe) -> nn.Module:
    """Freeze, adapt and compile the model as the recipe says."""
    if recipe.lora_rank:
        model = add_adapters(model.requires_grad_(False), recipe)
    else:
        freeze(model, recipe.train, recipe.style)
    if recipe.compile:
        compile_blocks(model)
    return model


def part_of(name: str) -> str:
    """The trainable part that a parameter belongs to."""
    if ".vision_tower." in name:
        return "vision_tower"
    return "projector" if ".multi_modal_projector." in name else "language_model"


def freeze(model: LladaVForConditionalGeneration, train: list[str], style: str) -> None:
    """Leave only the named parts trainable.

    What no gradient reaches stays frozen: the tower's post_layernorm is not on the way from pixels to features, and
    pictures have no newline in the style "caption".
    """
    unreached = (".post_layernorm.", "image_newline") if style == "caption" else (".post_layernorm.",)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = part_of(name) in train and not any(word in name for word in unreached)


def count_trainable(model: nn.Module) -> dict[str, int]:
    """Number of trainable parameters by part, also of those that DeepSpeed has scattered."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[part_of(name)] += getattr(parameter, "ds_numel", parameter.numel())
    return counts


def parameter_groups(model, recipe: Recipe) -> list[dict]:
    """Trainable parameters by part, each with its own rate; norms and biases are not decayed."""
    rates = {
        "vision_tower": recipe.vision_learning_rate,
        "projector": recipe.projector_learning_rate,
        "language_model": recipe.learning_rate,
    }
    groups: dict[tuple[str, bool, bool], list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = len(getattr(parameter, "ds_shape", parameter.shape)) > 1
            is_muon = recipe.optimizer == "muon" and takes_muon(name, parameter)
            groups.setdefault((part_of(name), decays, is_muon), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.learning_rate if rates[part] is None else rates[part],
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        | ({"muon": is_muon} if recipe.optimizer == "muon" else {})
        for (part, decays, is_muon), parameters in groups.items()
    ]


def compile_blocks(model: nn.Module) -> None:
    """Compile the transformer blocks of trunk and tower one by one: all blocks of a kind share one graph."""
    for module in model.modules():
        if type(module).__name__ in LladaVForConditionalGeneration._no_split_modules:
            module.compile()


def gathered(parameters: Iterable[nn.Parameter], is_written: bool = False):
    """A context in which parameters that ZeRO-3 has scattered are whole; all processes must enter it.

    is_written: what the first process changes in it reaches the others.
    """
    if not is_deepspeed_zero3_enabled():
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0 if is_written else None)


def projector_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The projector's weights on the CPU, by their names in the whole model."""
    named = {name: parameter for name, parameter in model.named_parameters() if part_of(name) == "projector"}
    with gathered(named.values()):
        return {name: whole(parameter.detach()).cpu().clone() for name, parameter in named.items()}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that FSDP may have scattered, as a whole; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def save_projector(state: dict[str, torch.Tensor], folder: str | Path) -> None:
    """Write the weights of `projector_state` into a folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(state, Path(folder) / PROJECTOR, metadata={"format": "pt"})


def load_projector(model: nn.Module, source: str | Path) -> None:
    """Put the projector of an earlier stage into the model.

    source: output of a projector stage, a .safetensors file, or the published `mm_projector.bin`.
    Raises FileNotFoundError where there is none, ValueError for weights that are unknown, missing or of other shapes.
    """
    file = Path(source) / PROJECTOR if Path(source).is_dir() else Path(source)
    if not file.is_file():
        raise MissingFile(f"no projector at {file}; train one first with scripts/llada_v_pretrain.sh")
    found = torch.load(file, map_location="cpu", weights_only=True) if file.suffix == ".bin" else load_file(file)
    found = {projector_name(name): weight for name, weight in found.items()}
    named = {name: parameter for name, parameter in model.named_parameters() if part_of(name) == "projector"}
    with gathered(named.values(), is_written=True):
        theirs = {name: tuple(weight.shape) for name, weight in found.items()}
        ours = {name: tuple(getattr(weight, "ds_shape", weight.shape)) for name, weight in named.items()}
        if theirs != ours:
            raise WrongValue(f"{file} does not fit the model's projector: it has {theirs}, the model has {ours}")
        with torch.no_grad():
            for name, weight in found.items():
                if named[name].shape == weight.shape:  # under ZeRO-3 the first process alone holds it whole
                    named[name].copy_(weight)


def projector_name(name: str) -> str:
    """Our name of a projector weight that may have its published one."""
    last = name.rpartition("mm_projector." if "mm_projector." in name else "multi_modal_projector.")[2]
    for number, layer in PUBLISHED_LAYERS.items():
        if last.startswith(number):
            last = layer + last.removeprefix(number)
    return f"model.multi_modal_projector.{last}"
