"""Which records of an optimizer step share a row, and the batches of such rows: see `pack_length` of a recipe.

A step has the records that it has without packing, and each keeps its place in it and with that its noise. What differs
from step to step is how many rows they make; every process has as many, some may be empty.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..configuration_llada_v import IGNORE


def packs_of(lengths: Sequence[int], capacity: int, processes: int) -> list[list[int]]:
    """Numbers of the records in each row: as few rows a process as hold them, with about as many tokens each.

    lengths: of a step's records. capacity: most tokens of a row that holds more than one record; of a row too long for
    it anyway, because of one record, that record's length. The rows come longest first, so that those which processes
    take at the same time are alike.
    """
    limit = max(capacity, *lengths)
    rounds = max(1, -(-sum(lengths) // (processes * limit)))
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    while True:
        rows: list[list[int]] = [[] for _ in range(rounds * processes)]
        loads = [(0, row) for row in range(len(rows))]
        for number in order:
            load, row = loads[0]
            heapq.heapreplace(loads, (load + lengths[number], row))
            rows[row].append(number)
        if max(load for load, _ in loads) <= limit:
            return [sorted(rows[row]) for _, row in sorted(loads, key=lambda found: (-found[0], found[1]))]
        rounds += 1


class PackSampler(Sampler[list]):
    """The rows of each step of an epoch on one process: [[(record, place in the step), ...], ...].

    order: a sampler of records. lengths: of all records. batch_size: records of a step. process, processes: this one's
    number, and of how many.
    """

    def __init__(self, order: Any, lengths, batch_size: int, capacity: int, process: int, processes: int):
        self.order, self.lengths, self.batch_size, self.capacity = order, lengths, batch_size, capacity
        self.process, self.processes = process, processes

    @property
    def count(self) -> int:
        """Records of an epoch: as many as without packing, the same for every process."""
        return len(self.order) // self.processes * self.processes

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer: another order in each epoch."""
        self.order.set_epoch(epoch)

    def __iter__(self) -> Iterator[list]:
        records = islice(iter(self.order), self.count)
        while step := list(islice(records, self.batch_size)):
            rows = packs_of([int(self.lengths[record]) for record in step], self.capacity, self.processes)
            mine = rows[self.process :: self.processes]
            yield [[(step[place], place) for place in row] + [(None, len(step))] for row in mine]


class PackedRecords(Dataset):
    """What `PackSampler` names, as lists of encoded records; see `collated`."""

    def __init__(self, records, pad_token_id: int):
        self.records = records
        self.nothing = {"input_ids": torch.tensor([pad_token_id]), "labels": torch.tensor([IGNORE])}

    def __getitem__(self, row: list) -> tuple[list[dict], list[int], int]:
        """The records of a row, their places in the step, and how many records that has."""
        *named, (_, total) = row
        if not named:
            return [self.nothing], [0], total
        return [self.records[record] for record, _ in named], [place for _, place in named], total


class Packer:
    """Makes the batches of a step's rows: those of a collator, with `places` (n,) and the step's number of records."""

    def __init__(self, collator: Callable[[list[dict]], dict]):
        self.collator = collator

    def __call__(self, rows: list) -> list[dict]:
        return [
            self.collator(records) | {"places": torch.tensor(places), "of_records": total}
            for records, places, total in rows
        ]


class PackLoader(DataLoader):
    """torch's loader, which hands the epoch on to its sampler of batches."""

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def pack(inputs: dict) -> dict:
    """A padded batch as one row: what `LladaModel.forward` takes with `lengths`.

    inputs: input_ids, logits_at and attention_mask (n, L), and anything else that is no tensor of positions.
    """
    is_real = inputs.pop("attention_mask").bool()
    lengths = is_real.sum(1).tolist()
    rows = {name: inputs[name][is_real][None] for name in ("input_ids", "logits_at")}
    return inputs | rows | {"lengths": lengths}
