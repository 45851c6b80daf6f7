"""What sorting many batches together would save, and what it would cost: `python scripts/measure_order.py`.

One hundred thousand records of one picture, three in ten with a long answer; lengths in tokens. "long" is the share of
long answers in an optimizer step; "filler" the share of a batch that pads records to the longest beside them; "waiting"
the share of the time for which devices wait for the one with the longest batch, if time goes with length.
"""

import argparse

import numpy as np

from llada_v.training.order import GroupedSampler, ShuffledSampler


def sample_lengths(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens of each record, whether its answer is long): a picture of 1 to 5 tiles, 20 or 400 tokens of answer."""
    random = np.random.default_rng(seed)
    is_long = random.random(count) < 0.3
    pictures = 729 * random.integers(1, 6, count) + random.integers(0, 200, count)
    answers = random.gamma(4, np.where(is_long, 100, 5))
    return (pictures + 50 + answers).astype(np.int32), is_long


def sorted_together(lengths: np.ndarray, batch_size: int, batches: int, seed: int) -> list[int]:
    """An order in which so many batches are sorted as one and then shuffled."""
    random = np.random.default_rng(seed)
    members = random.permutation(len(lengths))
    members = members[: len(members) // batch_size * batch_size]
    size = batch_size * batches
    chunks = [members[start : start + size] for start in range(0, len(members), size)]
    ordered = np.concatenate([chunk[np.argsort(-lengths[chunk])] for chunk in chunks]).reshape(-1, batch_size)
    return ordered[random.permutation(len(ordered))].flatten().tolist()


def measure(order: list[int], lengths: np.ndarray, is_long: np.ndarray, shape: tuple[int, int, int]) -> list[str]:
    """What an order does, for a global batch of (forward passes, devices, records of one)."""
    passes, devices, records = shape
    size = passes * devices * records
    steps = np.array(order[: len(order) // size * size]).reshape(-1, size)
    shares = is_long[steps].mean(1)
    found = lengths[steps].reshape(-1, passes, devices, records)
    longest = found.max(3)
    filler = 1 - found.sum() / (longest.sum() * records)
    waiting = 1 - longest.sum() / (longest.max(2).sum() * devices)
    return [
        f"{100 * (shares == 0).mean():.1f} %",
        f"{shares.std():.3f}",
        f"{100 * filler:.1f} %",
        f"{100 * waiting:.1f} %",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="records")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lengths, is_long = sample_lengths(args.count, args.seed)
    print("| passes x devices x records | order | steps without a long one | spread of the share | filler | waiting |")
    print("|---|---|---|---|---|---|")
    for shape in ((4, 64, 1), (8, 8, 4), (16, 1, 1), (4, 1, 4)):
        size = int(np.prod(shape))
        kind = np.zeros(args.count, np.int8)
        orders = {
            "by chance": list(ShuffledSampler(args.count, args.seed)),
            "this repository's": list(GroupedSampler(lengths, kind, size, args.seed)),
            "50 batches sorted together": sorted_together(lengths, size, 50, args.seed),
        }
        for name, order in orders.items():
            print(f"| {' x '.join(map(str, shape))} | {name} | {' | '.join(measure(order, lengths, is_long, shape))} |")


if __name__ == "__main__":
    main()
