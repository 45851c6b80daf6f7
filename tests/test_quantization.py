"""Weights in 8 or 4 bits: what changes, by how much, and what is said where it cannot be done."""

import builtins

import pytest
import torch

from llada_v import LladaVForConditionalGeneration, SamplerConfig
from llada_v.quantization import quantize


@pytest.fixture
def own_model(tiny_folder):
    """A model of the tiny folder that a test may change."""
    return LladaVForConditionalGeneration.from_pretrained(tiny_folder).requires_grad_(False).eval()


def test_int8_keeps_the_logits_and_changes_the_trunks_layers_alone(own_model, tiny_model):
    pytest.importorskip("torchao")
    ids = torch.arange(40, 60)[None]
    expected = tiny_model(input_ids=ids).logits
    quantize(own_model, "int8")
    found = own_model(input_ids=ids).logits
    error = ((found - expected).norm() / expected.norm()).item()
    assert 0 < error < 0.05  # measured 0.011
    changed = {
        name
        for name, weight in own_model.named_parameters()
        if type(weight.data) is not torch.Tensor or type(weight) is not torch.nn.Parameter
    }
    linear = {f"{name}.weight" for name, module in own_model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert changed == {name for name in linear if name.startswith("model.language_model.layers.")}


def test_an_int8_model_answers_with_a_cache(own_model):
    pytest.importorskip("torchao")
    quantize(own_model, "int8")
    sampler = SamplerConfig(gen_length=8, cache="prompt", refresh_interval=4, stop_token_ids=[])
    assert own_model.generate(torch.arange(40, 60)[None], sampler=sampler).shape == (1, 28)


def test_an_int8_model_loads_again_from_what_it_saved(own_model, tmp_path):
    pytest.importorskip("torchao")
    quantize(own_model, "int8")
    own_model.save_pretrained(tmp_path / "int8")
    again = LladaVForConditionalGeneration.from_pretrained(tmp_path / "int8").eval()
    ids = torch.arange(40, 60)[None]
    assert torch.equal(again(input_ids=ids).logits, own_model(input_ids=ids).logits)
    assert {type(weight.data) for weight in again.parameters()} == {
        type(weight.data) for weight in own_model.parameters()
    }
    with pytest.raises(ValueError, match="dtype is torch.bfloat16, but the quantized weights .* torch.float32"):
        LladaVForConditionalGeneration.from_pretrained(tmp_path / "int8", dtype=torch.bfloat16)


def test_other_bits_are_refused(tiny_model):
    with pytest.raises(ValueError, match="bits is 'int2'; choose one of int8, int4"):
        quantize(tiny_model, "int2")


def test_int4_on_a_cpu_is_refused(tiny_model):
    with pytest.raises(ValueError, match="torch.float32 on cpu, but int4 weights run in bfloat16 on a GPU; use int8"):
        quantize(tiny_model, "int4")


def test_without_torchao_the_remedy_is_named(tiny_model, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("torchao"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="int8 weights need torchao; install it with: .* pip install torchao"):
        quantize(tiny_model, "int8")
