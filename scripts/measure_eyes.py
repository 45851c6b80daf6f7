"""What the eyes of a run cost, part by part: `python scripts/measure_eyes.py [--steps 60] [--held-out 32] [--shown 4]`.

The tiny model learns on drawn records, in this process, measured and answering once in the middle and once at the end.
A part's cost is its seconds of this process (on a CPU `time.process_time`, so that others on the machine count less),
without those of the parts inside it; of a measurement it is also told in optimizer steps. The last line says how far
apart measurements must be for all of it to take less than 3 % of a run.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from llada_v.toyworld.records import write_dataset
from llada_v.training import trainer
from llada_v.training.eyes import Eyes
from llada_v.training.progress import Meter, PartNorms
from llada_v.training.recipe import load_recipe
from llada_v.training.train import train

ROOT = Path(__file__).resolve().parent.parent
SHARE = 0.03
EVERY_STEP = {
    "steps": (trainer.LladaVTrainer, "training_step"),
    "counting of tokens and masks": (Meter, "add"),
    "norms of the parts": (PartNorms, "on_pre_optimizer_step"),
    "log entries": (trainer.LladaVTrainer, "log"),
    "history on disk": (Eyes, "on_log"),
}
AT_TIMES = {
    "held-out loss": (trainer.LladaVTrainer, "evaluate"),
    "answers": (Eyes, "answers"),
    "page": (Eyes, "write_page"),
    "tables": (Eyes, "tell_tensorboard"),
}


class Watch:
    """Seconds inside each of the watched functions, without those inside others."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.running: list[str] = []
        self.last = clock()

    def pass_to(self) -> None:
        """Give the time since the last call to what is running."""
        now = clock()
        if self.running:
            self.seconds[self.running[-1]] = self.seconds.get(self.running[-1], 0.0) + now - self.last
        self.last = now

    def watch(self, name: str, owner: type, method: str) -> None:
        """Have a function's time counted under a name."""
        inner = getattr(owner, method)

        def timed(*args, **kwargs):
            self.pass_to()
            self.running.append(name)
            try:
                return inner(*args, **kwargs)
            finally:
                self.pass_to()
                self.running.pop()

        setattr(owner, method, timed)


def clock() -> float:
    """Seconds; a GPU's work is waited for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="an even number of optimizer steps, of 16 records")
    parser.add_argument("--held-out", type=int, default=32, help="held-out records")
    parser.add_argument("--shown", type=int, default=4, help="questions that are answered")
    parser.add_argument("--output", help="folder to keep the run in")
    args = parser.parse_args()
    watch = Watch()
    for name, (owner, method) in (EVERY_STEP | AT_TIMES).items():
        watch.watch(name, owner, method)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wanted = dict(style="instruct", max_turns=4)
        learned = write_dataset(folder / "learned", "train", 16 * args.steps, seed=5, **wanted)
        unseen = write_dataset(folder / "unseen", "heldout", args.held_out, seed=5, **wanted)
        mixture = {"datasets": [{"json_path": str(unseen / "records.json"), "image_root": str(unseen)}]}
        (folder / "unseen.yaml").write_text(json.dumps(mixture))  # JSON is YAML, too
        changes = {
            "model": ROOT / "model" / "llada-v-tiny",
            "output": args.output or folder / "run",
            "data": learned / "records.json",
            "image_root": learned,
            "index_folder": folder,
            "eval_data": folder / "unseen.yaml",
            "eval_steps": args.steps // 2,
            "show_questions": args.shown,
            "micro_batch_size": 16,
            "epochs": 1,
            "log_steps": 1,
            "save_steps": 0,
            "bf16": "false",
            "report_to": "[tensorboard]",
        }
        recipe = load_recipe(
            ROOT / "scripts/recipes/tiny/finetune.yaml", {key: str(value) for key, value in changes.items()}
        )
        train(recipe)
    report(watch.seconds, args.steps)


def report(seconds: dict[str, float], steps: int) -> None:
    """Print a line for each part."""
    step = seconds["steps"] / steps
    print(f"a step takes {1e3 * step:.0f} ms\n\n| part | ms | how often | in steps |\n|---|---|---|---|")
    for name in EVERY_STEP:
        if name != "steps":
            each = seconds[name] / steps
            print(f"| {name} | {1e3 * each:.2f} | every step | {each / step:.4f} |")
    for name in AT_TIMES:
        each = seconds[name] / 2
        print(f"| {name} | {1e3 * each:.0f} | a measurement | {each / step:.2f} |")
    always = sum(seconds[name] for name in EVERY_STEP if name != "steps") / steps
    each = sum(seconds[name] for name in AT_TIMES) / 2
    left = SHARE * step - always
    apart = f"{each / left:.0f} steps" if left > 0 else "further than any run is long"
    print(f"\nunder {SHARE:.0%} of the steps' time where measurements are {apart} apart")


if __name__ == "__main__":
    main()
