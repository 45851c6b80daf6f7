"""Several processes: the same losses and weights as one process with the same global batch, and a stop all agree on."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from runs import ADAPTED, ROOT, changes_for, largest_difference, launch, losses, weights, words
from safetensors.torch import load_file

from llada_v.answering import answer, load
from llada_v.toyworld.records import write_dataset
from llada_v.training.history import ANSWERS, HISTORY, read_lines
from llada_v.training.merging import merge

pytestmark = pytest.mark.slow
RUNS = {
    "DDP": {},
    "ZeRO-2": {"deepspeed": "scripts/deepspeed/zero2.json"},
    "ZeRO-3": {"deepspeed": "scripts/deepspeed/zero3.json"},
    "ZeRO-3 offload": {"deepspeed": "scripts/deepspeed/zero3_offload.json"},
    "FSDP2": {"fsdp": True},
}
TWENTY = {"global_batch_size": 8, "epochs": 2.5, "save_steps": 8, "group_by_length": False}  # 64 records, 20 steps


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Sixty-four records, every fifth text alone: on some steps one process has pictures and the other has none.

    DeepSpeed then mixes up gradients, or stops, unless both run the same modules in the same order.
    """
    folder = write_dataset(tmp_path_factory.mktemp("data") / "many", "train", 64, seed=0, style="instruct", max_turns=2)
    records = json.loads((folder / "records.json").read_text())
    for record in records[::5]:
        del record["image"]
        for turn in record["conversations"]:
            turn["value"] = turn["value"].replace("<image>\n", "")
    (folder / "records.json").write_text(json.dumps(records))
    return folder


def arguments(model, toys, output, **changes):
    return words(changes_for(model, toys, output, **TWENTY | changes))


@pytest.fixture(scope="module")
def alone(tiny_folder, many, tmp_path_factory):
    """The output of one process."""
    output = tmp_path_factory.mktemp("alone") / "run"
    done = launch("scripts/launch.sh", "scripts/recipes/tiny/sft.yaml", *arguments(tiny_folder, many, output))
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one(tiny_folder, many, alone, tmp_path, name):
    output = tmp_path / "run"
    given = arguments(tiny_folder, many, output, **RUNS[name])
    done = launch("scripts/launch.sh", "scripts/recipes/tiny/sft.yaml", "1", "2", *given)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = losses(output), losses(alone)
    assert list(ours) == list(theirs) == list(range(1, 21))
    difference = max(abs(ours[step] - theirs[step]) for step in ours)
    print(f"{name}: losses {difference:.2g}, weights {largest_difference(weights(output), weights(alone)):.2g}")
    assert difference < 1e-4
    model, processor = load(output)
    picture = str(next(many.rglob("*.png")))
    assert answer(model, processor, "How many objects are there?", images=[picture]).num_forwards > 0


@pytest.mark.parametrize("name", ["DDP", "ZeRO-2", "ZeRO-3", "FSDP2"])
def test_a_stop_that_one_process_hears_of_saves_all_of_them_and_the_run_goes_on_the_same(
    tiny_folder, many, alone, tmp_path, name
):
    """SIGTERM reaches the launcher in the middle; the same command then ends as if nothing had been."""
    output = tmp_path / "run"
    given = arguments(tiny_folder, many, output, **RUNS[name])
    command = ["bash", "scripts/launch.sh", "scripts/recipes/tiny/sft.yaml", "1", "2", *given]
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    with log.open("w") as stream:
        running = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream)
        while "step 3 of 20" not in log.read_text():
            assert running.poll() is None, log.read_text()[-3000:]
            time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=300) == 0
    stopped = [int(folder.name.rpartition("-")[2]) for folder in output.glob("checkpoint-*")]
    assert len(stopped) == 1 and 3 <= stopped[0] < 8, log.read_text()[-3000:]
    assert not (output / "model.safetensors").exists() and not (output / ".writing").exists()
    done = launch("scripts/launch.sh", "scripts/recipes/tiny/sft.yaml", "1", "2", *given)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = losses(output), losses(alone)
    assert max(abs(ours[step] - theirs[step]) for step in theirs) < 1e-4 and list(ours) == list(range(1, 21))


