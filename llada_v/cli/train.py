"""Train the stage of a recipe. `bash scripts/launch.sh RECIPE` starts it on all devices."""

import argparse

from .options import add_recipe, need, recipe_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The recipe and its keys."""
    add_recipe(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and start nothing")


def run(args: argparse.Namespace) -> None:
    """Train, or print the plan."""
    recipe = recipe_of(args)
    if not args.dry_run:
        chosen = [package for package, value in (("peft", recipe.lora_rank), ("deepspeed", recipe.deepspeed)) if value]
        need("train", "accelerate", "datasets", *chosen, *recipe.report_to)

    from ..training.plan import print_plan
    from ..training.train import num_devices, train

    if args.dry_run:
        print_plan(recipe, num_devices())
    else:
        train(recipe)
