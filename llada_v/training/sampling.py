"""The order of the records in an epoch. It depends on seed and epoch alone, so every process finds the same one."""

import numpy as np
from torch.utils.data import Sampler


class GroupedSampler(Sampler[int]):
    """A random order in which the records of one optimizer step are of one modality and of similar length.

    Within each modality records are shuffled, cut into chunks of `CHUNK_BATCHES` batches, and sorted within a chunk;
    then the batches of all modalities are shuffled. What is left over of each modality makes mixed batches, and what
    makes no whole batch then comes last.

    lengths, modalities: of each record; integers that need not be in memory.
    batch_size: records of one optimizer step, over all processes.
    """

    CHUNK_BATCHES = 50

    def __init__(self, lengths, modalities, batch_size: int, seed: int):
        self.lengths, self.modalities = np.asarray(lengths), np.asarray(modalities)
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer: another order in each epoch."""
        self.epoch = epoch

    def __iter__(self):
        random = np.random.default_rng([self.seed, self.epoch])
        batches, rests = [], []
        for modality in np.unique(self.modalities):
            members = random.permutation(np.flatnonzero(self.modalities == modality).astype(np.int32))
            cut = len(members) // self.batch_size * self.batch_size
            batches += self.batches_of(members[:cut])
            rests.append(members[cut:])
        rest = np.concatenate(rests)
        rest = rest[np.lexsort((self.lengths[rest], self.modalities[rest]))]
        cut = len(rest) // self.batch_size * self.batch_size
        batches.append(rest[:cut].reshape(-1, self.batch_size))
        batches = np.concatenate(batches)
        for number in random.permutation(len(batches)):
            yield from batches[number].tolist()
        yield from rest[cut:].tolist()

    def batches_of(self, members: np.ndarray) -> list[np.ndarray]:
        """Arrays (batches, batch_size) of similar lengths, from whole batches of shuffled numbers."""
        size = self.batch_size * self.CHUNK_BATCHES
        chunks = [members[start : start + size] for start in range(0, len(members), size)]
        ordered = [chunk[np.argsort(self.lengths[chunk], kind="stable")] for chunk in chunks]
        return [chunk.reshape(-1, self.batch_size) for chunk in ordered]


class ShuffledSampler(Sampler[int]):
    """A random order of `count` records."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed, self.epoch = count, seed, 0

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer: another order in each epoch."""
        self.epoch = epoch

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        for start in range(0, self.count, 10_000):
            yield from order[start : start + 10_000].tolist()