@pytest.mark.parametrize("name", RUNS)
def test_adapters_that_two_processes_train_go_on_from_a_checkpoint_to_the_same_model(tiny_folder, many, tmp_path, name):
    """As after a kill: the same command in a folder that has nothing but the checkpoint of step 8."""
    outputs = [tmp_path / "whole", tmp_path / "resumed"]
    for output in outputs:
        given = arguments(tiny_folder, many, output, **RUNS[name], **ADAPTED)
        done = launch("scripts/launch.sh", "scripts/recipes/tiny/sft.yaml", "1", "2", *given)
        assert done.returncode == 0, done.stderr[-3000:]
        if output is outputs[0]:
            shutil.copytree(output / "checkpoint-8", outputs[1] / "checkpoint-8")
    assert "going on from" in done.stderr and "step 9 of 20" in done.stdout + done.stderr
    assert "step 8 of 20" not in done.stdout + done.stderr
    whole, resumed = outputs
    assert losses(resumed) == losses(whole) and list(losses(whole)) == list(range(1, 21))
    ours, theirs = (load_file(output / "adapter_model.safetensors") for output in outputs)
    assert largest_difference(ours, theirs) == 0
    merge(resumed, tmp_path / "merged")
    model, processor = load(tmp_path / "merged")
    picture = str(next(many.rglob("*.png")))
    assert answer(model, processor, "How many objects are there?", images=[picture]).num_forwards > 0


@pytest.mark.parametrize("name", ["ZeRO-3", "FSDP2"])
def test_adapters_and_a_projector_learn_in_bfloat16(tiny_folder, many, tmp_path, name):
    given = arguments(tiny_folder, many, tmp_path / "run", **RUNS[name], **ADAPTED | {"bf16": True, "epochs": 0.25})
    done = launch("scripts/launch.sh", "scripts/recipes/tiny/sft.yaml", "1", "2", *given)
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (tiny_folder, merged(tmp_path)))
    changed = {name for name in before if not torch.equal(before[name], after[name].float())}
    assert any("multi_modal_projector" in name for name in changed) and any("_proj" in name for name in changed)


def merged(folder):
    """The model of the adapters that a run in a folder has left."""
    merge(folder / "run", folder / "merged")
    return folder / "merged"


# Records that share rows

# Ten steps.
PACKED = {"micro_batch_size": 1, "pack_length": 600, "group_by_length": True, "pad_to_multiple_of": 1, "epochs": 1.25}


@pytest.fixture(scope="module")
def packed_alone(tiny_folder, many, tmp_path_factory):
    """The output of one process that packs."""
    output = tmp_path_factory.mktemp("packed") / "run"
    given = arguments(tiny_folder, many, output, **PACKED)
    done = launch("scripts/launch.sh", "scripts/recipes/tiny/sft.yaml", *given)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.mark.parametrize("name", ["DDP", "ZeRO-2", "ZeRO-3", "FSDP2"])
def test_two_processes_whose_records_share_rows_train_as_one(tiny_folder, many, packed_alone, tmp_path, name):
    """Grouped by modality: steps of texts alone, of pictures alone, and of both."""
    output = tmp_path / "run"
    given = arguments(tiny_folder, many, output, **RUNS[name], **PACKED)
    done = launch("scripts/launch.sh", "scripts/recipes/tiny/sft.yaml", "1", "2", *given)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = losses(output), losses(packed_alone)
    assert list(ours) == list(theirs) == list(range(1, 11))
    difference = max(abs(ours[step] - theirs[step]) for step in ours)
    far = largest_difference(weights(output), weights(packed_alone))
    print(f"{name}, packed: losses {difference:.2g}, weights {far:.2g}")
    assert difference < 1e-4


# FSDP2, whose checkpoints are written in the background


def watched(folder, many):
    """What makes a run measure, answer, keep its best model, and tell of what it saves."""
    told = f"echo $LLADA_V_STEP $(ls $LLADA_V_SAVED | wc -l) >> {folder}/saved"
    eyes = {"eval_data": str(many / "records.json"), "eval_steps": 4, "show_questions": 3, "keep_best": True}
    return eyes | {"max_steps": 8, "save_steps": 4, "on_save": told}


def test_a_run_with_eyes_is_the_same_under_fsdp(tiny_folder, many, tmp_path):
    """Measurements, answers, gradient norms by part, the best model, and a command after each checkpoint."""
    found = {}
    for name in ("DDP", "FSDP2"):
        output = tmp_path / name
        given = arguments(tiny_folder, many, output, **RUNS[name], **watched(tmp_path, many))
        done = launch("scripts/launch.sh", "scripts/recipes/tiny/sft.yaml", "1", "2", *given)
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = read_lines(output / HISTORY), read_lines(output / ANSWERS)
        assert answer(*load(output / "best"), "How many objects are there?").num_forwards > 0
    (ours, answers), (theirs, expected) = found["FSDP2"], found["DDP"]
    assert answers == expected and len(answers) == 6
    for entry, other in zip(ours, theirs, strict=True):
        assert entry.keys() == other.keys()
        told = [key for key in entry if key.startswith(("eval", "grad", "learning", "loss"))]
        assert [entry[key] for key in told] == pytest.approx([other[key] for key in told], abs=1e-4)
    told = (tmp_path / "saved").read_text().split()[6:]  # of both checkpoints and the finished model, FSDP2's
    assert told[::2] == ["4", "8", "8"] and all(int(count) >= 5 for count in told[1::2])


