"""One stage from its recipe to the finished folder: build, train, save."""

import logging
import os
from pathlib import Path

import torch
import transformers
from transformers.trainer_utils import set_seed

from ..processing_llada_v import LladaVProcessor
from .build import count_trainable, load_model
from .collate import Collator
from .recipe import Recipe
from .records import RecordDataset
from .saving import check_output, check_space, newest_checkpoint, write_origin
from .trainer import LladaVTrainer, training_arguments

log = logging.getLogger(__name__)


class Stopped(SystemExit):
    """The run was asked to stop, has saved, and is not finished: the exit status that a shell gives to SIGTERM."""

    code = 143


def num_devices() -> int:
    """Processes of this run, one a device."""
    return int(os.environ.get("WORLD_SIZE", 1))


def train(recipe: Recipe) -> Path:
    """Run one stage to its end, from the newest whole checkpoint if there is one; returns the finished folder.

    Raises Stopped where a SIGTERM came before the end, after a checkpoint of the step that it came in.
    """
    is_first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_first else logging.WARNING, format="%(message)s")
    transformers.utils.logging.disable_progress_bar()
    check_output(recipe)
    arguments = training_arguments(recipe, num_devices())
    set_seed(recipe.seed)
    processor = LladaVProcessor.from_pretrained(recipe.model)
    model = load_model(recipe)
    for part, count in count_trainable(model).items():
        log.info("%-15s %s", part, f"{count:,} trainable parameters" if count else "frozen")
    dataset = RecordDataset(recipe, processor)
    if len(dataset) < recipe.global_batch_size:
        raise ValueError(
            f"{recipe.data} has {len(dataset)} records, fewer than global_batch_size {recipe.global_batch_size}; "
            "lower global_batch_size"
        )
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
        write_origin(recipe, num_devices())
        check_space(output, trainer.checkpoint_bytes())
    newest = newest_checkpoint(output)
    if newest is not None:
        log.info("going on from %s", newest)
    with trainer.stop:
        trainer.train(resume_from_checkpoint=newest)
    if trainer.stop.has_stopped:
        log.info("stopped after step %d, saved; the same command goes on from there", trainer.state.global_step)
        leave_group()
        raise Stopped
    trainer.finish()
    leave_group()
    return output


def leave_group() -> None:
    """End the processes' group, if there is one: without this they leave with a warning."""
    if torch.distributed.is_initialized() and num_devices() > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
