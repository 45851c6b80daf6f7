"""From records to weights: noise, loss, batches, recipes, and a run that goes on the same after it was broken off."""

import json
import math
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from runs import small_recipe
from safetensors.torch import load_file

from llada_v import LladaVForConditionalGeneration
from llada_v.configuration_llada_v import IGNORE
from llada_v.fields import kinds_of, rules_of
from llada_v.training.build import count_trainable, freeze, parameter_groups
from llada_v.training.muon import MuonAndAdamW
from llada_v.training.noise import EPSILON, Draw, add_noise, complement, diffusion_loss, draw_noise
from llada_v.training.recipe import Recipe, load_recipe
from llada_v.training.records import Collator, RecordDataset
from llada_v.training.saving import newest_checkpoint
from llada_v.training.train import train
from llada_v.training.trainer import LladaVTrainer

RECIPES = sorted((Path(__file__).parent.parent / "scripts" / "recipes").rglob("*.yaml"))
EOS, MASK = 7, 9


@pytest.fixture
def recipe(tiny_folder, toys, tmp_path):
    """Twelve steps on the small world, four an epoch, the fourth of half a batch; in float32."""
    return small_recipe(tiny_folder, toys, tmp_path / "run")


# Noise


def ids_and_labels(rows=4, length=5000):
    """Random ids of which every second has a label."""
    ids = torch.randint(10, 100, (rows, length), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(length) % 2 == 0, ids, IGNORE)
    return ids, labels


def test_only_labelled_positions_are_masked():
    ids, labels = ids_and_labels()
    noised = add_noise(ids, labels, MASK, drawn(1))
    assert noised.is_masked.any() and not noised.is_masked[labels == IGNORE].any()
    assert (noised.input_ids[noised.is_masked] == MASK).all()
    assert torch.equal(noised.input_ids[~noised.is_masked], ids[~noised.is_masked])


def test_each_row_is_masked_at_its_own_rate():
    ids, labels = ids_and_labels(rows=8)
    noised = add_noise(ids, labels, MASK, drawn(2, rows=8))
    rates = noised.is_masked.sum(1) / (labels != IGNORE).sum(1)
    assert noised.p_mask.unique().numel() == 8
    assert (rates - noised.p_mask).abs().max() < 0.04  # four standard deviations of 2,500 draws


def drawn(seed, rows=4, length=5000, step=0, **options) -> Draw:
    """The random numbers of all rows of a global batch."""
    return draw_noise(seed, step, range(rows), rows, length, **options)


def rates(draw) -> torch.Tensor:
    """The masking probability of each row."""
    return add_noise(torch.zeros(len(draw.t), 1), torch.zeros(len(draw.t), 1), MASK, draw).p_mask


def test_rates_are_uniform_from_epsilon_to_one():
    found = rates(drawn(3, 20_000, 1))
    assert EPSILON <= found.min() and found.max() < 1
    assert abs(found.mean() - 0.5) < 0.01 and abs(found.std() - math.sqrt(1 / 12)) < 0.01
    by_step = torch.cat([drawn(3, 1, 1, step).t for step in range(5_000)])
    assert abs(by_step.mean() - 0.5) < 0.02 and abs(by_step.std() - math.sqrt(1 / 12)) < 0.02
    assert abs(torch.corrcoef(torch.stack((by_step[1:], by_step[:-1])))[0, 1]) < 0.05


def test_clipped_noise_keeps_every_level_at_or_above_t_min_and_covers_the_rest_evenly():
    found = rates(drawn(4, 20_000, 1, t_min=0.4))
    assert found.min() >= 0.4 and found.max() <= 1
    assert found.mean() == pytest.approx(0.7, abs=0.01)


def test_antithetic_noise_puts_one_level_into_each_part_of_the_range():
    for seed in range(20):
        t = drawn(seed, 8, 1, antithetic_t=True).t
        assert sorted((t * 8).floor().int().tolist()) == list(range(8))
    firsts = torch.stack([drawn(seed, 2, 1, antithetic_t=True).t[0] for seed in range(99)])
    assert 0.4 < firsts.mean() < 0.6  # a single row stays uniform