def test_a_projector_learns_and_goes_on_under_fsdp(tiny_folder, many, tmp_path):
    outputs = [tmp_path / "whole", tmp_path / "resumed"]
    size = {"train": ["projector"], "max_steps": 6, "save_steps": 3}
    for output in outputs:
        given = arguments(tiny_folder, many, output, fsdp=True, **size)
        done = launch("scripts/launch.sh", "scripts/recipes/tiny/sft.yaml", "1", "2", *given)
        assert done.returncode == 0, done.stderr[-3000:]
        if output is outputs[0]:
            shutil.copytree(output / "checkpoint-3", outputs[1] / "checkpoint-3")
    assert losses(outputs[0]) == losses(outputs[1]) and len(losses(outputs[1])) == 6
    ours, theirs = (load_file(output / "projector.safetensors") for output in outputs)
    assert largest_difference(ours, theirs) == 0 and len(ours) == 4


def test_in_bfloat16_fsdp_learns_as_ddp_does(tiny_folder, many, tmp_path):
    found = {}
    for name in ("DDP", "FSDP2"):
        given = arguments(tiny_folder, many, tmp_path / name, **RUNS[name], bf16=True)
        done = launch("scripts/launch.sh", "scripts/recipes/tiny/sft.yaml", "1", "2", *given)
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = losses(tmp_path / name)
    far = [abs(found["DDP"][step] / found["FSDP2"][step] - 1) for step in found["DDP"]]
    print(f"bfloat16: losses {max(far):.2g} of their size apart, {sum(far) / len(far):.2g} on average")
    assert len(far) == 20 and max(far) < 0.03


# Other machines than before


@pytest.mark.parametrize("name", ["DDP", "ZeRO-2", "ZeRO-3", "FSDP2"])
@pytest.mark.parametrize("devices", ["1", "3"])
def test_a_run_goes_on_with_another_number_of_processes(tiny_folder, many, tmp_path, name, devices):
    """To the losses that it would have had: the noise and the order of the records know no processes."""
    outputs = [tmp_path / "two", tmp_path / "others"]
    size = {
        "global_batch_size": 6,
        "micro_batch_size": 1,
        "max_steps": 10,
        "save_steps": 5,
        "projector_learning_rate": 3e-4,
    }
    for output, count in zip(outputs, ("2", devices), strict=True):
        given = arguments(tiny_folder, many, output, **RUNS[name], **size)
        done = launch("scripts/launch.sh", "scripts/recipes/tiny/sft.yaml", "1", count, *given)
        assert done.returncode == 0, done.stderr[-3000:]
        if output is outputs[0]:
            shutil.copytree(output / "checkpoint-5", outputs[1] / "checkpoint-5")
    assert ("of 2 processes, here are" in done.stderr) == name.startswith("ZeRO")
    unbroken, resumed = (losses(output) for output in outputs)
    assert list(unbroken) == list(resumed) == list(range(1, 11))
    difference = max(abs(unbroken[step] - resumed[step]) for step in unbroken)
    far = largest_difference(*(weights(output) for output in outputs))
    print(f"{name} from 2 processes to {devices}: losses {difference:.2g}, weights {far:.2g}")
    assert difference < 1e-4
    assert not list(outputs[1].rglob("universal*")) and not list(outputs[1].rglob("latest_universal"))


def on_two_nodes(given, port, *outputs):
    """Statuses and words of two launchers with one process each, that find each other as nodes do."""
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = ["bash", "scripts/launch.sh", "scripts/recipes/tiny/sft.yaml", "2", "1", *given, "--output"]
    nodes = [
        subprocess.Popen(
            [*command, str(output)],
            cwd=ROOT,
            env=environment | {"NODE_RANK": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, output in enumerate(outputs)
    ]
    told = [node.communicate(timeout=500)[1] for node in nodes]
    return [node.returncode for node in nodes], told


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_nodes_that_do_not_share_their_output_are_told_at_the_start(tiny_folder, many, tmp_path):
    given = arguments(tiny_folder, many, tmp_path / "run", epochs=0.25)
    outputs = [tmp_path / "one", tmp_path / "other"]
    statuses, told = on_two_nodes(given, free_port(), *outputs)
    assert all(statuses), told
    assert (
        "process 1 on " in told[1]
        and f"writes into {outputs[1]}; choose an output on storage that all nodes" in told[1]
    )
    assert not any(list(output.rglob("*.safetensors")) for output in outputs)


def test_nodes_that_share_their_output_finish(tiny_folder, many, tmp_path):
    given = arguments(tiny_folder, many, tmp_path / "run", epochs=0.25)
    statuses, told = on_two_nodes(given, free_port(), tmp_path / "run", tmp_path / "run")
    assert statuses == [0, 0], told
    assert (tmp_path / "run" / "model.safetensors").is_file()
