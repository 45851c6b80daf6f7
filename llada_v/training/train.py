"""One stage from its recipe to the finished folder: build, train, save."""

import logging
import os
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.trainer_utils import set_seed

from ..errors import WrongValue
from ..processing_llada_v import LladaVProcessor
from .account import Account, MemoryTaken, most_of_all
from .build import count_trainable, load_model
from .output import check_data, check_output, check_shared, held, log_file, write_origin
from .plan import check_settings
from .recipe import Recipe
from .records import Collator, RecordDataset
from .saving import check_space, disk_errors
from .stop import Stopped, StopPolitely
from .trainer import LladaVTrainer, training_arguments

log = logging.getLogger(__name__)


def num_devices() -> int:
    """Processes of this run, one a device."""
    return int(os.environ.get("WORLD_SIZE", 1))


def train(recipe: Recipe) -> Path:
    """Run one stage to its end, from the newest whole checkpoint if there is one; returns the finished folder.

    What needs no device comes first: settings, records and their lengths. Raises Stopped where a stop was asked for
    before the end, after a checkpoint of the step that it came in; `run.json` in the output tells it from the end.
    """
    rank, output = int(os.environ.get("RANK", 0)), recipe.output
    logging.basicConfig(level=logging.WARNING if rank else logging.INFO, format="%(message)s")
    transformers.utils.logging.disable_progress_bar()
    check_settings(recipe, num_devices())
    check_output(recipe)
    holding = nullcontext() if rank else held(output)
    with StopPolitely(recipe.save_minutes) as stop, holding, log_file(output, rank), disk_errors(output):
        processor = LladaVProcessor.from_pretrained(recipe.model)
        dataset = RecordDataset(recipe, processor)
        if len(dataset) < recipe.global_batch_size:
            raise WrongValue(
                f"{recipe.data} has {len(dataset)} records, fewer than global_batch_size {recipe.global_batch_size}; "
                "lower global_batch_size"
            )
        if not rank:
            check_data(recipe, dataset.records.index)
        longest = int(np.max(dataset.measures()[0])) if recipe.group_by_length else None
        held_out = held_out_records(recipe, processor)
        if num_devices() > 1:
            stop.wait_for_steps()
        trainer, memory = make_trainer(recipe, processor, dataset, held_out, stop)
        if not rank:
            write_origin(recipe, num_devices())
            account = Account(recipe, num_devices(), longest)
            account.tell()
            check_space(output, trainer.checkpoint_bytes())
        newest = trainer.newest_checkpoint()
        if newest is not None:
            log.info("going on from %s", newest)
        try:
            trainer.train(resume_from_checkpoint=newest)
            trainer.wait_for_state()
            if not stop.has_stopped:
                trainer.finish()
            taken = most_of_all((memory.most(), *trainer.largest), trainer.args.device)
            if not rank:
                account.settle(*taken)
        except Exception as error:
            with suppress(OSError):  # the disk may be what failed
                trainer.note("failed", f"{type(error).__name__}: {error}")
            raise
        trainer.note("stopped" if stop.has_stopped else "finished", stop.why or trainer.ended)
        if trainer.ended is not None:
            log.info("%s: ended after step %d", trainer.ended, trainer.state.global_step)
        if stop.has_stopped:
            log.info(
                "%s: stopped after step %d of %d, saved; the same command goes on from there",
                stop.why,
                trainer.state.global_step,
                trainer.state.max_steps,
            )
        leave_group()
        trainer.after_save.wait()
    if stop.has_stopped:
        raise Stopped
    return Path(output)


def held_out_records(recipe: Recipe, processor: LladaVProcessor) -> RecordDataset | None:
    """The records to measure the loss on, if there are any, with their lengths. Raises ValueError for a single one."""
    if recipe.eval_data is None:
        return None
    records = RecordDataset(replace(recipe, data=recipe.eval_data, on_bad_record="stop"), processor)
    if len(records) < 2:
        raise WrongValue(f"{recipe.eval_data} has {len(records)} records; a mean and its error need at least 2")
    records.measures()
    return records


def make_trainer(
    recipe: Recipe,
    processor: LladaVProcessor,
    dataset: RecordDataset,
    held_out: RecordDataset | None,
    stop: StopPolitely,
) -> tuple[LladaVTrainer, MemoryTaken]:
    """Join the other processes, load the model, and bring all together; also what memory is taken from there on."""
    arguments = training_arguments(recipe, num_devices())
    check_shared(recipe.output)
    memory = MemoryTaken(arguments.device)
    set_seed(recipe.seed)
    model = load_model(recipe)
    for part, count in count_trainable(model).items():
        log.info("%-15s %s", part, f"{count:,} trainable parameters" if count else "frozen")
    trainer = LladaVTrainer(
        recipe,
        model,
        dataset,
        stop,
        eval_dataset=held_out,
        args=arguments,
        data_collator=Collator(processor.config.pad_token_id, recipe.train_eos_padding, recipe.pad_to_multiple_of),
        processing_class=processor,
    )
    return trainer, memory


def leave_group() -> None:
    """End the processes' group, if there is one: without this they leave with a warning."""
    if torch.distributed.is_initialized() and num_devices() > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
