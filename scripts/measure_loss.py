"""Seconds and peak memory of the head and its loss, forward and backward: in chunks at masked positions, and naively.

The naive form is the original's: logits of every position, cast to float32, then the cross entropy of the masked ones.
One row, a quarter of it answer, half of the answer masked; bfloat16; every case in a process of its own.

    python scripts/measure_loss.py [--width 512] [--vocabulary 126464] [--lengths 4096 16384] [--limit-gib 12]
"""

import argparse
import resource
import subprocess
import sys
import time

import torch

from llada_v.head import LladaHead
from llada_v.machine import peak_bytes

KINDS = ("chunked", "naive")
REPEATS = 2


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--width", type=int, default=512, help="of the hidden states; LLaDA-8B has 4096")
    parser.add_argument("--vocabulary", type=int, default=126464)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384], help="tokens of the row")
    parser.add_argument("--limit-gib", type=float, default=12, help="a CPU case that needs more is given up")
    parser.add_argument("--case", nargs=2, metavar=("KIND", "LENGTH"), help="measure one case in this process")
    args = parser.parse_args()
    if args.case:
        measure(args.case[0], int(args.case[1]), args)
        return
    for length in args.lengths:
        for kind in KINDS:
            words = [sys.executable, __file__, *sys.argv[1:], "--case", kind, str(length)]
            done = subprocess.run(words, capture_output=True, text=True)
            fits = done.returncode == 0
            print(f"{length:6} tokens, {kind:8}", done.stdout.strip() if fits else f"needs over {args.limit_gib:g} GiB")


def measure(kind: str, length: int, args) -> None:
    """Forward and backward of one case; memory is what they add to the inputs and to the process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    head = LladaHead(args.width, args.vocabulary).to(device, torch.bfloat16)
    hidden = torch.randn(1, length, args.width, device=device, dtype=torch.bfloat16, requires_grad=True)
    is_masked = torch.zeros(1, length, dtype=torch.bool, device=device)
    is_masked[:, -length // 4 :: 2] = True
    targets = torch.randint(args.vocabulary, (int(is_masked.sum()),), device=device)
    weights = torch.full(targets.shape, 2 / length, device=device)
    if device.type == "cpu":
        # Address space is what can be limited; what is mapped now is not counted.
        mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + int(args.limit_gib * 2**30),) * 2)
    # Time of the processor itself, so that others who use it do not count; a GPU is waited for.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    before, seconds = peak(device), []
    for _ in range(REPEATS):
        start = clock()
        if kind == "chunked":
            loss = head(hidden[is_masked], targets, weights)
        else:
            logits = head(hidden).float()
            loss = (torch.nn.functional.cross_entropy(logits[is_masked], targets, reduction="none") * weights).sum()
        loss.backward()
        hidden.grad = head.weight.grad = None
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    where = f"({device.type}, {torch.get_num_threads()} threads)"
    print(f"{(peak(device) - before) / 2**30:6.2f} GiB {seconds[-1]:8.2f} s  {where}")


def peak(device: torch.device) -> int:
    """Most bytes that the process has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return peak_bytes()


if __name__ == "__main__":
    main()
