"""The loss on records that are not trained on: the same noise each time, and training as if it were not measured."""

import json
from dataclasses import replace

import pytest
import torch
from runs import largest_difference, losses, small_recipe, weights

from llada_v import LladaVForConditionalGeneration
from llada_v.toyworld.records import write_dataset
from llada_v.training.noise import HELD_OUT, add_noise, diffusion_loss, draw_noise
from llada_v.training.records import RecordDataset
from llada_v.training.train import train
from llada_v.training.trainer import LladaVTrainer, training_arguments

COUNT = 7


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """A file of held-out records, the last one text alone."""
    folder = write_dataset(tmp_path_factory.mktemp("unseen") / "toys", "heldout", COUNT, seed=0, style="instruct")
    file = folder / "records.json"
    records = json.loads(file.read_text())
    del records[-1]["image"]
    records[-1]["conversations"][0]["value"] = "What is red?"
    for record in records[:-1]:
        record["image"] = str(folder / record["image"])
    file.write_text(json.dumps(records))
    return str(file)


@pytest.fixture
def recipe(tiny_folder, toys, tmp_path):
    """Four steps."""
    return small_recipe(tiny_folder, toys, tmp_path / "run", epochs=1.0, save_steps=4)


def measured(output) -> list[dict]:
    """The log entries about held-out records."""
    history = json.loads((output / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "eval_loss" in entry]


def test_the_loss_is_measured_every_so_many_steps_and_after_the_last_one_and_training_does_not_notice(
    recipe, unseen, tmp_path, caplog
):
    caplog.set_level("INFO")
    plain = train(replace(recipe, output=str(tmp_path / "plain")))
    watched = train(replace(recipe, eval_data=unseen, eval_steps=3))
    assert [entry["step"] for entry in measured(watched)] == [3, 4]
    assert losses(watched) == losses(plain)
    assert largest_difference(weights(watched), weights(plain)) == 0
    assert caplog.text.count("| held-out loss ") == 2
    last = train(replace(recipe, output=str(tmp_path / "last"), eval_data=unseen))
    assert measured(last)[0].items() >= {key: value for key, value in measured(watched)[1].items()}.items()


def test_each_record_counts_once_by_its_own_noise_modality_and_level(recipe, unseen, tiny_folder, tiny_processor):
    recipe = replace(recipe, eval_data=unseen)
    records = RecordDataset(replace(recipe, data=unseen), tiny_processor)
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder)
    trainer = LladaVTrainer(
        recipe,
        model,
        records,
        eval_dataset=records,
        args=training_arguments(recipe, 1),
        data_collator=lambda rows: {key: value[None] if value.dim() == 1 else value for key, value in rows[0].items()},
        processing_class=tiny_processor,
    )
    found = trainer.evaluate()
    expected = [loss_of(model.eval(), records[number], number, recipe) for number in range(COUNT)]
    values = torch.tensor([value for value, _ in expected], dtype=torch.float64)
    assert found["eval_loss"] == pytest.approx(values.mean().item(), rel=1e-5)
    assert found["eval_error"] == pytest.approx(values.std().item() / COUNT**0.5, rel=1e-5)
    assert found["eval_loss/text"] == pytest.approx(values[-1].item(), rel=1e-5)
    assert found["eval_loss/image"] == pytest.approx(values[:-1].mean().item(), rel=1e-5)
    for value, t in expected:  # seven levels, each in a tenth of its own
        assert found[f"eval_noise/{int(10 * t) / 10:.1f}"] == pytest.approx(value, rel=1e-5)
    assert trainer.evaluate() == found


def loss_of(model, record, number, recipe) -> tuple[float, float]:
    """The loss of one record from all its logits, and its noise level."""
    ids, labels = record["input_ids"][None], record["labels"][None]
    draw = draw_noise(recipe.seed, HELD_OUT, [number], COUNT, ids.shape[1], antithetic_t=True)
    noised = add_noise(ids, labels, model.config.mask_token_id, draw)
    pictures = {key: record[key] for key in ("pixel_values", "image_sizes", "image_layouts") if key in record}
    with torch.no_grad():
        logits = model(input_ids=noised.input_ids, **pictures).logits[noised.is_masked]
    return diffusion_loss(logits, labels, noised.is_masked, noised.p_mask).item(), draw.t.item()


def test_a_measurement_needs_records_and_more_than_one(recipe, unseen, tmp_path):
    with pytest.raises(ValueError, match="eval_steps is 3, but there is no eval_data"):
        replace(recipe, eval_steps=3)
    one = tmp_path / "one.json"
    one.write_text(json.dumps(json.loads(open(unseen).read())[:1]))
    with pytest.raises(ValueError, match="one.json has 1 records; a mean and its error need at least 2"):
        train(replace(recipe, eval_data=str(one)))
