"""What the keys of a recipe do to a run: each option shows in the loss, in the gradients, or in what is written."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import ROOT, largest_difference, losses, small_recipe, weights

from llada_v.configuration_llada_v import IGNORE
from llada_v.modeling_llada import LladaMLP
from llada_v.training import plan
from llada_v.training import trainer as trainer_module
from llada_v.training.build import load_model
from llada_v.training.dialogue import conversation_ids, dialogue_causal_mask, turns_apart_mask
from llada_v.training.noise import add_noise, complement, diffusion_loss
from llada_v.training.records import Collator, RecordDataset
from llada_v.training.train import train
from llada_v.training.trainer import LladaVTrainer, training_arguments
from llada_v.training.zero import offloads, read_deepspeed, zero_stage

DEEPSPEED = sorted((ROOT / "scripts/deepspeed").glob("*.json"))


@pytest.fixture
def recipe(tiny_folder, toys, tmp_path):
    return small_recipe(tiny_folder, toys, tmp_path / "run")


def make(recipe, processor):
    """A trainer and a batch of two records."""
    dataset = RecordDataset(recipe, processor)
    collator = Collator(processor.config.pad_token_id, recipe.train_eos_padding)
    model = load_model(recipe).train()
    arguments = training_arguments(recipe, 1)
    trainer = LladaVTrainer(recipe, model, dataset, args=arguments, data_collator=collator, processing_class=processor)
    return trainer, collator([dataset[0], dataset[1]])


def seen(model):
    """What the model is called with from now on."""
    calls = []
    model.register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True)
    return calls


# The loss


def test_the_trainer_s_loss_is_that_of_all_logits(recipe, tiny_processor):
    trainer, batch = make(recipe, tiny_processor)
    found = trainer.compute_loss(trainer.model, batch)
    draw = trainer_module.draw_noise(recipe.seed, 0, range(2), recipe.global_batch_size, batch["input_ids"].shape[1])
    assert found.item() == pytest.approx(plain_loss(trainer.model, batch, draw), rel=1e-6)


def plain_loss(model, batch, draw) -> float:
    batch = dict(batch)
    ids, labels = batch.pop("input_ids"), batch.pop("labels")
    noised = add_noise(ids, labels, model.config.mask_token_id, draw)
    with torch.no_grad():
        logits = model(input_ids=noised.input_ids, **batch).logits[noised.is_masked]
    return diffusion_loss(logits, labels, noised.is_masked, noised.p_mask).item()


def test_complementary_masking_trains_every_answer_twice_and_shows_the_pictures_once(recipe, tiny_processor):
    trainer, batch = make(replace(recipe, complementary_masking=True), tiny_processor)
    tiles = []
    trainer.model.model.vision_tower.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: tiles.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    found = trainer.compute_loss(trainer.model, batch).item()
    draw = trainer_module.draw_noise(recipe.seed, 0, range(2), recipe.global_batch_size, batch["input_ids"].shape[1])
    both = [plain_loss(trainer.model, batch, each) for each in (draw, complement(draw))]
    assert found == pytest.approx(sum(both) / 2, rel=1e-5)
    assert tiles[0] == len(batch["pixel_values"])


def test_a_dialogue_hides_later_turns_where_the_recipe_says_so(recipe, tiny_processor):
    trainer, batch = make(replace(recipe, dialogue_causal=True), tiny_processor)
    calls = seen(trainer.model)
    trainer.compute_loss(trainer.model, batch)
    mask, config = calls[0]["attention_mask"], trainer.model.config
    assistant = tiny_processor.tokenizer.encode("assistant", add_special_tokens=False)[0]
    turns = conversation_ids(batch["labels"], config.start_header_id, config.eot_token_id, assistant)
    assert turns.max() == 1  # two questions
    assert torch.equal(mask, dialogue_causal_mask(turns, batch["attention_mask"]))
    assert not mask[0, 0, 0].all() and mask[0, 0, :, 0].all()


def test_turns_apart_are_answered_as_if_each_stood_alone(recipe, tiny_processor):
    trainer, batch = make(replace(recipe, turns_apart=True), tiny_processor)
    calls = seen(trainer.model)
    trainer.compute_loss(trainer.model, batch)
    call, config = calls[0], trainer.model.config
    assistant = tiny_processor.tokenizer.encode("assistant", add_special_tokens=False)[0]
    turns = conversation_ids(batch["labels"], config.start_header_id, config.eot_token_id, assistant)
    assert turns.max() == 1  # two questions
    is_picture = batch["input_ids"] == config.image_token_id
    assert torch.equal(call["attention_mask"], turns_apart_mask(turns, is_picture, batch["attention_mask"]))


def test_the_first_of_turns_apart_is_read_as_the_conversation_that_ends_with_it(recipe, tiny_processor):
    trainer, _ = make(replace(recipe, turns_apart=True), tiny_processor)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    calls = seen(trainer.model)
    trainer.compute_loss(trainer.model, batch)
    call = calls[0]
    length = (~call["attention_mask"][0, 0, 0]).nonzero()[0].item()  # the second turn, which the first does not see
    assert (batch["labels"][0, length:] != IGNORE).any()
    shown = {key: batch[key] for key in ("pixel_values", "image_sizes")}
    ids = call["input_ids"]
    with torch.no_grad():
        together = trainer.model(input_ids=ids, attention_mask=call["attention_mask"], **shown).logits
        alone = trainer.model(input_ids=ids[:, :length], **shown).logits
    assert torch.allclose(together[:, :length], alone, atol=1e-5)


@pytest.mark.parametrize("name", ["dialogue_causal", "turns_apart"])
def test_turns_are_hidden_in_conversations_and_without_flash_attention_alone(recipe, name):
    for changes in ({"style": "caption"}, {"attn_implementation": "flash_attention_2"}):
        with pytest.raises(ValueError, match=f"{name} needs style chat and attn_implementation sdpa or eager"):
            replace(recipe, **{name: True}, **changes)


def test_turns_are_hidden_in_one_way(recipe):
    with pytest.raises(ValueError, match="dialogue_causal and turns_apart are both true; choose one"):
        replace(recipe, dialogue_causal=True, turns_apart=True)


def test_answers_of_turns_apart_are_filled_to_one_length(recipe, tiny_processor):
    plain, filled = (
        RecordDataset(replace(recipe, turns_apart=True, train_eos_padding=True, turn_canvas=n), tiny_processor)[0]
        for n in (0, 16)
    )
    config = tiny_processor.config
    assert (filled["input_ids"] == config.pad_token_id).sum() > (plain["input_ids"] == config.pad_token_id).sum()
    ends = (filled["input_ids"] == config.start_header_id).nonzero().flatten().tolist()[2:] + [len(filled["labels"])]
    assert [(end - start) % 16 for start, end in zip(ends[:-1:2], ends[1::2], strict=True)] == [0, 0]


def test_a_canvas_of_turns_needs_turns_apart_and_padding_that_is_trained(recipe):
    for changes in ({"turns_apart": False}, {"turns_apart": True, "train_eos_padding": False}):
        with pytest.raises(ValueError, match="turn_canvas is 16, which needs turns_apart and"):
            replace(recipe, turn_canvas=16, **changes)


def test_text_alone_trains_on_the_same_modules_as_pictures(recipe, tiny_processor):
    trainer, batch = make(recipe, tiny_processor)
    text = {key: batch[key].clone() for key in ("input_ids", "labels", "attention_mask")}
    text["input_ids"][text["input_ids"] == tiny_processor.config.image_token_id] = 5
    loss = trainer.compute_loss(trainer.model, text)
    loss.backward()
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            is_seen = "vision_tower" not in name and "multi_modal_projector" not in name and "newline" not in name
            assert is_seen or not parameter.grad.any(), name
    draw = trainer_module.draw_noise(recipe.seed, 0, range(2), recipe.global_batch_size, text["input_ids"].shape[1])
    assert loss.item() == pytest.approx(plain_loss(trainer.model, text, draw), rel=1e-6)


def test_rounded_rotary_frequencies_come_from_the_recipe_and_stay_with_the_weights(recipe, tmp_path):
    exact, rounded = (load_model(replace(recipe, rope_inv_freq=kind)) for kind in (None, "bf16_rounded"))
    ids = torch.arange(100, 400)[None]
    with torch.no_grad():
        assert not torch.allclose(exact(input_ids=ids).logits, rounded(input_ids=ids).logits, atol=1e-4)
    rounded.config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["text_config"]["rope_inv_freq"] == "bf16_rounded"


# A run


@pytest.fixture
def block_calls(monkeypatch):
    """Counts the forward passes of the trunk's blocks, by their MLPs: what is around a block is not computed twice."""
    forward, calls = LladaMLP.forward, []

    def counted(mlp, x):
        if not x.is_meta:  # the budget's
            calls.append(x.shape)
        return forward(mlp, x)

    monkeypatch.setattr(LladaMLP, "forward", counted)
    return calls


