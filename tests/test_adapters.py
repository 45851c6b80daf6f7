"""Stages that leave a small file behind: adapters and what they merge to, and the projector alone."""

import os
import sys
from dataclasses import replace

import pytest
import torch
from runs import ADAPTED, largest_difference, losses, small_recipe
from safetensors.torch import load_file, save_file

from llada_v import LladaVForConditionalGeneration
from llada_v.answering import answer, load
from llada_v.cli import main as cli
from llada_v.training.build import load_model, load_projector, projector_state
from llada_v.training.merging import merge
from llada_v.training.train import train
from llada_v.training.trainer import LladaVTrainer


@pytest.fixture
def recipe(tiny_folder, toys, tmp_path):
    """One epoch of a LoRA stage."""
    return small_recipe(tiny_folder, toys, tmp_path / "run", epochs=1, learning_rate=1e-2, **ADAPTED)


def logits(model):
    ids = torch.arange(100, 130)[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def broken(monkeypatch, passes):
    """Runs break off at this forward pass."""
    compute_loss, calls = LladaVTrainer.compute_loss, []

    def wrapped(trainer, *args, **kwargs):
        calls.append(passes)
        if len(calls) == passes:
            raise KeyboardInterrupt
        return compute_loss(trainer, *args, **kwargs)

    monkeypatch.setattr(LladaVTrainer, "compute_loss", wrapped)


# Adapters


def test_fresh_adapters_change_no_answer_and_only_they_and_the_projector_learn(recipe, tiny_folder):
    model = load_model(recipe)
    assert torch.equal(logits(model), logits(LladaVForConditionalGeneration.from_pretrained(tiny_folder)))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "multi_modal_projector" in name for name in learning)
    blocks = model.config.text_config.num_hidden_layers
    assert len([name for name in learning if "lora_A" in name]) == 7 * blocks
    tower = load_model(replace(recipe, train=["vision_tower", "language_model"]))
    adapted = [name for name, parameter in tower.named_parameters() if "lora_A" in name]
    assert len([name for name in adapted if "vision_tower" in name]) == 6 * model.config.vision_config.num_hidden_layers


def test_an_adapter_is_saved_alone_and_merges_to_a_whole_model(recipe, tiny_folder, toys, tmp_path, capsys):
    output = train(recipe)
    saved = load_file(output / "adapter_model.safetensors")
    assert all("lora_" in name or "multi_modal_projector" in name for name in saved)
    assert not (output / "model.safetensors").exists()

    from peft import PeftModel

    base = LladaVForConditionalGeneration.from_pretrained(tiny_folder)
    before = logits(base)
    expected = logits(PeftModel.from_pretrained(base, output))
    assert (expected - before).abs().max() > 0.1
    assert cli(["merge-lora", str(output), str(tmp_path / "merged")]) == 0
    assert "a whole model" in capsys.readouterr().out
    model, processor = load(tmp_path / "merged")
    assert (logits(model) - expected).abs().max() < 1e-4
    assert answer(model, processor, "How many?", images=[str(next(toys.rglob("*.png")))]).num_forwards > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapter", "projector"])
def test_a_broken_run_goes_on_to_the_same_small_file(recipe, tmp_path, monkeypatch, kind):
    if kind == "projector":
        recipe = replace(recipe, train=["projector"], lora_rank=0)
    recipe = replace(recipe, epochs=2.0)
    unbroken = train(replace(recipe, output=str(tmp_path / "unbroken")))
    with monkeypatch.context() as patch:
        broken(patch, 10)
        with pytest.raises(KeyboardInterrupt):
            train(recipe)
    resumed = train(recipe)
    assert losses(resumed) == losses(unbroken)
    name = "adapter_model.safetensors" if kind == "adapter" else "projector.safetensors"
    assert largest_difference(load_file(resumed / name), load_file(unbroken / name)) == 0


def test_without_peft_an_adapter_says_what_to_install(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="adapters need peft; install it with: bash init_env.sh train"):
        load_model(recipe)


def test_adapters_learn_around_a_model_in_four_bits(recipe, tiny_folder, tmp_path):
    whole = train(replace(recipe, output=str(tmp_path / "whole")))
    output = train(replace(recipe, quantize="4bit"))
    model = load_model(replace(recipe, quantize="4bit"))
    packed = {name.split(".")[-3] for name, weight in model.named_parameters() if weight.dtype == torch.uint8}
    assert packed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    found, expected = losses(output), losses(whole)
    assert found[1] == pytest.approx(expected[1], rel=0.05) and found[1] != expected[1]
    assert found[4] < found[1]
    merge(output, tmp_path / "merged")  # into the weights as they were
    model, _ = load(tmp_path / "merged")
    assert all(weight.is_floating_point() for weight in model.parameters())


def test_four_bits_without_bitsandbytes_say_what_to_install(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        ImportError, match="quantize 4bit needs bitsandbytes; install it with: bash init_env.sh quantize"
    ):
        load_model(replace(recipe, quantize="4bit"))


def test_weights_in_four_bits_cannot_learn_themselves(recipe):
    with pytest.raises(ValueError, match="quantize is 4bit, but weights in 4 bits cannot learn; set lora_rank"):
        replace(recipe, quantize="4bit", lora_rank=0)


def test_what_is_no_adapter_or_would_be_overwritten_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no adapter at .*: no adapter_config.json there"):
        merge(tmp_path, tmp_path / "merged")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="exists; name a folder to make"):
        merge(tmp_path, tmp_path)


# The projector


def test_a_projector_stage_leaves_the_projector_for_the_next_stage(recipe, tiny_folder, tmp_path):
    stage = replace(recipe, train=["projector"], lora_rank=0)
    output = train(stage)
    names = {file.name for file in output.iterdir() if file.is_file() and not file.name.startswith(".")}
    told = {"recipe.yaml", "environment.json", "data.json", "run.json", "train.log", "history.jsonl", "run.html"}
    assert names == {"projector.safetensors", "config.json", "account.json"} | told
    saved = load_file(output / "projector.safetensors")
    before = projector_state(LladaVForConditionalGeneration.from_pretrained(tiny_folder))
    assert saved.keys() == before.keys() and not any(torch.equal(saved[name], before[name]) for name in saved)
    after = load_model(replace(stage, projector=str(output), output="elsewhere"))
    assert largest_difference(projector_state(after), saved) == 0


def test_the_published_projector_file_loads(recipe, tiny_folder, tmp_path):
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder)
    published = {
        f"model.mm_projector.{number}.{kind}": torch.randn_like(model.get_parameter(f"{prefix}{layer}.{kind}"))
        for prefix in ["model.multi_modal_projector."]
        for number, layer in ((0, "linear_1"), (2, "linear_2"))
        for kind in ("weight", "bias")
    }
    torch.save(published, tmp_path / "mm_projector.bin")
    load_projector(model, tmp_path / "mm_projector.bin")
    assert torch.equal(model.model.multi_modal_projector.linear_2.bias, published["model.mm_projector.2.bias"])


def test_a_projector_that_is_missing_or_does_not_fit_is_refused(tiny_folder, tmp_path):
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder)
    with pytest.raises(FileNotFoundError, match="no projector at .*projector.safetensors; train one first"):
        load_projector(model, tmp_path)
    state = projector_state(model)
    state.pop("model.multi_modal_projector.linear_1.bias")
    save_file(state, os.path.join(tmp_path, "projector.safetensors"))
    with pytest.raises(ValueError, match="does not fit the model's projector"):
        load_projector(model, tmp_path)
