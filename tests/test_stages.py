"""The published stages: scripts that start, recipes that say what was published, plans without a weight."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from runs import ROOT, changes_for, launch, texts, words

from llada_v import LladaVProcessor
from llada_v.cli import main
from llada_v.toyworld.courses import course_records
from llada_v.toyworld.records import write_dataset
from llada_v.training.recipe import load_recipe
from llada_v.training.train import train

SCRIPTS = {
    "pretrain": "scripts/llada_v_pretrain.sh",
    "sft": "scripts/train_ablation/llada_v_sft.sh",
    "si_10M": "scripts/train_llada_v/llada_v_si_10M.sh",
    "ov_2M": "scripts/train_llada_v/llada_v_ov_2M.sh",
    "vw": "scripts/train_llada_v/llada_v_vw.sh",
    "mix_ov_vw": "scripts/train_llada_v/llada_v_mix_ov_vw.sh",
    "finetune": "scripts/llada_v_finetune.sh",
    "finetune_lora": "scripts/llada_v_finetune_lora.sh",
}
# global batch, devices, micro-batch, rate, rate of the tower, longest sequence, frames, output
PUBLISHED = {
    "pretrain": (64, 4, 16, 1e-3, None, 8192, 0, "exp/llada_v_pretrain"),
    "sft": (64, 32, 1, 1e-5, 2e-6, 8192, 0, "exp/llada_v_llava_next"),
    "si_10M": (256, 64, 1, 1e-5, 2e-6, 8192, 0, "exp/llada_v_si10M"),
    "ov_2M": (256, 64, 1, 1e-5, 2e-6, 16384, 32, "exp/llada_v_ov2M"),
    "vw": (256, 64, 1, 1e-5, 2e-6, 8192, 32, "exp/llada_v_si_ov_fur_viweb"),
    "mix_ov_vw": (256, 64, 1, 1e-5, 2e-6, 16384, 32, "exp/llada_v_mix_ov_viweb"),
    "finetune": (64, 32, 1, 1e-5, 2e-6, 8192, 0, "exp/llada_v_finetune"),
}
STARTS = {"ov_2M": "si_10M", "vw": "ov_2M", "mix_ov_vw": "vw"}


def recipe_of(stage):
    return load_recipe(ROOT / f"scripts/recipes/{stage}.yaml")


@pytest.mark.parametrize("stage", PUBLISHED)
def test_a_recipe_says_what_was_published(stage):
    recipe = recipe_of(stage)
    batch, devices, micro, rate, tower, length, frames, output = PUBLISHED[stage]
    assert (recipe.global_batch_size, recipe.micro_batch_size, recipe.max_length) == (batch, micro, length)
    assert (recipe.learning_rate, recipe.vision_learning_rate, recipe.max_frames) == (rate, tower, frames)
    assert recipe.accumulation(devices) == {"pretrain": 1, "sft": 2, "finetune": 2}.get(stage, 4)
    assert (recipe.warmup_ratio, recipe.weight_decay, recipe.max_grad_norm, recipe.epochs) == (0.03, 0, 1, 1)
    assert (recipe.output, recipe.seed, recipe.bf16, recipe.gradient_checkpointing) == (output, 42, True, True)
    is_first = stage == "pretrain"
    assert recipe.train == (["projector"] if is_first else ["vision_tower", "projector", "language_model"])
    assert recipe.style == ("caption" if is_first else "chat") and recipe.group_by_length != is_first
    assert recipe.train_eos_padding == is_first  # the only stage whose batches have filler


def test_each_stage_starts_from_the_one_before_it():
    for stage, before in STARTS.items():
        assert recipe_of(stage).model == recipe_of(before).output
    for stage in ("sft", "si_10M"):
        assert recipe_of(stage).projector == recipe_of("pretrain").output
        assert recipe_of(stage).model == recipe_of("pretrain").model
    assert recipe_of("finetune").model == recipe_of("finetune_lora").model == "GSAI-ML/LLaDA-V"


def test_every_option_beyond_the_original_is_off_in_the_published_recipes():
    for stage in PUBLISHED:
        recipe = recipe_of(stage)
        assert not (recipe.complementary_masking or recipe.dialogue_causal or recipe.turns_apart)
        assert not (recipe.antithetic_t or recipe.t_min) and recipe.optimizer == "adamw"
        assert recipe.rope_inv_freq is None and recipe.lora_rank == 0 and not recipe.compile


@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_script_starts_its_recipe_and_has_a_tiny_twin(stage):
    text = (ROOT / SCRIPTS[stage]).read_text()
    assert re.search(rf'launch.sh" {stage} "\$@"$', text, re.M)
    assert all((ROOT / folder / f"{stage}.yaml").is_file() for folder in RECIPE_FOLDERS)


RECIPE_FOLDERS = ("scripts/recipes", "scripts/recipes/tiny")


@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_dry_run_resolves_everything_but_the_weights(stage, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("WORLD_SIZE", str(PUBLISHED[stage][1] if stage in PUBLISHED else 1))
    main(["train", f"scripts/recipes/{stage}.yaml", "--dry-run"])
    printed = capsys.readouterr().out
    assert "published sizes are assumed): 8,4" in printed
    assert re.search(r"projector +21,504,000 trainable, learning rate (1e-05|0.001)", printed)
    expected = "frozen" if stage == "pretrain" else "41,943,040" if stage == "finetune_lora" else "8,015,585,280"
    assert re.search(rf"language_model {expected}", printed)
    assert yaml.safe_load(printed.split("\n\n")[0])["global_batch_size"] == recipe_of(stage).global_batch_size


def test_a_dry_run_refuses_what_the_run_would_refuse(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(["train", "scripts/recipes/si_10M.yaml", "--dry-run"]) == 2
    assert "global_batch_size 256 cannot be split over 3 devices" in capsys.readouterr().err


# The launcher, with `echo` in place of Python


def line_of(*given, **variables):
    done = launch("scripts/launch.sh", *given, PYTHON="echo", CUDA_VISIBLE_DEVICES="", **variables)
    return done.returncode, done.stdout.strip() or done.stderr.strip()


def test_one_node_needs_nothing_but_the_recipe():
    expected = "-m llada_v.training.launch --standalone --nproc-per-node {} -m llada_v train scripts/recipes/vw.yaml"
    assert line_of("vw") == (0, expected.format(1))
    assert line_of("vw", "1", "4", "--epochs", "2") == (0, expected.format(4) + " --epochs 2")
    assert line_of("scripts/recipes/vw.yaml", "1")[1] == expected.format(1)
    assert line_of("vw", LLADA_V_RECIPES="scripts/recipes/tiny")[1].endswith("train scripts/recipes/tiny/vw.yaml")


@pytest.mark.parametrize(
    "visible, count",
    [("0,2,5", 3), ("GPU-5ebe9f43,GPU-f8a6b2d1", 2), ("", 1), ("-1", 1), ("-1,0,1", 1), ("0,-1,1", 1), ("0,1,-1", 2)],
)
def test_all_gpus_that_cuda_sees_are_used_and_one_process_where_there_is_none(visible, count):
    done = launch("scripts/launch.sh", "vw", PYTHON="echo", CUDA_VISIBLE_DEVICES=visible)
    assert f"--nproc-per-node {count} " in done.stdout, done.stderr


def test_several_nodes_find_each_other_by_the_usual_variables():
    code, line = line_of("vw", "8", "8", MASTER_ADDR="first", RANK="5")
    assert code == 0
    assert "--nnodes 8 --node-rank 5 --master-addr first --master-port 29199 --nproc-per-node 8 -m llada_v" in line
    line = line_of("vw", "2", "8", MASTER_ADDR="first", MASTER_PORT="1234", NODE_RANK="1", RANK="9")[1]
    assert "--node-rank 1 --master-addr first --master-port 1234" in line
    assert "--node-rank 3 " in line_of("vw", "4", "8", MASTER_ADDR="first", SLURM_NODEID="3")[1]


def test_nodes_that_come_and_go_need_a_place_to_meet_and_no_numbers():
    code, line = line_of("vw", "2:4", "8", MASTER_ADDR="first", WAIT_MINUTES="5")
    assert code == 0
    assert "--nnodes 2:4 --rdzv-backend c10d --rdzv-id llada-v --rdzv-conf join_timeout=300 " in line
    assert "--rdzv-endpoint first:29199 --max-restarts 10 --nproc-per-node 8 -m llada_v" in line


@pytest.mark.parametrize(
    "given, told",
    [
        (("vw", "1:2", "8"), "1 to 2 nodes need MASTER_ADDR"),
        (("vw", "3:2", "8"), "NUM_NODES 3:2 must be MIN:MAX"),
        (("vw", "0:2", "8"), "NUM_NODES 0:2 must be MIN:MAX"),
        ((), "usage: bash scripts/launch.sh RECIPE"),
        (("vw", "two"), "expected NUM_NODES GPUS_PER_NODE, two numbers, then --key value; found 'two'"),
        (("vw", "0"), "NUM_NODES 0 and GPUS_PER_NODE 1 must be at least 1"),
        (("vw", "2", "8"), "2 nodes need MASTER_ADDR"),
    ],
)
def test_a_launch_that_cannot_work_says_why(given, told):
    code, line = line_of(*given, MASTER_ADDR="")
    assert code == 2 and line.startswith("error: ") and told in line


@pytest.mark.parametrize(
    "number, told",
    [
        ("", "2 nodes need NODE_RANK, the number of this one, 0 on the first"),
        ("2", "NODE_RANK is 2; of 2 nodes it is 0 to 1"),
        ("-1", "NODE_RANK is -1; of 2 nodes it is 0 to 1"),
        ("first", "NODE_RANK is first; of 2 nodes it is 0 to 1"),
    ],
)
def test_a_node_without_its_number_is_refused_instead_of_waiting_for_ever(number, told):
    code, line = line_of("vw", "2", "8", MASTER_ADDR="first", NODE_RANK=number, RANK="", SLURM_NODEID="")
    assert code == 2 and line == f"error: {told}"


def test_without_python_the_launcher_says_what_to_do():
    done = launch("scripts/launch.sh", "vw", PYTHON="nowhere/python")
    assert done.returncode == 2 and "no Python at nowhere/python; run 'bash init_env.sh train'" in done.stderr


# The tiny model's chain, with a stand-in for Python that makes what each command would make

STAND_IN = """#!{python}
import sys
from pathlib import Path
import yaml

