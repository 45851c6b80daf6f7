"""Records of a data file, encoded one at a time. A bad record raises with its id; it is never replaced."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.utils.data import Dataset

from ..anyres import Layout, num_features
from ..images import open_picture
from ..processing_llada_v import LladaVProcessor, list_of, turns_of
from .recipe import Recipe


def read_records(file: str | Path) -> list[dict]:
    """The records of a JSON array or a JSON Lines file (.jsonl).

    Raises FileNotFoundError for a missing file, ValueError for what is not JSON or not a list of records.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"no data file at {file}; see data/README.md for where each data set goes")
    text = file.read_text(encoding="utf-8")
    try:
        if file.suffix == ".jsonl":
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            records = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise ValueError(f"{file} must hold a non-empty array of records (JSON objects)")
    return records


class RecordDataset(Dataset):
    """Records by number, as `encode_record` makes them."""

    def __init__(self, recipe: Recipe, processor: LladaVProcessor):
        self.recipe = recipe
        self.processor = processor
        self.records = read_records(recipe.data)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        """Tensors of one record. Raises ValueError with its id where it cannot be used."""
        recipe = self.recipe
        with self.record(index) as record:
            encoded = self.processor.encode_record(
                record, style=recipe.style, image_root=recipe.image_root, max_frames=recipe.max_frames
            )
            length = len(encoded["input_ids"])
            if length > recipe.max_length:
                raise ValueError(
                    f"{length} tokens are more than max_length {recipe.max_length}; "
                    "raise max_length or remove the record"
                )
        return encoded

    @contextmanager
    def record(self, index: int) -> Iterator[dict]:
        """A record to work on; what is wrong with it becomes one ValueError that starts with its id."""
        record = self.records[index]
        try:
            yield record
        except (ValueError, TypeError, FileNotFoundError) as error:
            raise ValueError(f"record {record.get('id', index)!r} of {self.recipe.data}: {error}") from error

    def lengths(self) -> list[int]:
        """Rough length of each record in tokens, for grouping: pictures exactly, text by a tokenizer pass.

        Raises ValueError as reading the records does.
        """
        texts, pictures = [], []
        for index in range(len(self)):
            with self.record(index) as record:
                texts.append("\n".join(turn["value"] for turn in turns_of(record)))
                pictures.append(self.picture_features(record))
        tokens = self.processor.tokenizer(texts, add_special_tokens=False).input_ids
        return [len(ids) + features for ids, features in zip(tokens, pictures, strict=True)]

    def picture_features(self, record: dict) -> int:
        """Features of a record's pictures; a video counts as one picture per frame would, without being opened."""
        images, config = list_of(record.get("image")), self.processor.config
        if self.recipe.style == "caption" or len(images) != 1:
            frames = self.recipe.max_frames if record.get("video") else 0
            return len(images) * config.tile_side**2 + num_features(Layout.VIDEO, 1, 1, config, frames=frames)
        source = images[0] if not isinstance(images[0], str) else Path(self.recipe.image_root) / images[0]
        image, _ = open_picture(source)
        return num_features(Layout.ANYRES, image.height, image.width, config)