def test_noise_depends_on_the_seed_and_the_step():
    first, again = drawn(1), drawn(1)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    for other in (drawn(2), drawn(1, step=1)):
        assert not set(other.t.tolist()) & set(first.t.tolist())
        assert not torch.equal(other.uniform, first.uniform)


@pytest.mark.parametrize("antithetic_t", [False, True])
def test_noise_does_not_depend_on_how_a_batch_is_split(antithetic_t):
    whole = drawn(1, rows=6, length=50, antithetic_t=antithetic_t)
    for rows, length in ((range(0, 2), 50), (range(2, 5), 20), (range(5, 6), 1)):
        part = draw_noise(1, 0, rows, 6, length, antithetic_t=antithetic_t)
        assert torch.equal(part.t, whole.t[rows]) and torch.equal(part.uniform, whole.uniform[rows, :length])


@pytest.mark.parametrize("t_min", [0.0, 0.3])
def test_every_labelled_token_is_masked_by_a_draw_or_its_complement(t_min):
    ids, labels = ids_and_labels()
    draw = drawn(5, t_min=t_min)
    first, second = (add_noise(ids, labels, MASK, each) for each in (draw, complement(draw, t_min)))
    assert torch.equal(first.is_masked | second.is_masked, labels != IGNORE)
    both = (first.is_masked & second.is_masked).sum() / (labels != IGNORE).sum()
    assert both == pytest.approx(EPSILON + t_min, abs=0.02)  # without clipping the masks are opposites
    assert torch.allclose(first.p_mask + second.p_mask, torch.full((4,), 1 + t_min + EPSILON * (1 - t_min)))


# Loss


def test_the_loss_and_its_gradient_are_those_of_the_equation():
    generator = torch.Generator().manual_seed(0)
    ids, labels = ids_and_labels(rows=3, length=12)
    labels[2] = IGNORE
    labels[2, 5] = ids[2, 5]
    is_masked, p_mask = add_noise(ids, labels, MASK, drawn(0, 3, 12))[1:]
    assert is_masked[:2].any()
    logits = torch.randn(int(is_masked.sum()), 100, generator=generator, requires_grad=True)

    expected, at = 0.0, 0
    for row in range(3):
        count, inner = 0, 0.0
        for position in range(12):
            count += int(labels[row, position] != IGNORE)
            if is_masked[row, position]:
                inner = inner - logits[at].log_softmax(-1)[ids[row, position]] / p_mask[row]
                at += 1
        expected = expected + inner / count
    expected = expected / 3
    found = diffusion_loss(logits, labels, is_masked, p_mask)
    assert torch.allclose(found, expected, rtol=1e-6)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("label", [IGNORE, 5])
def test_without_a_mask_the_loss_is_nought(label):
    labels, nothing = torch.full((2, 3), label), torch.zeros(2, 3, dtype=torch.bool)
    logits = torch.zeros(0, 100, requires_grad=True)
    loss = diffusion_loss(logits, labels, nothing, torch.tensor([0.5, 0.5]))
    loss.backward()
    assert loss == 0


def test_the_loss_is_float32_whatever_the_logits_are():
    labels, is_masked = torch.tensor([[5, 6]]), torch.tensor([[True, False]])
    logits = torch.randn(1, 100, generator=torch.Generator().manual_seed(0)).bfloat16()
    loss = diffusion_loss(logits, labels, is_masked, torch.tensor([0.5]))
    assert loss.dtype == torch.float32
    assert loss == diffusion_loss(logits.float(), labels, is_masked, torch.tensor([0.5]))


# Batches


def rows_of(*lengths, tiles=()):
    """Encoded records; `tiles` gives some of them a picture."""
    rows = []
    for row, length in enumerate(lengths):
        ids = torch.arange(1, length + 1)
        rows.append({"input_ids": ids, "labels": ids.masked_fill(ids == 1, IGNORE)})
        if row in tiles:
            pixels = torch.full((row + 1, 3, 2, 2), float(row))
            sizes, layouts = torch.tensor([[row, row]]), torch.tensor([[2, row + 1]])
            rows[-1] |= {"pixel_values": pixels, "image_sizes": sizes, "image_layouts": layouts}
    return rows