def need(path):
    if not Path(path).exists():
        sys.exit(f"{{path}} is used before it is made")

def make(folder, *names):
    Path(folder).mkdir(parents=True)
    for name in names:
        (Path(folder) / name).touch()

words = sys.argv[1:]
if words[:3] == ["-m", "llada_v.toyworld", "data"]:
    need(words[4])
    make(words[3], "records.json")
elif words[:3] == ["-m", "llada_v.toyworld", "model"]:
    make(words[3])
elif words[:3] == ["-m", "llada_v.toyworld", "sight"]:
    need(words[3])
    make(words[4])
elif words[:3] == ["-m", "llada_v.toyworld", "join"]:
    need(words[3] + "/model.safetensors")
    need(words[4])
    make(words[5])
elif "train" in words:
    given = words[words.index("train") + 1 :]
    keys = dict(zip(given[1::2], given[2::2], strict=True))
    recipe = yaml.safe_load(Path(given[0]).read_text())
    for key in ("model", "output", "data", "image_root"):  # as in the recipe, but for the folder
        assert keys[f"--{{key}}"].removeprefix("here/") == recipe[key].removeprefix("exp/tiny/"), (key, keys)
    for key in ("model", "data", "image_root"):
        need(keys[f"--{{key}}"])
    if Path("stop").exists() and recipe["output"].endswith("si_10M"):
        Path("stop").unlink()
        sys.exit()
    make(keys["--output"], *{files})
