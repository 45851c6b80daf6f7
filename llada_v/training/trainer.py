"""A `transformers.Trainer` for the diffusion objective: noise, loss, learning rates per part, batches by length.

Everything else (loop, precision, clipping, checkpoints, resume) is transformers'.
"""

import torch
from torch.utils.data import Sampler
from transformers import Trainer, TrainingArguments

from ..modeling_llada_v import LladaVForConditionalGeneration
from .noise import add_noise, diffusion_loss
from .recipe import PARTS, Recipe


def part_of(name: str) -> str:
    """The trainable part that a parameter belongs to."""
    if ".vision_tower." in name:
        return "vision_tower"
    return "projector" if ".multi_modal_projector." in name else "language_model"


def freeze(model: LladaVForConditionalGeneration, train: list[str], style: str) -> dict[str, int]:
    """Leave only the named parts trainable; returns the number of trainable parameters by part.

    What no gradient reaches stays frozen: the tower's post_layernorm is not on the way from pixels to features, and
    pictures have no newline in the style "caption".
    """
    unreached = (".post_layernorm.", "image_newline") if style == "caption" else (".post_layernorm.",)
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parameter.requires_grad = part in train and not any(word in name for word in unreached)
        counts[part] += parameter.numel() if parameter.requires_grad else 0
    return counts


def parameter_groups(model: LladaVForConditionalGeneration, recipe: Recipe) -> list[dict]:
    """Trainable parameters by part, each with its own rate; norms and biases are not decayed."""
    rates = {
        "vision_tower": recipe.vision_learning_rate,
        "projector": recipe.projector_learning_rate,
        "language_model": recipe.learning_rate,
    }
    groups: dict[tuple[str, bool], list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.dim() > 1
            groups.setdefault((part_of(name), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.learning_rate if rates[part] is None else rates[part],
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (part, decays), parameters in groups.items()
    ]


class LengthGroupedSampler(Sampler[int]):
    """A random order in which neighbours have similar lengths: whole batches are short or long, not their records.

    Records are shuffled, cut into chunks of `CHUNK_BATCHES` batches, sorted within a chunk, and the batches shuffled.
    """

    CHUNK_BATCHES = 50

    def __init__(self, lengths: list[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer: another order in each epoch."""
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        size = self.batch_size * self.CHUNK_BATCHES
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        order = [index for chunk in chunks for index in sorted(chunk, key=self.lengths.__getitem__)]
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        shuffled = [batches[index] for index in torch.randperm(len(batches), generator=generator).tolist()]
        # A batch that is not full comes last: anywhere else it would shift the ones behind it.
        for batch in sorted(shuffled, key=lambda batch: len(batch) < self.batch_size):
            yield from batch


class LladaVTrainer(Trainer):
    """Trains one stage of a recipe."""

    def __init__(self, recipe: Recipe, model, train_dataset, **kwargs):
        self.recipe = recipe
        super().__init__(model=model, train_dataset=train_dataset, **kwargs)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over rows already: accumulation averages it
        self.noise = torch.Generator(device=self.args.device)
        self.micro_step = (0, 0)  # optimizer step, forward pass within it

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The diffusion loss of a batch. Noise is a function of seed, step and process, so a resumed run repeats it."""
        inputs = dict(inputs)
        labels, input_ids = inputs.pop("labels"), inputs.pop("input_ids")
        step = self.state.global_step
        self.micro_step = (step, self.micro_step[1] + 1) if self.micro_step[0] == step else (step, 0)
        position = (step * 1_000 + self.micro_step[1]) * self.args.world_size + self.args.process_index
        self.noise.manual_seed(self.recipe.seed * 1_000_003 + position)
        noised = add_noise(input_ids, labels, self.model.config.mask_token_id, self.noise)
        outputs = model(input_ids=noised.input_ids, logits_at=noised.is_masked, **inputs)
        loss = diffusion_loss(outputs.logits, labels, noised.is_masked, noised.p_mask)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model=None):
        """AdamW over the parts' groups."""
        if self.optimizer is None:
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(parameter_groups(self.model, self.recipe), **options)
        return self.optimizer

    def _get_train_sampler(self, train_dataset=None):
        if not self.recipe.group_by_length:
            return super()._get_train_sampler(train_dataset)
        return LengthGroupedSampler(self.train_dataset.lengths(), self.recipe.global_batch_size, self.recipe.seed)


def training_arguments(recipe: Recipe, num_devices: int, **changes) -> TrainingArguments:
    """transformers' arguments for a recipe; what the recipe does not say is the original's choice."""
    settings = dict(
        output_dir=recipe.output,
        per_device_train_batch_size=recipe.micro_batch_size,
        gradient_accumulation_steps=recipe.accumulation(num_devices),
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_ratio,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch",
        bf16=recipe.bf16,
        gradient_checkpointing=recipe.gradient_checkpointing,
        save_steps=recipe.save_steps,
        save_total_limit=recipe.save_total,
        logging_steps=recipe.log_steps,
        dataloader_num_workers=recipe.workers,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        seed=recipe.seed,
        report_to=[],
        use_cpu=not torch.cuda.is_available(),
        ddp_backend="gloo" if num_devices > 1 and not torch.cuda.is_available() else None,  # one process has no group
        ddp_find_unused_parameters=False,
    )
    return TrainingArguments(**settings | changes)
