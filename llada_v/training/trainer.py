"""A `transformers.Trainer` for the diffusion objective: noise, loss, learning rates per part, whole checkpoints.

Everything else (loop, precision, clipping, DeepSpeed, resume) is transformers'.
"""

import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import SCHEDULER_NAME

from ..configuration_llada_v import IGNORE
from ..data.measure import MODALITIES
from ..errors import WrongValue
from ..machine import peak_rate
from ..processes import calm_worker
from ..processing_llada_v import LladaVProcessor
from .after_save import AfterSave
from .build import load_projector, parameter_groups, projector_state, save_projector
from .dialogue import conversation_ids, dialogue_causal_mask, turn_positions, turns_apart_mask
from .eyes import Eyes
from .fsdp import StateWriter, fsdp_arguments, load_state, precision
from .history import best_measurement, without_gain
from .merging import average
from .muon import MuonAndAdamW
from .noise import HELD_OUT, Draw, Noised, add_noise, complement, draw_noise, token_weights
from .order import GroupedSampler, ShuffledSampler
from .output import note_run
from .packing import PackedRecords, Packer, PackLoader, PackSampler, pack
from .plan import check_settings, checkpoint_bytes, num_moments, part_of_group
from .progress import Meter, PartNorms, ProgressLines, Work, memory_gib, training_flops
from .recipe import Recipe
from .records import RecordDataset
from .saving import (
    BEST,
    WRITING,
    clear_writing,
    newest_checkpoint,
    publish_beside,
    publish_checkpoint,
    publish_model,
    whole_checkpoint,
)
from .schedule import rate_share
from .stop import StopPolitely
from .zero import forget_gathered, gather, join_deepspeed, offloads, scattered_over

log = logging.getLogger(__name__)

KILLED_WORKER = "DataLoader worker (pid"  # how torch's message begins; errors of records begin otherwise