else:
    assert words[:3] == ["-m", "llada_v", "judge"], words
    need(words[words.index("--model") + 1])
"""
MODEL_FILES = [file.name for file in (ROOT / "model/llada-v-tiny").iterdir()]


def test_every_stage_of_the_tiny_chain_finds_what_it_starts_from(tmp_path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable, files=MODEL_FILES))
    python.chmod(0o755)
    (tmp_path / "stop").touch()  # the stand-in stops in si_10M, once
    assert "stopped" in launch(str(tmp_path / "scripts/train_tiny.sh"), "here", PYTHON=str(python)).stdout
    for _ in range(2):  # the second time everything is there
        done = launch(str(tmp_path / "scripts/train_tiny.sh"), "here", PYTHON=str(python))
        assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in (tmp_path / "here/llada-v-tiny").iterdir()) == sorted(MODEL_FILES)


@pytest.mark.parametrize("course", sorted(Path(ROOT, "scripts/courses").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_course_can_be_drawn_and_has_its_recipe(course):
    assert (ROOT / "scripts/recipes/tiny" / course.name).is_file()
    records = course_records(course)
    assert all(next(records)["conversations"] for _ in range(3))


# The real thing, small


@pytest.mark.parametrize("file", sorted(Path(ROOT, "scripts/recipes/tiny").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_tiny_recipe_as_it_is_written_takes_a_step(file, tiny_folder, toys, tmp_path):
    """Nothing is changed but places and the number of records: not what computes attention, and in which precision."""
    if load_recipe(file).style == "caption":
        toys = write_dataset(tmp_path / "captions", "train", 14, seed=0, style="caption")
    places = changes_for(tiny_folder, toys, tmp_path / "run")
    few = {key: places[key] for key in ("model", "output", "data", "image_root", "peak_tflops")}
    few |= {"global_batch_size": 2, "micro_batch_size": 1, "max_steps": 1}
    output = train(load_recipe(file, texts(few)))
    is_adapter = load_recipe(file).lora_rank > 0
    assert (output / ("adapter_model.safetensors" if is_adapter else "model.safetensors")).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_script_trains_its_tiny_twin(stage, tiny_folder, toys, tmp_path):
    """Four steps through the script, the launcher and torchrun, in two processes."""
    if load_recipe(ROOT / f"scripts/recipes/tiny/{stage}.yaml").style == "caption":
        toys = write_dataset(tmp_path / "captions", "train", 14, seed=0, style="caption")
    output = tmp_path / "run"
    small = changes_for(tiny_folder, toys, output)
    changed = {key: small[key] for key in ("model", "output", "data", "image_root", "peak_tflops", "log_steps")}
    changed |= {"global_batch_size": 4, "micro_batch_size": 1, "epochs": 1, "compile": "false"}
    done = launch(SCRIPTS[stage], "1", "2", *words(changed), LLADA_V_RECIPES="scripts/recipes/tiny")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "step 3 of " in done.stderr
    is_adapter = stage == "finetune_lora"
    assert (output / ("adapter_model.safetensors" if is_adapter else "model.safetensors")).is_file()
    assert LladaVProcessor.from_pretrained(output)
    shutil.rmtree(output)


def test_every_script_is_known_here():
    found = {str(file.relative_to(ROOT)) for file in Path(ROOT, "scripts").rglob("llada_v_*.sh")}
    assert found == set(SCRIPTS.values())