def test_gradient_checkpointing_computes_twice_and_changes_nothing(recipe, tmp_path, block_calls, caplog):
    caplog.set_level("INFO")
    recipe = replace(recipe, epochs=0.5, save_steps=1)
    plain = train(replace(recipe, output=str(tmp_path / "plain")))
    once = len(block_calls)
    checkpointed = train(replace(recipe, gradient_checkpointing=True))
    assert len(block_calls) - once == 2 * once
    assert losses(plain) == losses(checkpointed)
    assert largest_difference(weights(plain), weights(checkpointed)) < 1e-6

    # Each step says how fast it was, and how long the rest takes.
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("progress")]
    assert len(lines) == 4 and lines[0].startswith("step 1 of 2 | loss ") and lines[1].endswith("0:00:00 left")
    history = json.loads((plain / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    for key in ("tokens_per_second", "images_per_second", "mfu", "memory_gib"):
        assert history[0][key] > 0


@pytest.mark.slow
def test_compiled_blocks_train_to_the_same_weights(recipe, tmp_path):
    import torch._dynamo

    recipe = replace(recipe, epochs=0.5)
    plain = train(replace(recipe, output=str(tmp_path / "plain")))
    torch._dynamo.utils.counters.clear()
    compiled = train(replace(recipe, compile=True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert largest_difference(weights(plain), weights(compiled)) < 1e-4


@pytest.mark.slow
def test_numbers_go_to_tensorboard_and_to_an_offline_wandb(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    output = train(replace(recipe, epochs=0.5, report_to=["tensorboard", "wandb"]))
    assert list((output / "runs").rglob("events.out.tfevents.*"))
    assert list((tmp_path / "wandb").rglob("*.wandb"))


def test_a_reporter_that_is_not_installed_is_named(recipe, monkeypatch):
    monkeypatch.setattr(plan, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="report_to wandb needs wandb; install it with: bash init_env.sh train"):
        training_arguments(replace(recipe, report_to=["wandb"]), 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_run_that_diverges_ends_and_keeps_the_checkpoint_from_before(recipe, monkeypatch, bad):
    """Also where log lines are rare: what is saved has a loss that was looked at."""
    compute_loss, calls = LladaVTrainer.compute_loss, []

    def diverging(trainer, *args, **kwargs):
        calls.append(0)
        return compute_loss(trainer, *args, **kwargs) * (bad if len(calls) == 6 else 1)  # two passes a step

    monkeypatch.setattr(LladaVTrainer, "compute_loss", diverging)
    with pytest.raises(ValueError, match="the loss is (nan|inf) after step 4: .*checkpoint-2 is from before"):
        train(replace(recipe, epochs=2.0, save_steps=2, log_steps=100))
    assert [folder.name for folder in Path(recipe.output).glob("checkpoint-*")] == ["checkpoint-2"]
    assert not (Path(recipe.output) / "model.safetensors").exists()


def test_the_rate_of_every_part_is_logged(recipe):
    recipe = replace(recipe, epochs=1.0, projector_learning_rate=1e-4, vision_learning_rate=5e-4, save_steps=4)
    history = json.loads((train(recipe) / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    entries = [entry for entry in history if "loss" in entry]
    for entry in entries:
        found = [entry[f"learning_rate/{part}"] for part in ("language_model", "projector", "vision_tower")]
        assert found == pytest.approx([found[0], found[0] / 10, found[0] / 2]) and entry["learning_rate"] in found
    assert max(entry["learning_rate/projector"] for entry in entries) == pytest.approx(1e-4)


def test_rates_start_anew_where_the_recipe_says_so(recipe):
    recipe = replace(recipe, epochs=2.0, warm_restarts={3: 0.5}, warmup_ratio=0.0, projector_learning_rate=1e-4)
    lines = [json.loads(line) for line in (train(recipe) / "history.jsonl").read_text().splitlines()]
    steps = lines[-1]["step"]
    found = [line["learning_rate/projector"] for line in lines if "loss" in line]
    cycles = ((1, 3), (0.5, steps - 3))
    shares = [peak / 2 * (1 + math.cos(math.pi * at / length)) for peak, length in cycles for at in range(length)]
    assert found == pytest.approx([1e-4 * share for share in shares])


def test_a_finished_model_is_the_mean_of_the_ends_of_its_last_cycles(recipe):
    cycles = {1: 1, 2: 0.5, 3: 1, 99: 1}
    recipe = replace(recipe, epochs=2.0, warm_restarts=cycles, average=3, save_steps=1, save_total=99)
    output = train(recipe)
    steps = [2, 3, max(int(folder.name.rpartition("-")[2]) for folder in output.glob("checkpoint-*"))]
    assert sorted(folder.name for folder in output.glob("cycle-*")) == ["cycle-2", "cycle-3"]
    ends = [weights(output / f"checkpoint-{step}") for step in steps]
    for name, weight in weights(output).items():
        assert torch.allclose(weight, sum(end[name] for end in ends) / 3, rtol=1e-5, atol=1e-7), name
    assert any(not torch.equal(weight, ends[-1][name]) for name, weight in weights(output).items())
    load_model(replace(recipe, model=str(output)))


def test_a_restart_behind_the_end_is_said_and_does_not_come(recipe, tmp_path, caplog):
    recipe = replace(recipe, epochs=1.0)
    expected = weights(train(replace(recipe, output=str(tmp_path / "without"))))
    found = weights(train(replace(recipe, warm_restarts={99: 1})))
    assert "warm_restarts is {99: 1}, but the run ends after step" in caplog.text
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


# DeepSpeed's settings


@pytest.mark.parametrize("file", DEEPSPEED, ids=lambda file: file.stem)
def test_the_project_s_deepspeed_settings_keep_what_the_recipe_says(file):
    settings = read_deepspeed(file)
    assert zero_stage(settings) == (2 if file.stem == "zero2" else 3)
    assert offloads(settings) == (file.stem == "zero3_offload")
    for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"):
        assert settings[key] == "auto"


@pytest.mark.parametrize(
    "text, told",
    [
        ("{", "is not valid JSON"),
        ('{"optimizer": {}}', "has a section 'optimizer', with which the recipe's rates would be lost"),
        ('{"scheduler": {}}', "has a section 'scheduler'"),
        ('{"zero_optimization": {"stage": 3}}', "lacks stage3_gather_16bit_weights_on_model_save"),
    ],
)
def test_deepspeed_settings_that_would_overrule_the_recipe_are_refused(tmp_path, text, told):
    (tmp_path / "zero.json").write_text(text)
    with pytest.raises(ValueError, match=f"zero.json {told}"):
        read_deepspeed(tmp_path / "zero.json")
    with pytest.raises(FileNotFoundError, match="no DeepSpeed settings at .*nowhere.json"):
        read_deepspeed(tmp_path / "nowhere.json")
