"""Records of a recipe, encoded one at a time, and batches of them.

A bad record stops the run with its id or is skipped; it is never replaced.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..configuration_llada_v import IGNORE
from ..data.measure import UNKNOWN, Encoding, Measurer, Measures, check_length
from ..data.records import BadRecord, Records
from ..processing_llada_v import LladaVProcessor
from ..sequence import PICTURE_INPUTS
from .dialogue import fill_answers
from .recipe import Recipe

BAD_RECORDS = "bad_records.jsonl"


class RecordDataset(Dataset):
    """Records by number, as `encode_record` makes them.

    Raises what is wrong with the recipe's data files (see `Records`).
    """

    def __init__(self, recipe: Recipe, processor: LladaVProcessor):
        self.recipe = recipe
        self.processor = processor
        self.records = Records(recipe.data, recipe.image_root, recipe.index_folder, recipe.seed)
        self.bad = BadRecords(Path(recipe.output) / BAD_RECORDS, recipe.max_bad_share, len(self.records))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        """Tensors of one record; of a bad one that is skipped, one token without a label, which trains nothing.

        Raises BadRecord with its id where a record cannot be used and is not to be skipped, or too many were.
        """
        try:
            return self.encoded(index)
        except BadRecord as error:
            self.refuse(index, error)
        return {
            "input_ids": torch.tensor([self.processor.config.pad_token_id]),
            "labels": torch.tensor([IGNORE]),
        }

    def encoded(self, index: int) -> dict:
        """Tensors of one record. Raises BadRecord."""
        recipe = self.recipe
        with self.records.reading(index) as record:
            encoded = self.processor.encode_record(
                record, style=recipe.style, max_frames=recipe.max_frames, max_tiles=recipe.max_tiles
            )
            if recipe.turn_canvas:
                config = self.processor.config
                encoded = fill_answers(encoded, recipe.turn_canvas, config.eot_token_id, config.pad_token_id)
            check_length(len(encoded["input_ids"]), recipe.max_length)
        return encoded

    def refuse(self, index: int, error: BadRecord) -> None:
        """Stop because of a bad record, or note it and go on, as the recipe says."""
        if self.recipe.on_bad_record == "stop":
            raise error
        self.bad.note(index, error)

    def measures(self) -> tuple[np.ndarray, np.ndarray]:
        """(lengths, modalities) of all records, lengths in tokens exactly; a bad record that is skipped has length 1.

        Raises BadRecord as reading every record would, except that pictures are not decoded.
        """
        recipe = self.recipe
        encoding = Encoding(recipe.style, recipe.max_frames, recipe.max_length, recipe.max_tiles)
        measurer = Measurer(self.records, self.processor, encoding)
        measures = Measures(measurer, recipe.workers, self.refuse)
        lengths = measures.lengths
        is_bad = (lengths == UNKNOWN) | (lengths > recipe.max_length)
        if is_bad.any():  # noted when they were found; whoever made the measures may have skipped them
            if recipe.on_bad_record == "stop":
                for number, measure in zip(bad := np.flatnonzero(is_bad), measurer.measure(bad), strict=True):
                    if measure.error is not None:
                        self.refuse(int(number), measure.error)
            self.bad.check(int(is_bad.sum()))
            lengths = np.where(is_bad, 1, lengths)
        return lengths, measures.modalities


@dataclass
class Collator:
    """Makes batches: ids and labels padded on the right, pictures joined.

    pad_token_id: the filler, LLaDA's EOS.
    train_eos_padding: True: filler is ordinary text, attended to and labelled, as the original's collator has it
        (there is no attention mask then). False: filler is hidden by the mask and has no label.
    pad_to_multiple_of: lengths are rounded up to it, so that few different shapes occur; 1 for the original's.
    """

    pad_token_id: int
    train_eos_padding: bool
    pad_to_multiple_of: int = 1

    def __call__(self, records: list[dict]) -> dict[str, torch.Tensor]:
        """input_ids, labels (B, L), attention_mask (B, L) unless EOS padding is trained, and the pictures' tensors.

        A record without any label, as a skipped one is, trains nothing: its filler has no label either.
        """
        length = max(len(record["input_ids"]) for record in records)
        length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        shape = (len(records), length)
        input_ids, labels = torch.full(shape, self.pad_token_id), torch.full(shape, IGNORE)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        for row, record in enumerate(records):
            size = len(record["input_ids"])
            input_ids[row, :size], labels[row, :size] = record["input_ids"], record["labels"]
            attention_mask[row, :size] = 1
            if self.train_eos_padding and (record["labels"] != IGNORE).any():
                labels[row, size:] = self.pad_token_id
        batch = {"input_ids": input_ids, "labels": labels}
        if not self.train_eos_padding:
            batch["attention_mask"] = attention_mask
        for key in PICTURE_INPUTS:
            parts = [record[key] for record in records if key in record]
            if parts:
                batch[key] = torch.cat(parts)
        return batch


class BadRecords:
    """The records that were skipped, in a file of JSON lines that all processes of a run add to.

    share: more than this share of the `total` records stops the run.
    """

    def __init__(self, file: Path, share: float, total: int):
        self.file, self.share, self.total = file, share, total
        self.numbers: set[int] = set()
        self.read = 0  # bytes of the file that are in `numbers`

    def note(self, number: int, error: BadRecord) -> None:
        """Add a record that is skipped. Raises BadRecord if that makes too many."""
        self.update()
        if number not in self.numbers:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a") as stream:
                stream.write(json.dumps({"number": number, "reason": str(error)}) + "\n")
            self.update()
        self.check(len(self.numbers))

    def update(self) -> None:
        """Read what other processes have added, whole lines only."""
        if not self.file.is_file():
            return
        with self.file.open("rb") as stream:
            stream.seek(self.read)
            lines = stream.read().rpartition(b"\n")
        self.numbers |= {json.loads(line)["number"] for line in lines[0].splitlines()}
        self.read += len(lines[0]) + len(lines[1])

    def check(self, count: int) -> None:
        """Raise BadRecord if `count` bad records are too many."""
        if count > self.share * self.total:
            raise BadRecord(
                f"{count} of {self.total} records are bad, more than max_bad_share {self.share:g}; "
                f"{self.file} lists them: mend them, or raise max_bad_share"
            )
