"""Text, pictures, several pictures and videos in one run of two processes, through the real launcher."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sample_data import KINDS, MIXED, write_files

from llada_v.training.order import ShuffledSampler

ROOT = Path(__file__).resolve().parent.parent
RECIPE = str(ROOT / "scripts" / "recipes" / "tiny" / "sft.yaml")
SEED = 1


@pytest.mark.slow
@pytest.mark.parametrize("group_by_length", [False, True])
def test_two_processes_train_on_every_kind_of_record_at_once(tiny_folder, tmp_path, group_by_length):
    records = [*MIXED, {"id": "bad"}] * 3
    (tmp_path / "a.json").write_text(json.dumps(records))
    (tmp_path / "files").mkdir()
    settings = {
        "model": tiny_folder,
        "output": tmp_path / "run",
        "data": tmp_path / "a.json",
        "image_root": write_files(tmp_path / "files"),
        "on_bad_record": "skip",
        "max_bad_share": 0.1,
        "group_by_length": str(group_by_length).lower(),
        "train": "[vision_tower, projector, language_model]",
        "train_eos_padding": "false",
        "global_batch_size": 2,
        "micro_batch_size": 1,
        "max_frames": 2,
        "epochs": 1,
        "workers": 1,
        "bf16": "false",
        "log_steps": 1,
        "save_steps": 100,
        "seed": SEED,
    }
    words = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*launch, "-m", "llada_v", "train", RECIPE, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]

    notes = [json.loads(line) for line in (tmp_path / "run" / "bad_records.jsonl").read_text().splitlines()]
    assert {note["number"] for note in notes} == {9, 19, 29}
    before, after = load_file(tiny_folder / "model.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("vision_tower" in name for name in changed) and any("projector" in name for name in changed)
    assert all(weight.isfinite().all() for weight in after.values())
    if not group_by_length:  # that one process saw text while the other saw a picture
        kinds = ["text" if kind == "text" else "picture" for kind in [*KINDS, "text"] * 3]
        order = [kinds[number] for number in ShuffledSampler(len(records), SEED)]
        assert {frozenset(pair) for pair in zip(order[::2], order[1::2], strict=True)} > {
            frozenset(("text", "picture"))
        }
