"""Records that share a row: the losses and gradients that they have alone; every process has as many rows."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import ADAPTED, largest_difference, losses, small_recipe, weights

from llada_v import LladaVForConditionalGeneration
from llada_v.packed import PackedRows
from llada_v.training.order import GroupedSampler
from llada_v.training.packing import PackSampler, packs_of
from llada_v.training.records import Collator, RecordDataset
from llada_v.training.train import train
from llada_v.training.trainer import LladaVTrainer, training_arguments

LENGTHS = [5, 17, 1, 32, 17]


@pytest.fixture
def recipe(tiny_folder, toys, tmp_path):
    """Eight steps, the fourth and the eighth of half a batch."""
    changes = {"micro_batch_size": 1, "epochs": 2.0, "save_steps": 8, "pad_to_multiple_of": 1}
    return small_recipe(tiny_folder, toys, tmp_path / "run", **changes)


# The trunk


def alone_and_packed(trunk, lengths, hidden):
    """States of rows one by one, and of the same rows in one."""
    apart = [trunk(inputs_embeds=part).last_hidden_state for part in hidden.split(lengths, dim=1)]
    return torch.cat(apart, dim=1), trunk(inputs_embeds=hidden, lengths=lengths).last_hidden_state


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_in_one_have_the_states_and_gradients_that_they_have_alone(tiny_folder, attention):
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder, attn_implementation=attention)
    trunk = model.model.language_model
    hidden = torch.randn(1, sum(LENGTHS), model.config.text_config.hidden_size, generator=torch.manual_seed(0))
    found = []
    for number in range(2):
        trunk.zero_grad()
        leaf = hidden.clone().requires_grad_()
        states = alone_and_packed(trunk, LENGTHS, leaf)[number]
        (states * torch.arange(states.shape[1])[:, None]).sum().backward()
        found.append([states.detach(), leaf.grad, *(weight.grad.clone() for weight in trunk.layers.parameters())])
    for alone, packed in zip(*found, strict=True):
        assert (alone - packed).abs().max() <= 2e-5 * alone.abs().max()


def test_wanted_positions_of_rows_in_one_and_rows_of_one_length(tiny_model):
    trunk = tiny_model.model.language_model
    hidden = torch.randn(1, 24, tiny_model.config.text_config.hidden_size, generator=torch.manual_seed(0))
    wanted = torch.zeros(1, 24, dtype=torch.bool)
    wanted[0, [1, 9, 23]] = True
    alone, _ = alone_and_packed(trunk, [8, 8, 8], hidden)
    found = trunk(inputs_embeds=hidden, lengths=[8, 8, 8], wanted=wanted).last_hidden_state
    torch.testing.assert_close(found, alone[0, [1, 9, 23]], rtol=1e-4, atol=1e-5)
    assert PackedRows([8, 8, 8], hidden.device).mask is None


def test_flash_attention_is_told_where_rows_end():
    told = {}

    def flash(module, query, key, value, mask, **options):
        told.update(options, mask=mask)
        return query.transpose(1, 2), None

    module = type("Module", (), {"config": type("Config", (), {"_attn_implementation": "flash_attention_2"})})
    heads = torch.randn(1, 2, sum(LENGTHS), 4)
    mixed = PackedRows(LENGTHS, heads.device).attend(flash, module, heads, heads, heads, scaling=0.5)
    assert torch.equal(mixed, heads.transpose(1, 2)) and told["mask"] is None and told["scaling"] == 0.5
    assert told["cu_seq_lens_q"].tolist() == told["cu_seq_lens_k"].tolist() == [0, 5, 22, 23, 55, 72]
    assert told["cu_seq_lens_q"].dtype == torch.int32 and told["max_length_q"] == told["max_length_k"] == 32


def test_lengths_that_do_not_fit_the_row_or_stand_beside_a_mask_are_refused(tiny_model):
    trunk, hidden = tiny_model.model.language_model, torch.zeros(1, 9, tiny_model.config.text_config.hidden_size)
    with pytest.raises(ValueError, match=r"rows of 8 tokens in one, but the input is \(1, 9\)"):
        trunk(inputs_embeds=hidden, lengths=[3, 5])
    with pytest.raises(ValueError, match="leave attention_mask and cache out"):
        trunk(inputs_embeds=hidden, lengths=[4, 5], attention_mask=torch.ones(1, 9))


# Rows of a step


def test_rows_hold_every_record_once_and_no_more_tokens_than_they_may():
    random = np.random.default_rng(0)
    for processes in (1, 2, 3, 8):
        for _ in range(20):
            lengths = random.integers(1, 300, random.integers(1, 40)).tolist()
            rows = packs_of(lengths, 256, processes)
            assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
            assert len(rows) % processes == 0
            loads = [sum(lengths[number] for number in row) for row in rows]
            assert max(loads) <= max(256, *lengths) and loads == sorted(loads, reverse=True)
    assert packs_of([10, 10, 10, 10], 40, 1) == [[0, 1, 2, 3]]
    assert packs_of([7], 4, 2) == [[0], []]


def test_processes_share_the_records_that_a_step_has_without_packing_in_every_epoch():
    lengths, modalities = np.arange(1, 103), np.arange(102) % 3
    for processes in (1, 2, 4):
        sampler = [
            PackSampler(GroupedSampler(lengths, modalities, 8, 0), lengths, 8, 150, process, processes)
            for process in range(processes)
        ]
        for epoch in (0, 1):
            order = GroupedSampler(lengths, modalities, 8, 0)
            order.set_epoch(epoch)
            expected = list(order)[: 102 // processes * processes]
            steps = [expected[first : first + 8] for first in range(0, len(expected), 8)]
            for one in sampler:
                one.set_epoch(epoch)
            found = [list(one) for one in sampler]
            assert all(len(of_one) == len(sampler[0]) == len(steps) for of_one in found)
            for step, rows in zip(steps, zip(*found, strict=True), strict=True):
                assert len({len(mine) for mine in rows}) == 1
                named = sorted((place, record) for mine in rows for row in mine for record, place in row[:-1])
                assert named == list(enumerate(step))
                assert {row[-1] for mine in rows for row in mine} == {(None, len(step))}


# Training


def gradients_of(recipe, model, processor, groups):
    """Gradients and loss of a step whose records come in these groups."""
    records = RecordDataset(recipe, processor)
    trainer = LladaVTrainer(
        recipe,
        model,
        records,
        args=training_arguments(recipe, 1),
        data_collator=Collator(processor.config.pad_token_id, False, 1),
        processing_class=processor,
    )
    total = sum(map(len, groups))
    model.zero_grad()
    loss = 0.0
    for group in groups:
        batch = trainer.data_collator([records[number] for number in group])
        if recipe.pack_length:
            batch |= {"places": torch.tensor(group), "of_records": total}
        part = trainer.compute_loss(model.train(), batch) / (1 if recipe.pack_length else total)
        part.backward()
        loss += part.item()
    return loss, {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("complementary", [False, True])
def test_a_step_has_the_same_loss_and_gradients_whichever_records_share_a_row(
    recipe, tiny_folder, tiny_processor, complementary
):
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder)
    recipe = replace(recipe, complementary_masking=complementary)
    loss, grads = gradients_of(recipe, model, tiny_processor, [[0], [1], [2], [3]])
    packed = replace(recipe, pack_length=900)
    for groups in ([[0, 1, 2, 3]], [[2], [0, 3], [1]]):
        found, theirs = gradients_of(packed, model, tiny_processor, groups)
        assert found == pytest.approx(loss, rel=1e-6)
        assert theirs.keys() == grads.keys()
        for name, grad in grads.items():
            assert (theirs[name] - grad).abs().max() <= 1e-4 * grad.abs().max() + 1e-7, name


@pytest.mark.slow
def test_a_packed_run_has_the_losses_of_the_run_that_is_not_and_goes_on_the_same(recipe, tmp_path):
    plain = train(recipe)
    packed = replace(recipe, output=str(tmp_path / "packed"), pack_length=500, save_steps=3, save_total=9)
    whole = train(packed)
    ours, theirs = losses(whole), losses(plain)
    assert list(ours) == list(theirs) == list(range(1, 9))
    assert max(abs(ours[step] - theirs[step]) for step in ours) < 1e-4
    first = weights(whole)
    (whole / "model.safetensors").unlink()
    for folder in whole.glob("checkpoint-*"):
        if folder.name != "checkpoint-6":
            shutil.rmtree(folder)
    again = train(packed)
    assert losses(again) == ours and largest_difference(weights(again), first) == 0


def test_adapters_learn_in_rows_that_records_share(recipe):
    output = train(replace(recipe, pack_length=500, max_steps=1, save_steps=0, **ADAPTED))
    assert (output / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("key", "value"), [("micro_batch_size", 2), ("train_eos_padding", True), ("turns_apart", True), ("compile", True)]
)
def test_what_does_not_go_with_packing_is_refused(recipe, key, value):
    with pytest.raises(ValueError, match=f"pack_length is 500, with which {key} must be "):
        replace(recipe, pack_length=500, **{key: value})
