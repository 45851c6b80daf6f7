"""What is asked: questions with one right answer each, or random prompts of a fixed length. Batches of both.

A batch is tensors on the device, ready for `generate`, and what the answers should be.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..anyres import Layout, num_features, num_tiles
from ..configuration_llada_v import LladaVConfig
from ..conversation import user_message
from ..data.sources import Entry, parsed, read_entries
from ..errors import UserError, WrongValue
from ..images import open_picture
from ..sequence import PICTURE_INPUTS

RECORD = '{"image": "a.png", "question": "How many?", "answer": "3"}'
TEXT_BEFORE_PICTURE = 20  # tokens of a random prompt


@dataclass(frozen=True)
class Item:
    """One question. images: PIL images or paths; family: its kind, "" where there are none."""

    id: str
    question: str
    answer: str
    images: tuple
    family: str = ""


@dataclass(frozen=True)
class Batch:
    """Prompts and what makes their pictures.

    prompts: input_ids (B, L) and maybe attention_mask (B, L).
    pictures: the arguments of `encode_pictures`; empty where there is no picture.
    items: the questions; empty for random prompts.
    """

    prompts: dict[str, torch.Tensor]
    pictures: dict[str, torch.Tensor]
    items: Sequence[Item] = ()

    def __len__(self) -> int:
        return len(self.prompts["input_ids"])


def read_items(file: str | Path) -> list[Item]:
    """The questions of a JSON list, or of a file with one JSON object a line.

    Each is {"image", "question", "answer"}; image is a path from the file's folder, a list of them, or left out for a
    question about nothing but its text. Other keys are not looked at.
    Raises FileNotFoundError for a missing file or picture, ValueError for records that cannot be read.
    """
    folder = Path(file).parent
    return [read_item(entry, f"{file}, record {number}", folder) for number, entry in enumerate(read_entries(file), 1)]


def read_item(entry: Entry, where: str, folder: Path) -> Item:
    """One record, its pictures' headers looked at."""
    try:
        record = parsed(entry)
    except WrongValue as error:
        raise WrongValue(f"{where}: {error}; expected an object such as {RECORD}") from error
    for key in ("question", "answer"):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise WrongValue(f"{where} has {key} {record.get(key)!r}; expected a text, as in {RECORD}")
    images = record.get("image") or []
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise WrongValue(f"{where} has image {images!r}; expected a path or a list of paths")
    paths = tuple(str(folder / image) for image in images)
    for path in paths:
        try:
            open_picture(path)
        except (UserError, OSError) as error:
            raise type(error)(f"{where}: {error}") from error
    return Item(where, record["question"], record["answer"], paths)


def question_batches(processor, items: Sequence[Item], size: int, device: torch.device) -> Iterator[Batch]:
    """The questions in order, `size` at a time; the last batch may be smaller."""
    for start in range(0, len(items), size):
        part = items[start : start + size]
        conversations = [[user_message(item.question, item.images)] for item in part]
        inputs = processor.apply_chat_template(
            conversations, add_generation_prompt=True, return_tensors="pt", tokenize=True, return_dict=True
        )
        inputs = dict(inputs.to(device))
        pictures = {name: inputs.pop(name) for name in PICTURE_INPUTS if name in inputs}
        yield Batch(inputs, pictures, part)


def random_batches(
    config: LladaVConfig,
    prompt_length: int,
    picture: tuple[int, int],
    count: int,
    size: int,
    seed: int,
    device: torch.device,
) -> Iterator[Batch]:
    """`count` random prompts of `prompt_length` tokens about a picture of noise each, `size` at a time.

    picture: (height, width) in pixels. Prompt i depends on (seed, i) alone, not on the batch.
    """
    height, width = picture
    features = num_features(Layout.ANYRES, height, width, config)
    tiles = num_tiles(Layout.ANYRES, height, width, config)
    side = config.tile_size
    for start in range(0, count, size):
        ids, pixels = [], []
        for index in range(start, min(count, start + size)):
            generator = torch.Generator().manual_seed(seed * count + index)
            row = torch.randint(0, min(config.special_token_ids().values()), (prompt_length,), generator=generator)
            row[TEXT_BEFORE_PICTURE : TEXT_BEFORE_PICTURE + features] = config.image_token_id
            ids.append(row)
            pixels.append(torch.randn(tiles, 3, side, side, generator=generator))
        pictures = {
            "pixel_values": torch.cat(pixels),
            "image_sizes": torch.tensor([picture] * len(ids)),
            "image_layouts": torch.tensor([[Layout.ANYRES, tiles]] * len(ids)),
        }
        yield Batch(
            {"input_ids": torch.stack(ids).to(device)},
            {name: tensor.to(device) for name, tensor in pictures.items()},
        )
