"""What one sees of a run while it goes on: held-out questions answered, everything logged, one page beside the weights.

The page, `run.html`, needs nothing but itself. Tables of the answers also go to wandb and tensorboard.
"""

import base64
import io
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import TrainerCallback

from ..answering import answer
from ..conversation import IMAGE
from ..generation.config import SamplerConfig
from ..images import load_image
from ..processing_llada_v import LladaVProcessor
from ..video import frames_at_fps, load_frames
from .build import gathered
from .history import ANSWERS, HISTORY, add_lines, read_account, read_lines, write_lines
from .output import write_whole
from .page import PAGE, page
from .recipe import Recipe
from .records import RecordDataset

log = logging.getLogger(__name__)

CANVAS, MOST_TOKENS = 32, 256  # an answer's canvas is a multiple of the one, at most the other
FRAMES = 4  # of a video that are shown
COLUMNS = ("record", "question", "answer", "truth")
THUMBNAIL = 224  # pixels of a shown picture's longer side


@dataclass
class Question:
    """A held-out record's first question: its pictures or video as the record has them, and the true answer."""

    name: str
    text: str
    truth: str
    images: list
    video: Any
    shown: list[Image.Image] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens of the canvas, by the letters of the true answer: at least one a token."""
        return min(MOST_TOKENS, CANVAS * (1 + len(self.truth) // (3 * CANVAS)))

    @cached_property
    def addresses(self) -> list[str]:
        """The shown pictures as addresses of themselves."""
        return [as_data(image) for image in self.shown]


def questions_of(records: RecordDataset, count: int) -> list[Question]:
    """The questions of some records, evenly spread over all. Raises BadRecord for one that cannot be read."""
    count = min(count, len(records))
    found = []
    for number in (round((index + 0.5) * len(records) / count - 0.5) for index in range(count)):
        with records.records.reading(number) as record:
            question, truth = (turn["value"] for turn in record["conversations"][:2])
            images = [load_image(image) for image in record["image"]]
            shown = images if record["video"] is None else frames_of(record["video"])
            text = question.replace(IMAGE, "").strip() if shown else question.strip()
            name = str(record.get("id", number))
            found.append(Question(name, text, truth.strip(), images, record["video"], [small(i) for i in shown]))
    return found


def frames_of(video) -> list[Image.Image]:
    """A few frames of a video."""
    return load_frames(video, lambda total, fps: frames_at_fps(total, fps, max_frames=FRAMES))


def small(image: Image.Image) -> Image.Image:
    """A copy of the picture to be shown."""
    image = image.copy()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def as_data(image: Image.Image) -> str:
    """A picture as the address of itself."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


class Eyes(TrainerCallback):
    """Answers the questions after each measurement of the held-out loss, and keeps history and page.

    computing: makes the context that the model computes in, as in training.
    seconds: what measuring and answering have taken so far; the trainer adds its share.
    """

    def __init__(
        self,
        recipe: Recipe,
        processor: LladaVProcessor,
        records: RecordDataset | None,
        computing: Callable[[], AbstractContextManager],
    ):
        self.recipe, self.processor, self.computing = recipe, processor, computing
        self.output = Path(recipe.output)
        self.questions = questions_of(records, recipe.show_questions) if records and recipe.show_questions else []
        self.seconds, self.began = 0.0, time.perf_counter()
        self.writers: list[TrainerCallback] = []  # the trainer's own, of which tensorboard's is one

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = time.perf_counter()
        if state.is_world_process_zero:
            self.output.mkdir(parents=True, exist_ok=True)
            write_lines(self.output / HISTORY, state.log_history)
            answers = read_lines(self.output / ANSWERS)
            if answers:
                write_lines(self.output / ANSWERS, (entry for entry in answers if entry["step"] <= state.global_step))

    def on_log(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            add_lines(self.output / HISTORY, state.log_history[-1:])

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        found = self.answers(model, state.global_step)
        if found and state.is_world_process_zero:
            add_lines(self.output / ANSWERS, found)
            self.tell_wandb(found)
            self.tell_tensorboard(found)
            same = sum(entry["answer"] == entry["truth"] for entry in found)
            log.info("%d of %d shown answers are the true ones | %s", same, len(found), self.output / PAGE)
        self.write_page(state)

    def on_save(self, args, state, control, **kwargs):
        self.write_page(state)

    def on_train_end(self, args, state, control, **kwargs):
        if self.seconds and state.is_world_process_zero:
            share = self.seconds / (time.perf_counter() - self.began)
            log.info("measuring and answering took %.1f s, %.1f %% of the run", self.seconds, 100 * share)

    @torch.no_grad()
    def answers(self, model, step: int) -> list[dict]:
        """An entry for each question. All processes answer all of them: ZeRO-3 needs them in step."""
        if not self.questions:
            return []
        was_training = model.training
        model.eval()
        found = []
        alone = [parameter for name, parameter in model.named_parameters() if name.endswith("image_newline")]
        with self.computing(), gathered(alone), torch.compiler.set_stance("force_eager"):
            for question in self.questions:
                sampler = SamplerConfig.preset("fast", gen_length=question.length)
                said = answer(
                    model,
                    self.processor,
                    question.text,
                    question.images,
                    question.video,
                    sampler,
                    max_tiles=self.recipe.max_tiles,
                )
                entry = {"step": step, "record": question.name, "question": question.text}
                found.append(entry | {"answer": said.text, "truth": question.truth, "forwards": said.num_forwards})
        model.train(was_training)
        return found

    def write_page(self, state, status: str = "running") -> None:
        """Bring the page up to date. status: as `note_run` has it."""
        if state.is_world_process_zero:
            shown = {question.name: question.addresses for question in self.questions}
            steps = (state.global_step, state.max_steps)
            answers = read_lines(self.output / ANSWERS)
            account = read_account(self.output)
            text = page(self.output.name, status, steps, state.log_history, answers, shown, account)
            write_whole(self.output / PAGE, text)

    def tell_wandb(self, found: list[dict]) -> None:
        """The answers as a table of a wandb run, with their pictures."""
        if "wandb" not in self.recipe.report_to:
            return
        import wandb

        table = wandb.Table(columns=["step", "picture", *COLUMNS])
        for entry, question in zip(found, self.questions, strict=True):
            picture = wandb.Image(question.shown[0]) if question.shown else None
            table.add_data(entry["step"], picture, *(entry[key] for key in COLUMNS))
        wandb.log({"answers": table, "train/global_step": found[0]["step"]})

    def tell_tensorboard(self, found: list[dict]) -> None:
        """The answers as a table among tensorboard's texts, the pictures once among its images."""
        writer = next((writer for held in self.writers if (writer := getattr(held, "tb_writer", None))), None)
        if writer is None:
            return
        lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        for entry in found:
            cells = (entry[key].replace("|", "\\|").replace("\n", " ") for key in COLUMNS)
            lines.append(f"| {' | '.join(cells)} |")
        writer.add_text("answers", "\n".join(lines), found[0]["step"])
        for question in self.questions:
            if question.shown:
                pixels = torch.from_numpy(np.array(question.shown[0].convert("RGB")))
                writer.add_image(f"answers/{question.name}", pixels, found[0]["step"], dataformats="HWC")