class LladaVTrainer(Trainer):
    """Trains one stage of a recipe."""

    # More exact than what transformers' own class says of them.
    model: Any  # our model, or peft's around it, which hands its attributes on
    processing_class: LladaVProcessor
    train_dataset: RecordDataset
    eval_dataset: RecordDataset | None

    def __init__(self, recipe: Recipe, model, train_dataset, stop: StopPolitely | None = None, **kwargs):
        self.recipe = recipe
        self.output = Path(recipe.output)
        self.writing: Path | None = None  # where a checkpoint goes until it is whole
        self.gathered: str | None = None  # the checkpoint that was rewritten for this number of processes
        super().__init__(model=model, train_dataset=train_dataset, **kwargs)
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = precision(recipe.bf16)
        self.state_writer = StateWriter() if recipe.fsdp else None
        self.model_accepts_loss_kwargs = False  # the loss is a mean over rows already: accumulation averages it
        self.micro_step = (-1, 0)  # optimizer step, forward pass within it
        self.meter = Meter(self.args.device)
        self.peak_flops = None if recipe.peak_tflops is None else 1e12 * recipe.peak_tflops
        self.stop = stop or StopPolitely()
        self.add_callback(self.stop)
        self.remove_callback(PrinterCallback)
        self.add_callback(ProgressLines(self.meter, self.eval_dataset is not None))
        self.eyes = Eyes(recipe, self.processing_class, self.eval_dataset, self.compute_loss_context_manager)
        self.eyes.writers = self.callback_handler.callbacks
        self.add_callback(self.eyes)
        self.after_save = AfterSave(recipe.on_save, self.output)
        self.part_norms = PartNorms()
        self.add_callback(self.part_norms)
        self.largest = [0, 0, 0]  # most rows, tokens in a row, and tiles of a forward pass in training
        self.ended: str | None = None  # why no more steps are taken though some were planned
        tokenizer = self.processing_class.tokenizer
        self.assistant_id = tokenizer.encode("assistant", add_special_tokens=False)[0]

    # The loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The diffusion loss of a batch, with the noise of its place in the run."""
        inputs = dict(inputs)
        places, of_records = inputs.pop("places", None), inputs.pop("of_records", None)
        rows, length = inputs["input_ids"].shape
        draw = self.draw(rows, length, places)
        outputs = self.noised_outputs(model, inputs, draw, of_records)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        """transformers' step, on one batch after the other where those of an optimizer step come together, as rows that
        hold several records do."""
        if not self.recipe.pack_length:
            return super().training_step(model, inputs, num_items_in_batch)
        loss = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(inputs):
            is_last = number == len(inputs) - 1
            self.accelerator.gradient_state._set_sync_gradients(is_last)
            waits = is_last or self.is_deepspeed_enabled or self.is_fsdp_enabled
            with nullcontext() if waits else self.accelerator.no_sync(model):
                loss += super().training_step(model, batch)
        return loss

    def noised_outputs(self, model, inputs, draw: Draw, of_records: int | None = None):
        """The model on a noised batch: its loss, head and cross entropy at the masked positions alone, in chunks.

        of_records: how many records the optimizer step has, where the batch's go into one row and other rows hold more
            or fewer; the loss then is the batch's part of the step's, times the number of processes.
        """
        inputs = dict(inputs)
        labels, input_ids = inputs.pop("labels"), inputs.pop("input_ids")
        recipe, config = self.recipe, self.model.config
        rows, length = input_ids.shape
        lengths = inputs["attention_mask"].sum(1) if "attention_mask" in inputs else torch.tensor([length] * rows)
        if recipe.hides_turns:
            turns = conversation_ids(labels, config.start_header_id, config.eot_token_id, self.assistant_id)
            if recipe.turns_apart:
                is_picture = input_ids == config.image_token_id
                mask = turns_apart_mask(turns, is_picture, inputs.get("attention_mask"))
                if recipe.turn_canvas:
                    inputs["position_ids"] = turn_positions(turns, is_picture)
            else:
                mask = dialogue_causal_mask(turns, inputs.get("attention_mask"))
            inputs["attention_mask"] = mask
        noised = add_noise(input_ids, labels, config.mask_token_id, draw)
        if recipe.complementary_masking:
            opposite = add_noise(input_ids, labels, config.mask_token_id, complement(draw, recipe.t_min))
            noised = Noised(*(torch.cat(pair) for pair in zip(noised, opposite, strict=True)))
            labels, inputs["copies"] = labels.repeat(2, 1), 2
            if "attention_mask" in inputs:
                inputs["attention_mask"] = torch.cat((inputs["attention_mask"],) * 2)
            if "position_ids" in inputs:
                inputs["position_ids"] = torch.cat((inputs["position_ids"],) * 2)
        targets = labels[noised.is_masked]
        if model.training:
            self.count(lengths, length, len(targets), (labels != IGNORE).sum(), inputs)
        if "pixel_values" not in inputs:
            # On every device the same modules run: a batch without pictures would leave the others waiting.
            side = config.tile_size
            inputs["idle_tiles"] = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=input_ids.device)
        inputs |= {"input_ids": noised.input_ids, "logits_at": noised.is_masked}
        weights = token_weights(labels, noised.is_masked, noised.p_mask)
        if of_records is not None:
            weights, inputs = weights * (rows * self.args.world_size / of_records), pack(inputs)
        return model(targets=targets, weights=weights, **inputs)

    def draw(self, num_rows: int, length: int, places: torch.Tensor | None = None) -> Draw:
        """The random numbers of the next micro-batch: those of its rows' places in the step's global batch."""
        recipe, step = self.recipe, self.state.global_step
        self.micro_step = (step, self.micro_step[1] + 1) if self.micro_step[0] == step else (step, 0)
        first = (self.micro_step[1] * self.args.world_size + self.args.process_index) * recipe.micro_batch_size
        rows = range(first, first + num_rows) if places is None else places.tolist()
        return draw_noise(recipe.seed, step, rows, recipe.global_batch_size, length, recipe.t_min, recipe.antithetic_t)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """The loss on the held-out records, one at a time; logged by modality and level of noise.

        Each has the same noise at every measurement, and together their levels cover the range evenly. `eval_error` is
        the standard error of the mean. All processes take their share, and as many records each.
        """
        start, args, records = time.perf_counter(), self.args, self.eval_dataset
        self.model.eval()
        losses = []
        for first in range(0, len(records), args.world_size):
            number = min(first + args.process_index, len(records) - 1)
            inputs = self._prepare_inputs(self.data_collator([records[number]]))
            noise = self.held_out_noise([number], inputs["input_ids"].shape[1])
            with torch.no_grad(), self.compute_loss_context_manager():
                losses.append(self.noised_outputs(self.model, inputs, noise).loss.float())
        self.model.train()
        # (processes, rounds): the records in their order, the last one again where the last round was not full
        losses = self.accelerator.gather(torch.stack(losses)[None]).T.flatten()[: len(records)].double().cpu()
        levels = (10 * self.held_out_noise(range(len(records)), 1).t).int().clamp_max(9)
        metrics = {"eval_loss": losses.mean().item(), "eval_error": (losses.std() / len(losses) ** 0.5).item()}
        modalities = torch.from_numpy(np.array(records.measures()[1]))
        for number, name in enumerate(MODALITIES):
            found = losses[modalities == number]
            metrics |= mean_of(found, f"eval_loss/{name}")
            if len(found) > 1:
                metrics[f"eval_error/{name}"] = (found.std() / len(found) ** 0.5).item()
        for level in range(10):
            metrics |= mean_of(losses[levels == level], f"eval_noise/{level / 10:.1f}")
        self.log(metrics)
        if self.recipe.keep_best and best_measurement(self.state.log_history)[0] == self.state.global_step:
            self.save_beside(BEST)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        self.control = self.end_early(self.control)
        seconds = time.perf_counter() - start
        self.meter.start += seconds
        self.eyes.seconds += seconds
        return metrics

    def end_early(self, control):
        """The run's control, with its end and a checkpoint where the held-out loss has not fallen for too long."""
        patience, history = self.recipe.early_stop, self.state.log_history
        if patience is not None and without_gain(history) >= patience:
            step, loss = best_measurement(history)
            self.ended = f"the held-out loss has not fallen since step {step}, where it was {loss:.4f}"
            control.should_training_stop = control.should_save = True
        return control

    def held_out_noise(self, numbers: Sequence[int], length: int) -> Draw:
        """The noise of held-out records."""
        recipe, count = self.recipe, len(self.eval_dataset)
        return draw_noise(recipe.seed, HELD_OUT, numbers, count, length, recipe.t_min, antithetic_t=True)

    def count(self, lengths: torch.Tensor, length: int, positions: int, labelled: torch.Tensor, inputs: dict) -> None:
        """Note what a forward and backward pass works on: lengths of the rows without filler, logits, pictures.

        length: of the rows with filler. positions, labelled: masked tokens, and those that could have been.
        """
        images, tiles = (len(inputs[key]) if key in inputs else 0 for key in ("image_sizes", "pixel_values"))
        self.largest = [max(pair) for pair in zip(self.largest, (len(lengths), length, tiles), strict=True)]
        lengths, copies = lengths.float(), inputs.get("copies", 1)
        work = Work(copies * lengths.sum(), copies * lengths.square().sum(), tiles, positions)
        flops = training_flops(self.model.config, self.recipe, work)
        self.meter.add(lengths.sum(), images, flops, len(lengths) * copies, positions, labelled)

    def _run_epoch(self, *args, **kwargs):
        """Nothing where the last step was taken already: a run may be killed between it and the finished model."""
        self.control = self.end_early(self.control)  # a run that has ended so may be killed before it is finished, too
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            self.note("running")
            super()._run_epoch(*args, **kwargs)

    # Records

    def get_train_dataloader(self):
        """The loader, whose workers leave signals to this process."""
        if self.recipe.pack_length:
            records = PackedRecords(self.train_dataset, self.model.config.pad_token_id)
            return PackLoader(
                records,
                batch_sampler=self.pack_sampler(),
                collate_fn=Packer(self.data_collator),
                num_workers=self.args.dataloader_num_workers,
                worker_init_fn=calm_worker,
                pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
            )
        loader: Any = super().get_train_dataloader()  # accelerate's, around torch's
        loader.base_dataloader.worker_init_fn = calm_worker
        return loader

    def pack_sampler(self) -> PackSampler:
        """The rows of this process."""
        recipe, args = self.recipe, self.args
        lengths, _ = self.train_dataset.measures()
        order = self._get_train_sampler()
        return PackSampler(
            order, lengths, recipe.global_batch_size, recipe.pack_length, args.process_index, args.world_size
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of the next step. Where a loader's worker was killed, this process reads them itself."""
        try:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        except RuntimeError as error:
            if not str(error).startswith(KILLED_WORKER):
                raise
            log.warning("%s The system may have been short of memory: lower workers.", str(error).strip())
            self.stop.ask("a loader's worker was killed")
            return self.read_step(num_batches), None
        finally:
            # torch's handler would raise in the middle of anything, while other processes wait; the loader notices too.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def read_step(self, num_batches: int) -> list:
        """The micro-batches of the next step on this process, as the loader gives them, without one."""
        args, size = self.args, self.args.per_device_train_batch_size
        if self.recipe.pack_length:
            packs = self.pack_sampler()
            epoch, step = divmod(self.state.global_step, len(packs))
            packs.set_epoch(epoch)
            records = PackedRecords(self.train_dataset, self.model.config.pad_token_id)
            chosen = next(islice(iter(packs), step, None))
            return [Packer(self.data_collator)([records[row] for row in chosen])]
        per_epoch = len(self.train_dataset) // size // args.world_size
        epoch, step = divmod(self.state.global_step, -(-per_epoch // args.gradient_accumulation_steps))
        sampler = self._get_train_sampler()
        sampler.set_epoch(epoch)
        batches = []
        for number in range(num_batches):
            first = (step * args.gradient_accumulation_steps + number) * args.world_size + args.process_index
            rows = islice(iter(sampler), first * size, (first + 1) * size)
            batches.append(self.data_collator([self.train_dataset[row] for row in rows]))
        return batches

    # Optimizer, order, progress

    def create_optimizer(self, model=None):
        """The recipe's optimizer over the parts' groups."""
        if self.optimizer is None and self.recipe.optimizer == "muon":
            self.optimizer = MuonAndAdamW(parameter_groups(self.model, self.recipe))
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(parameter_groups(self.model, self.recipe), **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        """transformers' schedule, anew after each of the recipe's `warm_restarts`."""
        scheduler: Any = super().create_scheduler(num_training_steps, optimizer)
        if restarts := self.recipe.warm_restarts:
            if max(restarts) >= num_training_steps:
                log.warning("warm_restarts is %s, but the run ends after step %d", restarts, num_training_steps)
            share = partial(
                rate_share, end=num_training_steps, warmup_ratio=self.recipe.warmup_ratio, restarts=restarts
            )
            scheduler.lr_lambdas = [share for _ in scheduler.lr_lambdas]
        return scheduler

    def _get_train_sampler(self, train_dataset=None):
        recipe = self.recipe
        if not recipe.group_by_length:
            return ShuffledSampler(len(self.train_dataset), recipe.seed)
        return GroupedSampler(*self.train_dataset.measures(), recipe.global_batch_size, recipe.seed, recipe.in_order)

    def log(self, logs, start_time=None):
        """A log entry, with rates, speed, memory and the time that is left where it is about training."""
        if "loss" in logs:
            self.check_loss(logs["loss"])
            norms = self.part_norms.logged(self.state.global_step, logs.get("grad_norm", 0.0))
            logs |= norms | self.rates() | self.speed()
        super().log(logs, start_time)

    def check_loss(self, loss: float) -> None:
        """Raise ValueError, on all processes, for a loss that is NaN or infinite; such weights are not saved."""
        if not math.isfinite(loss):
            kept = newest_checkpoint(self.output)
            raise WrongValue(
                f"the loss is {loss} after step {self.state.global_step}: the run has diverged. Lower the learning "
                "rates or raise t_min, in another output or with recipe.yaml removed from this one"
                + (f", whose {kept} is from before" if kept else "")
            )

    def rates(self) -> dict[str, float]:
        """The learning rate of each part that learns, in the step before."""
        share = self.lr_scheduler.lr_lambdas[0](self.state.global_step - 1)
        return {f"learning_rate/{part}": share * peak for part, peak in self.peak_rates.items()}

    @cached_property
    def peak_rates(self) -> dict[str, float]:
        """The highest learning rate of each part that learns."""
        return {part_of_group(self.model, group): group["lr"] for group in parameter_groups(self.model, self.recipe)}

    def speed(self) -> dict[str, float]:
        """Tokens and images a second, model FLOPs utilisation, memory, time left; all processes must ask."""
        args, state = self.args, self.state
        if self.peak_flops is None:
            self.peak_flops = peak_rate(args.device, torch.bfloat16 if args.bf16 else torch.float32)
        seconds, steps, counts = self.meter.read(state.global_step)
        tokens, images, flops, rows, masked, labelled = self.accelerator.reduce(counts, "sum").tolist()
        copies = 2 if self.recipe.complementary_masking else 1
        return {
            "mean_length": copies * tokens / rows,
            "mean_answer": labelled / rows,
            "masked_share": masked / max(labelled, 1),
            "tokens_per_second": tokens / seconds,
            "images_per_second": images / seconds,
            "mfu": flops / seconds / (self.peak_flops * args.world_size),
            "memory_gib": memory_gib(args.device),
            "seconds_left": seconds / steps * (state.max_steps - state.global_step),
        }

    # Checkpoints

    def averaged_steps(self) -> list[int]:
        """The steps whose weights go into the finished model beside those of the last one."""
        ends = [step for step in self.recipe.warm_restarts if step < self.state.max_steps]
        return ends[max(0, len(ends) + 1 - self.recipe.average) :]

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        if self.state.global_step in self.averaged_steps():
            self.save_beside(f"cycle-{self.state.global_step}")
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _get_output_dir(self, trial=None):
        return str(self.output if self.writing is None else self.writing)

    def _save_checkpoint(self, model, trial):
        """A checkpoint under its name once it is whole; until then under another one that nothing resumes from."""
        self.start_writing()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            step = self.state.global_step
            publish = partial(self.publish, self.writing / f"checkpoint-{step}", step)
            publish() if self.state_writer is None else self.state_writer.then(publish)
        self.writing = None
        self.accelerator.wait_for_everyone()

    def publish(self, folder: Path, step: int) -> None:
        """Give the whole checkpoint of a step its name."""
        publish_checkpoint(folder, self.output, self.recipe.save_total, self.after_save.busy_with())
        self.after_save.start(self.output / folder.name, step)

    def wait_for_state(self) -> None:
        """Wait until the last checkpoint has its name, if it is still being written."""
        if self.state_writer is not None:
            self.state_writer.wait()

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.state_writer is None:
            return super()._save_optimizer_and_scheduler(output_dir)
        if self.is_world_process_zero():
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)
        self.state_writer.save(self.model, self.optimizer, Path(output_dir))

    def newest_checkpoint(self) -> str | None:
        """The checkpoint to go on from, as the first process finds it; see `whole_checkpoint`.

        One that DeepSpeed has scattered over another number of processes is rewritten for this one.
        """
        found = [whole_checkpoint(self.output) if self.is_world_process_zero() else None]
        if self.args.world_size > 1:
            torch.distributed.broadcast_object_list(found)
        before = None if found[0] is None else scattered_over(found[0])
        if before not in (None, self.args.world_size):
            log.info(
                "%s is of %d processes, here are %d: it is rewritten first", found[0], before, self.args.world_size
            )
            if self.is_world_process_zero():
                gather(found[0])
            self.accelerator.wait_for_everyone()
            self.accelerator.state.deepspeed_plugin.deepspeed_config["checkpoint"] = {"load_universal": True}
            self.gathered = found[0]
        return found[0]

    def _load_optimizer_and_scheduler(self, checkpoint):
        if self.state_writer is not None:
            if checkpoint is not None:
                load_state(self.model, self.optimizer, Path(checkpoint))
                self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))
            return
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.gathered is None:
            return
        # DeepSpeed has given all weights one counter of steps, on which each would count, and all groups the settings
        # of the first.
        for state in self.optimizer.state.values():
            state["step"] = torch.as_tensor(state["step"]).clone()
        own = parameter_groups(self.model, self.recipe)
        for group, settings, rate in zip(
            self.optimizer.param_groups, own, self.lr_scheduler.get_last_lr(), strict=True
        ):
            group |= {"lr": rate, "initial_lr": settings["lr"], "weight_decay": settings["weight_decay"]}
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            forget_gathered(self.gathered)

    def start_writing(self) -> None:
        """Make the folder for what is not whole yet; all processes go on when it is there."""
        self.wait_for_state()
        self.writing = self.output / WRITING
        if self.is_world_process_zero():
            clear_writing(self.output)
        self.accelerator.wait_for_everyone()

    def note(self, status: str, why: str | None = None) -> None:
        """Write how the run stands into the output folder."""
        if self.is_world_process_zero():
            note_run(self.output, status, self.state.global_step, self.state.max_steps, why)
            self.eyes.write_page(self.state, status)

    def finish(self) -> None:
        """Put the finished model at the top of the output folder, whole or not at all.

        Raises ValueError where a step of those that were planned was not taken, or none was planned.
        """
        taken, planned = self.state.global_step, self.state.max_steps
        if not 0 < planned <= taken and self.ended is None:
            raise WrongValue(
                f"{taken} optimizer steps were taken, of {planned} that epochs {self.recipe.epochs:g} and max_steps "
                f"{self.recipe.max_steps} make: there is no finished model"
            )
        self.start_writing()
        written = self.writing / "finished"
        self.save_model(str(written))
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            ends = [self.output / f"cycle-{step}" for step in self.averaged_steps() if step < taken]
            if ends:
                average([*ends, written], self.writing / "mean")
                written = self.writing / "mean"
            publish_model(written, self.output)
            self.after_save.wait()
            self.after_save.start(self.output, taken)
        self.writing = None
        self.accelerator.wait_for_everyone()

    def save_beside(self, name: str) -> None:
        """Keep the weights under a name, whole or not at all, in place of those before."""
        self.start_writing()
        self.save_model(str(self.writing / name))
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            publish_beside(self.writing / name, self.output)
        self.writing = None
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir=None, _internal_call=False):
        """The model as `from_pretrained` takes it; of a projector stage the projector and the config alone.

        With FSDP a checkpoint has neither: its state is written apart.
        """
        if self.state_writer is not None and _internal_call:
            return Path(output_dir).mkdir(parents=True, exist_ok=True)
        if not self.recipe.trains_projector_only:
            return super().save_model(output_dir, _internal_call)
        state = projector_state(self.model)
        if self.args.should_save:
            save_projector(state, output_dir)
            self.model.config.save_pretrained(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if self.state_writer is not None:
            return  # its weights come with the optimizer
        if not self.recipe.trains_projector_only:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_projector(self.model, resume_from_checkpoint)

    def checkpoint_bytes(self) -> int:
        """About what one checkpoint takes on disk."""
        counts = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in self.model.parameters()]
        total, trained = sum(count for count, _ in counts), sum(count for count, learns in counts if learns)
        return checkpoint_bytes(self.recipe, total, trained, num_moments(self.recipe, self.model))


