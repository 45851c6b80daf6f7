"""Settings side by side on one model: what is asked of it, the rounds, and a row for each setting."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from ..generation.config import SamplerConfig
from .batches import Batch, Item, question_batches, random_batches
from .candidates import Setting, with_plain
from .floor import Machine, bytes_of, measure_machine
from .report import Measured, row_of
from .rounds import Rounds, language_layers
from .shapes import Shape


@dataclass(frozen=True)
class Task:
    """A model and what it is asked.

    count: prompts. batches: a batch size -> all prompts in batches of it.
    common: fields all settings share. decode: ids to text where answers are judged, else None.
    """

    model: torch.nn.Module
    count: int
    batches: Callable[[int], Iterator[Batch]]
    common: dict
    decode: Callable | None = None


def bench(
    task: Task,
    settings: Sequence[Setting],
    batch_sizes: Sequence[int] = (1,),
    rounds: int = 3,
    warmup: int = 1,
    seed: int = 0,
    machine: Machine | None = None,
) -> list[Measured]:
    """The rows of the settings, the plain sampler first among them, by batch size.

    rounds: how often all of it is answered; times are the median round of each batch.
    machine: see `measure_machine`. Raises ValueError for settings that do not fit together.
    """
    settings = [setting.over(**task.common) for setting in with_plain(settings)]
    machine = machine or machine_of(task.model)
    rows, reference = [], None
    total = len(batch_sizes) * rounds * len(settings) * task.count
    with tqdm(total=total, desc="answering", unit="answer", disable=None, leave=False) as bar:
        for batch_size in batch_sizes:
            measured = Rounds(task.model, settings, warmup, seed, task.decode)
            for _ in range(rounds):
                measured.answer(task.batches(batch_size), progress=bar.update)
            plain = measured.runs[0]
            reference = reference or plain.answers
            rows += [row_of(run, plain, reference, batch_size, machine) for run in measured.runs]
    return rows


def machine_of(model) -> Machine:
    """What the model's device reaches in the model's dtype, reading as much as its weights are."""
    num_bytes = sum(bytes_of(layer.weight) for layer in language_layers(model))
    return measure_machine(model.device, model.dtype, num_bytes)


def check_settings(settings: Sequence[Setting], gen_length: int | None, steps: int | None = None) -> None:
    """Raise ValueError for settings that do not fit together, before a model is loaded.

    gen_length: None where the model says it; then the sampler's default stands for it.
    """
    for setting in with_plain(settings):
        setting.over(gen_length=gen_length or SamplerConfig.gen_length, steps=steps).sampler()


def question_task(model, processor, items: Sequence[Item], gen_length: int, steps: int | None, is_judged: bool) -> Task:
    """Questions to a model with a processor."""
    return Task(
        model,
        len(items),
        lambda size: question_batches(processor, items, size, model.device),
        dict(gen_length=gen_length, steps=steps),
        processor.decode if is_judged else None,
    )


def random_task(
    model, shape: Shape, count: int, gen_length: int | None = None, steps: int | None = None, seed: int = 0
) -> Task:
    """Random prompts of a shape's length and picture to a model.

    gen_length, steps: None: the shape's.
    """
    gen_length = gen_length or shape.gen_length
    # The shape's steps belong to the shape's canvas.
    steps = steps or (shape.steps if gen_length == shape.gen_length else None)

    def batches(size: int) -> Iterator[Batch]:
        return random_batches(model.config, shape.prompt_length, shape.picture, count, size, seed, model.device)

    return Task(model, count, batches, dict(gen_length=gen_length, steps=steps, stop_token_ids=[]))