def test_eos_padding_is_trained_as_in_the_original():
    batch = Collator(EOS, train_eos_padding=True)(rows_of(3, 5))
    assert batch["input_ids"].tolist() == [[1, 2, 3, EOS, EOS], [1, 2, 3, 4, 5]]
    assert batch["labels"].tolist() == [[IGNORE, 2, 3, EOS, EOS], [IGNORE, 2, 3, 4, 5]]
    assert "attention_mask" not in batch


def test_hidden_padding_is_neither_seen_nor_trained():
    batch = Collator(EOS, train_eos_padding=False)(rows_of(3, 5))
    assert batch["input_ids"].tolist() == [[1, 2, 3, EOS, EOS], [1, 2, 3, 4, 5]]
    assert batch["labels"].tolist() == [[IGNORE, 2, 3, IGNORE, IGNORE], [IGNORE, 2, 3, 4, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]


def test_lengths_are_rounded_up():
    for train_eos_padding in (True, False):
        batch = Collator(EOS, train_eos_padding, pad_to_multiple_of=8)(rows_of(3, 9))
        assert batch["input_ids"].shape == batch["labels"].shape == (2, 16)


def test_pictures_of_a_batch_are_joined_in_the_order_of_its_rows():
    batch = Collator(EOS, train_eos_padding=False)(rows_of(3, 5, 4, tiles=(0, 2)))
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0, 2, 2, 2]
    assert batch["image_sizes"].tolist() == [[0, 0], [2, 2]] and batch["image_layouts"].tolist() == [[2, 1], [2, 3]]
    assert "pixel_values" not in Collator(EOS, train_eos_padding=False)(rows_of(3, 5))


# Recipes


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_loads(file):
    recipe = load_recipe(file)
    assert recipe.accumulation(num_devices=1) >= 1


def test_overrides_win_over_the_file():
    overrides = {"epochs": "2.5", "train": "[projector]", "bf16": "false", "vision_learning_rate": "2e-6"}
    recipe = load_recipe(RECIPES[0], overrides)
    assert (recipe.epochs, recipe.train, recipe.bf16, recipe.vision_learning_rate) == (2.5, ["projector"], False, 2e-6)
    assert replace(recipe, **{key: asdict(load_recipe(RECIPES[0]))[key] for key in overrides}) == load_recipe(
        RECIPES[0]
    )


@pytest.mark.parametrize(
    "key, text, told",
    [
        ("learning-rate", "1", "--learning-rate is not a key of a recipe; the keys are model, projector"),
        ("epochs", "many", "epochs is 'many'; it must be a number above 0, at most"),
        ("epochs", "null", "epochs is None; it must be a number"),
        ("learning_rate", "true", "learning_rate is True; it must be a number"),
        ("vision_learning_rate", "[1]", "vision_learning_rate is .1.; it must be a number"),
        ("micro_batch_size", "1.5", "micro_batch_size is 1.5; it must be a whole number from 1 to"),
        ("micro_batch_size", "true", "micro_batch_size is True; it must be a whole number from 1 to"),
        ("micro_batch_size", "0", "micro_batch_size is 0; it must be a whole number from 1 to"),
        ("bf16", "1", "bf16 is 1; it must be true or false"),
        ("model", "3", "model is 3; it must be a text"),
        ("train", "projector", "train is 'projector'; list one or more of"),
        ("train", "[]", r"train is \[\]; list one or more of vision_tower, projector, language_model"),
        ("train", "[projector, head]", "list one or more of vision_tower, projector, language_model"),
        ("style", "poem", "style is 'poem'; choose one of chat, caption"),
        ("model", "[a", "--model is not valid YAML"),
        ("warm_restarts", "5", "warm_restarts is 5; it must be"),
        ("warm_restarts", "[9]", r"warm_restarts is \[9\]; it must be an object with names and values"),
        (
            "warm_restarts",
            "{9: 1, 5: 1}",
            r"warm_restarts has the steps \[9, 5\]; they must be whole numbers that rise",
        ),
        ("warm_restarts", "{0: 1}", "from 1 on"),
        ("warm_restarts", "{2.5: 1}", "they must be whole numbers"),
        ("warm_restarts", "{9: 2}", "warm_restarts has 2 at 9; a share is above 0 and at most 1"),
        ("average", "2", "average is 2, more than the 1 that warm_restarts makes; lower it"),
        ("warm_restarts", "{9: half}", "warm_restarts has 'half' at 9"),
    ],
)
def test_a_wrong_override_is_refused_by_name(key, text, told):
    with pytest.raises(ValueError, match=told):
        load_recipe(RECIPES[0], {key: text})