def mean_of(losses: torch.Tensor, name: str) -> dict[str, float]:
    """The mean of some losses under a name; nothing for none."""
    return {name: losses.mean().item()} if len(losses) else {}


def training_arguments(recipe: Recipe, num_devices: int, **changes) -> TrainingArguments:
    """transformers' arguments for a recipe; what the recipe does not say is the original's choice.

    Under ZeRO-3 they must be made before the model is loaded: they tell transformers to scatter it.
    """
    deepspeed, has_gpu = check_settings(recipe, num_devices), torch.cuda.is_available()
    settings: dict[str, Any] = dict(
        output_dir=recipe.output,
        per_device_train_batch_size=recipe.micro_batch_size,
        gradient_accumulation_steps=1 if recipe.pack_length else recipe.accumulation(num_devices),
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_ratio,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        # torch's fused AdamW is the one that is fast where DeepSpeed keeps the optimizer in main memory.
        optim="adamw_torch_fused" if deepspeed and offloads(deepspeed) else "adamw_torch",
        bf16=recipe.bf16,
        tf32=True if has_gpu and torch.cuda.get_device_capability() >= (8, 0) else None,
        gradient_checkpointing=recipe.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        deepspeed=deepspeed,
        eval_strategy="steps" if recipe.eval_steps else "no",
        eval_steps=recipe.eval_steps or None,
        save_strategy="steps" if recipe.save_steps else "no",
        save_steps=recipe.save_steps or 1,
        save_total_limit=recipe.save_total,
        logging_steps=recipe.log_steps,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        dataloader_num_workers=recipe.workers,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        seed=recipe.seed,
        report_to=recipe.report_to,
        use_cpu=not has_gpu,
        ddp_backend="gloo" if num_devices > 1 and not has_gpu else None,  # one process has no group
        ddp_find_unused_parameters=False,
    )
    if recipe.fsdp and num_devices > 1:  # one device has everything anyway
        settings |= fsdp_arguments()
    with warnings.catch_warnings():
        # Newer versions of transformers rename it and take both names; older ones know this one alone.
        warnings.filterwarnings("ignore", message="`gradient_checkpointing.*` is deprecated", category=FutureWarning)
        arguments = TrainingArguments(**settings | changes)
    if deepspeed is not None:
        join_deepspeed()
    return arguments
