"""Encoded records to one batch: ids and labels padded on the right, pictures joined."""

from dataclasses import dataclass

import torch

from ..configuration_llada_v import IGNORE
from ..sequence import PICTURE_INPUTS


@dataclass
class Collator:
    """Makes batches.

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