OUT_OF_RANGE = {
    ("0", "-1"): ("epochs", "learning_rate", "vision_learning_rate", "lora_alpha", "max_grad_norm", "save_total"),
    ("1", "-0.1", "1e9"): ("warmup_ratio", "t_min", "lora_dropout"),
    (".nan", ".inf"): ("epochs", "learning_rate", "warmup_ratio", "weight_decay", "t_min", "peak_tflops", "lora_alpha"),
    ("1" + "0" * 30, "1" + "0" * 5000): ("epochs", "global_batch_size", "max_length", "workers", "seed", "turn_canvas"),
}


@pytest.mark.parametrize(
    "key, text", [(key, text) for texts, keys in OUT_OF_RANGE.items() for key in keys for text in texts]
)
def test_a_number_out_of_its_range_is_refused_by_name(key, text):
    with pytest.raises(ValueError, match=key):
        load_recipe(RECIPES[0], {key: text})


def test_every_key_has_a_meaning_and_every_number_two_limits():
    for name, (field, rule) in rules_of(Recipe).items():
        assert rule.told, name
        if {int, float} & set(kinds_of(field)):
            assert (rule.least is None) != (rule.above is None), name
            assert (rule.most is None) != (rule.below is None), name
    assert rules_of(Recipe).keys() == {field.name for field in fields(Recipe)}


def test_a_recipe_needs_what_has_no_default_and_no_more(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("model: m\ndata: d\n")
    with pytest.raises(ValueError, match="recipe.yaml lacks output"):
        load_recipe(file)
    assert load_recipe(file, {"output": "o"}) == Recipe(model="m", output="o", data="d")


def test_an_unknown_key_of_a_file_is_told_with_the_nearest(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: m\nepoch: 1\n")
    with pytest.raises(ValueError, match=r"recipe.yaml has the key 'epoch', did you mean 'epochs'\?"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_recipe_stands_on_its_base(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "first.yaml").write_text("base: sft\nepochs: 3\nseed: 1\n")
    (tmp_path / "own" / "second.yaml").write_text("base: ../first.yaml\nseed: 2\n")
    (tmp_path / "own" / "third.yaml").write_text("base: second\nvision_learning_rate: null\n")
    found = load_recipe(tmp_path / "own" / "third.yaml", {"workers": "0"})
    assert found == replace(load_recipe("sft"), epochs=3.0, seed=2, vision_learning_rate=None, workers=0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("base: recipe", "recipe.yaml is its own base"),
        ("base: other", "recipe.yaml is its own base, by way of .*recipe.yaml, .*other.yaml"),
        ("base: nowhere.yaml", "there is no file nowhere.yaml"),
        ("base: [sft]", r"base is \['sft'\]; it must be the name or the file of another recipe"),
    ],
)
def test_a_base_that_cannot_be_is_refused(tmp_path, text, told):
    (tmp_path / "recipe.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text("base: recipe.yaml")
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        load_recipe(tmp_path / "recipe.yaml")


def test_the_resolved_recipe_is_complete_and_loads(tmp_path):
    recipe = load_recipe("mix_ov_vw")
    (tmp_path / "recipe.yaml").write_text(recipe.as_yaml())
    assert list(yaml.safe_load(recipe.as_yaml())) == list(rules_of(Recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize("text, told", [("just words", "is not a recipe"), ("a: [", "is not valid YAML")])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, text, told):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=told):
        load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(FileNotFoundError, match="no file .*scripts/recipes"):
        load_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "values, told",
    [
        (
            {"deepspeed": "zero2.json"},
            "fsdp is true and deepspeed is zero2.json; set fsdp to false, or deepspeed to null",
        ),
        ({"quantize": "4bit", "lora_rank": 8}, "quantize is 4bit, which fsdp cannot scatter; set fsdp to false"),
    ],
)
def test_what_fsdp_does_not_go_with_is_refused_by_name(recipe, values, told):
    with pytest.raises(ValueError, match=told):
        replace(recipe, fsdp=True, **values)


@pytest.mark.parametrize("values", [{"fsdp": True}, {"deepspeed": "zero2.json"}])
def test_muon_is_refused_where_matrices_are_scattered(recipe, values):
    with pytest.raises(ValueError, match="optimizer is muon, which needs whole matrices; set deepspeed to null and"):
        replace(recipe, optimizer="muon", **values)


def test_adapters_need_a_part_that_takes_them(recipe):
    with pytest.raises(ValueError, match=r"lora_rank is 4, but train is \[projector\], which learns as a whole; add"):
        replace(recipe, lora_rank=4, train=["projector"])


def test_a_batch_that_cannot_be_split_is_refused(recipe):
    assert replace(recipe, global_batch_size=32, micro_batch_size=2).accumulation(num_devices=4) == 4
    with pytest.raises(ValueError, match="global_batch_size 6 cannot be split over 4 devices .* a multiple of 8"):
        replace(recipe, global_batch_size=6).accumulation(num_devices=4)


# What learns


def owner(name: str) -> str:
    """The part that a weight belongs to, from its name."""
    owners = {"model.vision_tower.": "vision_tower", "model.multi_modal_projector.": "projector"}
    return next((part for prefix, part in owners.items() if name.startswith(prefix)), "language_model")


@pytest.mark.parametrize("style", ["chat", "caption"])
@pytest.mark.parametrize("parts", [["projector"], ["vision_tower", "projector"], ["language_model"]], ids=str)
def test_only_the_named_parts_learn(tiny_folder, parts, style):
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder)
    freeze(model, parts, style)
    expected = dict.fromkeys(["vision_tower", "projector", "language_model"], 0)
    for name, parameter in model.named_parameters():
        is_reached = "post_layernorm" not in name and (style == "chat" or "image_newline" not in name)
        assert parameter.requires_grad == (is_reached and owner(name) in parts), name
        expected[owner(name)] += parameter.numel() if parameter.requires_grad else 0
    assert count_trainable(model) == expected


def test_each_part_has_its_rate_and_norms_and_biases_do_not_decay(tiny_folder, recipe):
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder)
    freeze(model, ["vision_tower", "projector", "language_model"], "chat")
    recipe = replace(
        recipe, learning_rate=0.1, projector_learning_rate=0.2, vision_learning_rate=None, weight_decay=0.1
    )
    groups = parameter_groups(model, recipe)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = [(names[id(parameter)], group) for group in groups for parameter in group["params"]]
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(name for name, _ in listed) == sorted(trainable)
    assert not any("post_layernorm" in name for name, _ in listed)
    for name, group in listed:
        assert group["lr"] == (0.2 if "multi_modal_projector" in name else 0.1)
        decays = name.endswith("weight") and "norm" not in name
        assert group["weight_decay"] == (0.1 if decays else 0.0), name


