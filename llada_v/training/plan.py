"""What a recipe will do on this machine, known without loading a weight: `train RECIPE --dry-run` prints it."""

from importlib.util import find_spec
from pathlib import Path

from torch import nn

from ..configuration_llada_v import LladaVConfig
from ..data.mixture import list_sources
from ..errors import NoPackage
from .build import count_trainable, empty_model, parameter_groups, part_of
from .output import check_output
from .recipe import Recipe
from .saving import newest_checkpoint
from .zero import offloads, read_deepspeed, zero_stage


def print_plan(recipe: Recipe, num_devices: int) -> None:
    """The resolved recipe, then what follows from it. Raises as the run itself would, except for what is not here."""
    settings = check_settings(recipe, num_devices)
    check_output(recipe)
    accumulation = recipe.accumulation(num_devices)
    config, where = config_of(recipe)
    model = empty_model(recipe, config)
    print(recipe.as_yaml())
    total = sum(parameter.numel() for parameter in model.parameters())
    print(f"model        {recipe.model} ({where}): {total:,} parameters")
    rates = {part_of_group(model, group): group["lr"] for group in parameter_groups(model, recipe)}
    for part, count in count_trainable(model).items():
        print(f"  {part:15}" + (f"{count:,} trainable, learning rate {rates[part]:g}" if count else "frozen"))
    print(f"data         {data_of(recipe)}")
    print(
        f"batch        {recipe.global_batch_size} records = {num_devices} devices x {recipe.micro_batch_size} records "
        f"x {accumulation} forward passes"
    )
    print(f"precision    {'bfloat16' if recipe.bf16 else 'float32'}, attention {recipe.attn_implementation}")
    place = "in main memory" if offloads(settings) else "on the device"
    sharding = "none" if settings is None else f"ZeRO-{zero_stage(settings)}, optimizer {place} ({recipe.deepspeed})"
    if recipe.fsdp:
        sharding = "FSDP2" if num_devices > 1 else "none, FSDP2 on several devices"
    print(f"sharding     {sharding}")
    newest = newest_checkpoint(recipe.output)
    print(f"output       {recipe.output}, " + (f"goes on from {newest}" if newest else "from the beginning"))


def check_settings(recipe: Recipe, num_devices: int) -> dict | None:
    """The DeepSpeed settings of a recipe, if it has any, once nothing more is wrong with what it wants of this machine.

    Raises ValueError, FileNotFoundError or ImportError.
    """
    for package in recipe.report_to:
        if find_spec(package) is None:
            raise NoPackage(f"report_to {package} needs {package}; install it with: bash init_env.sh train")
    recipe.accumulation(num_devices)
    return None if recipe.deepspeed is None else read_deepspeed(recipe.deepspeed)


def num_moments(recipe: Recipe, model: nn.Module) -> int:
    """How many numbers the optimizer keeps: AdamW two a weight that learns, Muon one."""
    return sum(
        getattr(parameter, "ds_numel", parameter.numel()) * (1 if group.get("muon") else 2)
        for group in parameter_groups(model, recipe)
        for parameter in group["params"]
    )


def checkpoint_bytes(recipe: Recipe, total: int, trained: int, moments: int) -> int:
    """About what one checkpoint takes on disk. total, trained: numbers of parameters; moments: see `num_moments`.

    DeepSpeed keeps float32 weights beside the optimizer's moments and the model, FSDP no model.
    """
    is_sharded = recipe.deepspeed is not None
    if recipe.fsdp:
        return 4 * (trained + moments)
    saved = trained if recipe.lora_rank or recipe.trains_projector_only else total
    return 4 * moments + (4 * trained if is_sharded else 0) + saved * (2 if is_sharded and recipe.bf16 else 4)


def config_of(recipe: Recipe) -> tuple[LladaVConfig, str]:
    """The config of the recipe's model, and where it is from: the published sizes stand for a folder not here yet."""
    if (Path(recipe.model) / "config.json").is_file():
        return LladaVConfig.from_pretrained(recipe.model), "on this disk"
    return LladaVConfig(), "not here yet, the published sizes are assumed"


def part_of_group(model, group: dict) -> str:
    """The part that a group of parameters belongs to."""
    first = group["params"][0]
    return next(part_of(name) for name, parameter in model.named_parameters() if parameter is first)


def data_of(recipe: Recipe) -> str:
    """The files that the recipe reads, or what is missing."""
    try:
        sources = list_sources(recipe.data, recipe.image_root)
    except FileNotFoundError as error:
        return f"not here yet: {error}"
    return ", ".join(f"{source.file} ({source.strategy})" for source in sources)
