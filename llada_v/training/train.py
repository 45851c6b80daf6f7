"""The training entry point: read the recipe, build, freeze, train, save. `python -m llada_v train RECIPE`."""

import logging
import os
from pathlib import Path

from transformers.trainer_utils import set_seed

from ..modeling_llada_v import LladaVForConditionalGeneration
from ..processing_llada_v import LladaVProcessor
from .collate import Collator
from .recipe import Recipe, load_recipe
from .records import RecordDataset
from .trainer import LladaVTrainer, freeze, training_arguments

log = logging.getLogger(__name__)


def main(argv: list[str]) -> None:
    """Train the recipe named first, with `--key value` overrides behind it."""
    if not argv or argv[0].startswith("-"):
        raise ValueError("usage: train RECIPE.yaml [--key value ...]")
    words = argv[1:]
    if len(words) % 2 or not all(word.startswith("--") for word in words[::2]):
        raise ValueError(f"overrides are pairs '--key value'; found {' '.join(words)}")
    train(load_recipe(argv[0], dict(zip((word[2:] for word in words[::2]), words[1::2], strict=True))))


def train(recipe: Recipe) -> Path:
    """Run one stage to its end, from the newest whole checkpoint if there is one; returns the finished folder."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    set_seed(recipe.seed)
    processor = LladaVProcessor.from_pretrained(recipe.model)
    model = LladaVForConditionalGeneration.from_pretrained(
        recipe.model, dtype="float32", attn_implementation=recipe.attn_implementation
    )
    for part, count in freeze(model, recipe.train, recipe.style).items():
        log.info("%-15s %s", part, f"{count:,} trainable parameters" if count else "frozen")
    dataset = RecordDataset(recipe, processor)
    if len(dataset) < recipe.global_batch_size:
        raise ValueError(
            f"{recipe.data} has {len(dataset)} records, fewer than global_batch_size {recipe.global_batch_size}; "
            "lower global_batch_size"
        )
    arguments = training_arguments(recipe, num_devices=int(os.environ.get("WORLD_SIZE", 1)))
    trainer = LladaVTrainer(
        recipe,
        model,
        dataset,
        args=arguments,
        data_collator=Collator(processor.config.pad_token_id, recipe.train_eos_padding, recipe.pad_to_multiple_of),
        processing_class=processor,
    )
    output = Path(recipe.output)
    if trainer.is_world_process_zero():
        output.mkdir(parents=True, exist_ok=True)
        recipe.save(output / "recipe.yaml")
    trainer.train(resume_from_checkpoint=newest_checkpoint(output))
    trainer.save_model(str(output))
    return output


def newest_checkpoint(output: Path) -> str | None:
    """The checkpoint with the highest step that was written to its end; the trainer's state is written last."""
    whole = [folder for folder in output.glob("checkpoint-*") if (folder / "trainer_state.json").is_file()]
    whole.sort(key=lambda folder: int(folder.name.rpartition("-")[2]))
    return str(whole[-1]) if whole else None