def test_muon_takes_the_matrices_of_blocks_and_projector(tiny_folder, recipe):
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = MuonAndAdamW(parameter_groups(model, replace(recipe, optimizer="muon")))
    taken = {names[id(p)] for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    left = {names[id(p)] for group in optimizer.param_groups if not group["muon"] for p in group["params"]}
    assert taken | left == set(names.values())
    for name in taken | left:
        is_matrix = name.endswith("weight") and not any(
            other in name for other in ("norm", "embed", "lm_head", "embedding")
        )
        assert (name in taken) == is_matrix, name


def test_muon_steps_along_all_directions_of_a_matrix_alike_and_in_the_size_of_adamw_s():
    torch.manual_seed(0)
    matrix, vector = torch.nn.Parameter(torch.randn(48, 96)), torch.nn.Parameter(torch.randn(7))
    before, plain = matrix.detach().clone(), torch.nn.Parameter(vector.detach().clone())
    rates = {"lr": 1e-2, "weight_decay": 0.0}
    optimizer = MuonAndAdamW([{"params": [vector], "muon": False} | rates, {"params": [matrix], "muon": True} | rates])
    twin = torch.optim.AdamW([plain], **rates)
    gradient = torch.randn(48, 4) @ torch.randn(4, 96) + 0.1 * torch.randn(48, 96)  # four directions above all
    matrix.grad, vector.grad, plain.grad = gradient, torch.ones(7), torch.ones(7)
    optimizer.step()
    twin.step()
    assert torch.equal(vector, plain)
    sizes = torch.linalg.svdvals(before - matrix.detach())
    assert sizes[0] < 2 * sizes[-1] < 0.2 * torch.linalg.svdvals(gradient)[0]
    assert (before - matrix.detach()).square().mean().sqrt().item() == pytest.approx(0.2 * 1e-2, rel=0.2)


def test_muon_alone_and_adamw_alone_are_optimizers_too():
    for is_muon in (True, False):
        weight = torch.nn.Parameter(torch.ones(4, 4))
        optimizer = MuonAndAdamW([{"params": [weight], "lr": 0.1, "weight_decay": 0.0, "muon": is_muon}])
        weight.square().sum().backward()
        optimizer.step()
        assert (weight < 1).any()


# A run


def final_loss(folder, recipe, processor) -> float:
    """The loss over all records, each masked in the same way at the same rate."""
    model = LladaVForConditionalGeneration.from_pretrained(folder).eval()
    dataset, total = RecordDataset(recipe, processor), 0.0
    collate = Collator(processor.config.pad_token_id, train_eos_padding=False)
    for index in range(len(dataset)):
        batch = collate([dataset[index]])
        ids, labels = batch.pop("input_ids"), batch.pop("labels")
        noised = add_noise(ids, labels, processor.config.mask_token_id, drawn(index, *ids.shape))
        with torch.no_grad():
            logits = model(input_ids=noised.input_ids, logits_at=noised.is_masked, **batch).logits
        total += diffusion_loss(logits, labels, noised.is_masked, noised.p_mask).item()
    return total / len(dataset)


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def test_a_run_lowers_the_loss_and_leaves_a_whole_folder(recipe, tiny_folder, tiny_processor):
    output = train(replace(recipe, learning_rate=3e-3))
    before, after = (final_loss(folder, recipe, tiny_processor) for folder in (tiny_folder, output))
    assert after < 0.8 * before  # measured 0.45
    assert load_recipe(output / "recipe.yaml") == replace(recipe, learning_rate=3e-3)
    assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json"} <= {
        file.name for file in output.iterdir()
    }
    states = json.loads((output / "checkpoint-12" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in states["log_history"] if "loss" in entry] == list(range(1, 13))


def test_frozen_weights_stay_bit_by_bit(recipe, tiny_folder):
    parts = ["vision_tower", "projector"]
    before, after = weights(tiny_folder), weights(train(replace(recipe, train=parts, epochs=1.0)))
    changed = {owner(name) for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(parts)


@pytest.mark.parametrize(
    "changes", [{}, {"group_by_length": False}, {"optimizer": "muon"}, {"warm_restarts": {4: 0.5}, "average": 2}]
)
def test_a_broken_run_goes_on_to_the_same_weights(recipe, tmp_path, monkeypatch, changes):
    recipe = replace(recipe, epochs=2.0, **changes)
    unbroken = train(replace(recipe, output=str(tmp_path / "unbroken")))

    compute_loss, calls = LladaVTrainer.compute_loss, []

    def broken(trainer, *args, **kwargs):
        calls.append(trainer.state.global_step)
        if len(calls) == 11:  # in the sixth step; the last checkpoint is of the fourth
            raise KeyboardInterrupt
        return compute_loss(trainer, *args, **kwargs)

    monkeypatch.setattr(LladaVTrainer, "compute_loss", broken)
    with pytest.raises(KeyboardInterrupt):
        train(recipe)
    assert newest_checkpoint(Path(recipe.output)).endswith("checkpoint-4")
    assert not (Path(recipe.output) / "model.safetensors").exists()
    resumed = train(recipe)
    assert calls[11:] == [4, 4, 5, 5, 6, 6, 7]  # forward passes by steps taken
    expected, found = weights(unbroken), weights(resumed)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_a_run_depends_on_its_seed(recipe, tmp_path):
    runs = [replace(recipe, seed=seed, epochs=1.0, output=str(tmp_path / str(at))) for at, seed in enumerate((1, 1, 2))]
    first, again, other = (weights(train(run)) for run in runs)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_fewer_records_than_a_batch_are_refused(recipe):
    with pytest.raises(ValueError, match="has 14 records, fewer than global_batch_size 16; lower"):
        train(replace(recipe, global_batch_size=16))
