"""peft's own ways with the model: kinds of adapters, parts saved whole, several adapters by name, merging."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from llada_v import LladaVForConditionalGeneration
from llada_v.training.records import Collator

RECORD = {"conversations": [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a red star"}]}
KINDS = {
    "lora": dict(target_modules=["q_proj", "v_proj"]),
    "dora": dict(target_modules=["q_proj", "v_proj"], use_dora=True),
    "head and embedding": dict(target_modules=["lm_head", "embed_tokens", "q_proj"]),
    "parts saved whole": dict(target_modules=["q_proj"], modules_to_save=["multi_modal_projector", "lm_head"]),
}


@pytest.fixture
def model(tiny_folder):
    return LladaVForConditionalGeneration.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def batch(tiny_processor):
    return Collator(tiny_processor.config.pad_token_id, train_eos_padding=False)([tiny_processor.encode_record(RECORD)])


def learn(model, batch, steps: int = 6) -> list[float]:
    """The loss of a few steps, all with the same noise."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**batch, generator=torch.Generator().manual_seed(0)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def logits(model, batch):
    with torch.no_grad():
        return model.eval()(input_ids=batch["input_ids"]).logits


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_learns_saves_loads_and_merges(kind, model, batch, tiny_folder, tmp_path):
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, **KINDS[kind]))
    losses = learn(adapted, batch)
    assert losses[-1] < losses[0]
    expected = logits(adapted, batch)
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(LladaVForConditionalGeneration.from_pretrained(tiny_folder), tmp_path)
    assert torch.equal(logits(loaded, batch), expected)
    merged = loaded.merge_and_unload()
    assert type(merged) is LladaVForConditionalGeneration
    assert (logits(merged, batch) - expected).abs().max() < 1e-3
    tokens = [each.generate(input_ids=batch["input_ids"], max_new_tokens=4) for each in (adapted.eval(), merged)]
    assert torch.equal(*tokens)


def test_several_adapters_take_turns_by_name(model, batch):
    plain = logits(model, batch)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]), adapter_name="first")
    adapted.add_adapter("second", LoraConfig(r=2, target_modules=["v_proj"]))
    found = {}
    for name in ("first", "second"):
        adapted.set_adapter(name)
        learn(adapted.train(), batch)
        found[name] = logits(adapted, batch)
    adapted.set_adapter("first")
    assert torch.equal(logits(adapted, batch), found["first"])
    assert not torch.equal(found["first"], found["second"])
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted, batch), plain)
