"""Other trunks than LLaDA-8B: they convert, and their logits are those of a plain forward over their own weights."""

import json
import math
import shutil

import pytest
import torch
from published import write_folder
from runs import largest_difference, small_recipe, weights
from safetensors.torch import load_file, save_file
from test_checkpoint import ORIGINAL_CONFIG, ORIGINAL_NAMES, TINY_VISION
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers import PreTrainedTokenizerFast

from llada_v import LladaConfig, LladaVConfig, LladaVForConditionalGeneration, LladaVProcessor, SamplerConfig, answer
from llada_v.checkpoint.names import EMBEDDING
from llada_v.convert import convert
from llada_v.modeling_llada import LladaModel
from llada_v.quantization import quantize
from llada_v.training.budget import BudgetMaker
from llada_v.training.merging import average
from llada_v.training.recipe import Recipe
from llada_v.training.train import train

# The fields of iLLaDA-8B's config.json and their published values, but for the sizes.
ILLADA = {
    "model_type": "illada",
    "architectures": ["ILLaDAForCausalLM"],
    "vocab_size": 263,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
    "layer_norm_eps": None,
    "rms_norm_eps": 1e-6,  # this and theta are not LLaDA-8B's, so that a default in their place shows
    "rope_theta": 10000.0,
    "torch_dtype": "float32",
}
BASE = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2}
BASE |= {"num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "vocab_size": 126464}
START, FILLER, END, UNKNOWN, SEPARATOR, MASK = "<[begin]>", "<[PAD]>", "<[end]>", "<[UNK]>", "<[SEP]>", "<[MASK]>"


def random_trunk(config: dict, has_head: bool) -> dict[str, torch.Tensor]:
    """Weights under the names of the Hugging Face layout, each of the scale that keeps states of size 1."""
    generator = torch.Generator().manual_seed(0)
    width, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    keys = width // heads * config["num_key_value_heads"]
    block = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (keys, width), "self_attn.v_proj": (keys, width)}
    block |= {"self_attn.o_proj": (width, width), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width)}
    block |= {"mlp.down_proj": (width, inner), "input_layernorm": (width,), "post_attention_layernorm": (width,)}
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], width), "model.norm.weight": (width,)}
    for layer in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    shapes |= {"lm_head.weight": (config["vocab_size"], width)} if has_head else {}
    return {name: torch.randn(shape, generator=generator) / math.sqrt(shape[-1]) for name, shape in shapes.items()}


def plain_logits(weights: dict[str, torch.Tensor], config: dict, ids: torch.Tensor) -> torch.Tensor:
    """Logits (B, L, V) of ids (B, L) from such weights, written from the models' description and nothing of ours."""
    heads, kept = config["num_attention_heads"], config["num_key_value_heads"]
    size = config["hidden_size"] // heads

    def norm(x, name):
        return x / (x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt() * weights[name + ".weight"]

    def turned(x):  # pairs (i, i + size / 2) as complex numbers, turned by position * theta^(-2i / size)
        rates = config["rope_theta"] ** (-torch.arange(0, size, 2) / size)
        angles = torch.arange(x.shape[-2])[:, None] * rates
        pairs = torch.complex(x[..., : size // 2], x[..., size // 2 :]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((pairs.real, pairs.imag), dim=-1)

    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        front = f"model.layers.{layer}."
        y = norm(x, front + "input_layernorm")
        query, key, value = (
            (y @ weights[f"{front}self_attn.{name}_proj.weight"].T).unflatten(-1, (-1, size)).transpose(1, 2)
            for name in "qkv"
        )
        key, value = (part.repeat_interleave(heads // kept, dim=1) for part in (turned(key), value))
        mixed = scaled_dot_product_attention(turned(query), key, value).transpose(1, 2).flatten(2)
        x = x + mixed @ weights[front + "self_attn.o_proj.weight"].T
        y = norm(x, front + "post_attention_layernorm")
        gate, up = (y @ weights[f"{front}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (silu(gate) * up) @ weights[front + "mlp.down_proj.weight"].T
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return norm(x, "model.norm") @ head.T


def illada_tokenizer() -> PreTrainedTokenizerFast:
    """Six special tokens with ids 0 to 5, the mask the last of them, then 256 bytes."""
    specials = [START, FILLER, END, UNKNOWN, SEPARATOR, MASK]
    names = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=FILLER, model_max_length=8192
    )


@pytest.fixture
def siglip(tmp_path):
    """A SigLIP2 tower of three layers, of which LLaDA-V runs two."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    tower = SiglipVisionModel(SiglipVisionConfig(**TINY_VISION | {"image_size": 28, "patch_size": 14}))
    config = {"model_type": "siglip", "vision_config": tower.config.to_dict()}
    weights = {f"vision_model.{name}": weight for name, weight in tower.state_dict().items() if "head." not in name}
    return write_folder(tmp_path / "siglip", config, weights)


@pytest.fixture
def illada(tmp_path):
    """A folder in iLLaDA's layout, which stores the embedding twice; and its weights."""
    weights = random_trunk(ILLADA, has_head=False)
    stored = weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    folder = write_folder(tmp_path / "illada", ILLADA, stored)
    illada_tokenizer().save_pretrained(folder)
    return folder, weights


@pytest.fixture
def model_folder(illada, siglip, tmp_path):
    """That trunk with the tower, converted."""
    convert(illada[0], tmp_path / "ours", vision_tower=siglip)
    return tmp_path / "ours"


def rewrite(file, **changes):
    """Change fields of a JSON file; None removes one."""
    fields = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def test_llada_1_5_has_the_layout_of_llada_8b(siglip, tokenizer_folder, tmp_path):
    weights, renamed = random_trunk(BASE, has_head=True), {}
    for name, weight in weights.items():
        for ours, theirs in ORIGINAL_NAMES.items():
            name = name.replace("model.layers.", "model.transformer.blocks.").replace(ours, theirs)
        renamed[name] = weight
    folder = write_folder(tmp_path / "llada", ORIGINAL_CONFIG, renamed, num_shards=2)
    for file in tokenizer_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    convert(folder, tmp_path / "ours", vision_tower=siglip)
    model = LladaVForConditionalGeneration.from_pretrained(tmp_path / "ours")
    ids = torch.randint(126080, (2, 9), generator=torch.Generator().manual_seed(1))
    expected = plain_logits(weights, BASE, ids)
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-5)


def test_illada_converts_to_the_logits_of_a_plain_forward(illada, siglip, tmp_path):
    folder, weights = illada
    done = convert(folder, tmp_path / "ours", vision_tower=siglip)
    assert "lm_head.weight" in done.dropped and "model.language_model.embed_tokens.weight[263:384]" in done.fresh
    assert len(done.tokens) == 4
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert "lm_head.weight" not in stored and len(stored) == done.num_tensors
    model = LladaVForConditionalGeneration.from_pretrained(tmp_path / "ours")
    text = model.config.text_config
    assert (text.num_key_value_heads, text.max_position_embeddings, text.rms_norm_eps) == (2, 8192, 1e-6)
    ids = torch.randint(263, (2, 9), generator=torch.Generator().manual_seed(1))
    logits = model(ids).logits
    expected = plain_logits(weights, ILLADA, ids)
    torch.testing.assert_close(logits[..., :263], expected, rtol=1e-4, atol=1e-5)
    assert logits.shape[-1] == 384


def test_the_tokens_of_illada_keep_their_ids_and_take_our_names(model_folder):
    processor = LladaVProcessor.from_pretrained(model_folder)
    config, tokenizer = processor.config, processor.tokenizer
    assert (config.bos_token_id, config.eos_token_id, config.mask_token_id) == (0, 2, 5)
    new = (config.start_header_id, config.end_header_id, config.eot_token_id, config.image_token_id)
    assert sorted(new) == [262, 263, 264, 265]
    ids = processor.apply_chat_template([{"role": "user", "content": "<[MASK]>?"}], tokenize=True)[0]
    assert ids[0] == 0 and config.mask_token_id not in ids[1:]  # words are words
    plain = illada_tokenizer()
    assert tokenizer("Wie, bitte?").input_ids == plain("Wie, bitte?").input_ids
    assert tokenizer.decode([5, 71, 72]) == "<|mdm_mask|>" + plain.decode([71, 72])


def test_a_tied_model_of_grouped_queries_answers_and_its_caches_agree(model_folder):
    model = LladaVForConditionalGeneration.from_pretrained(model_folder)
    processor = LladaVProcessor.from_pretrained(model_folder)
    found = [
        answer(model, processor, "What?", sampler=SamplerConfig(gen_length=8, steps=2, **cache))
        for cache in ({}, {"cache": "prompt", "refresh_interval": 1})
    ]
    assert found[0].text == found[1].text and found[0].num_forwards == 2


@pytest.mark.parametrize(
    "file, change, message",
    [
        ("config.json", {"rope_theta": None}, "config.json lacks rope_theta"),
        ("config.json", {"tie_word_embeddings": None}, "config.json lacks tie_word_embeddings"),
        ("config.json", {"mlp_bias": True}, "mlp_bias True"),
        ("config.json", {"layer_norm_eps": 1e-5}, "layer_norm_eps 1e-05"),
        ("config.json", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling .*only plain rotary"),
        ("tokenizer_config.json", {"bos_token": None}, r"no token that stands for <\|startoftext\|>"),
        ("tokenizer_config.json", {"eos_token": MASK[:-1]}, r"no token that stands for <\|endoftext\|>"),
    ],
)
def test_what_is_not_as_published_is_refused_by_name(illada, siglip, tmp_path, file, change, message):
    rewrite(illada[0] / file, **change)
    with pytest.raises(ValueError, match=message):
        convert(illada[0], tmp_path / "ours", vision_tower=siglip)
    assert not list(tmp_path.glob("ours*"))


def test_rotary_fields_of_transformers_5_are_read(illada, siglip, tmp_path):
    rope = {"rope_type": "default", "rope_theta": 1234.0}
    rewrite(illada[0] / "config.json", rope_theta=None, rope_scaling=None, rope_parameters=rope)
    convert(illada[0], tmp_path / "ours", vision_tower=siglip)
    assert LladaVConfig.from_pretrained(tmp_path / "ours").text_config.rope_base == 1234.0


def test_a_head_that_is_not_the_embedding_is_not_dropped_in_silence(illada, siglip, tmp_path):
    file = illada[0] / "model.safetensors"
    save_file(load_file(file) | {"lm_head.weight": torch.zeros(263, 16)}, file)
    with pytest.raises(ValueError, match="ties lm_head.weight to model.embed_tokens.weight, but .* that differ"):
        convert(illada[0], tmp_path / "ours", vision_tower=siglip)
    rewrite(illada[0] / "config.json", tie_word_embeddings=False)
    convert(illada[0], tmp_path / "ours", vision_tower=siglip)
    model = LladaVForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert not model.lm_head.weight[:263].any() and model.lm_head.weight[263:].any()


def test_illada_8b_has_the_published_number_of_weights():
    sizes = dict(vocab_size=155136, intermediate_size=14336, num_key_value_heads=8, max_position_embeddings=8192)
    with torch.device("meta"):
        trunk = LladaModel(LladaConfig(**sizes))
    counts = {name: weight.numel() for name, weight in trunk.named_parameters()}
    rows = counts.pop("embed_tokens.weight")
    assert f"{sum(counts.values()) / 1e9:.2f} {(sum(counts.values()) + rows) / 1e9:.3f}" == "6.98 7.615"


# Tied weights elsewhere


def test_a_tied_weight_is_saved_once_and_may_be_stored_twice(model_folder, tmp_path):
    model = LladaVForConditionalGeneration.from_pretrained(model_folder)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "again")
    stored = load_file(tmp_path / "again" / "model.safetensors")
    assert stored.keys() == load_file(model_folder / "model.safetensors").keys()
    both = stored | {"lm_head.weight": model.lm_head.weight.detach().clone()}
    save_file(both, tmp_path / "again" / "model.safetensors", metadata={"format": "pt"})
    again = LladaVForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert again.lm_head.weight is again.get_input_embeddings().weight
    loose = LladaVForConditionalGeneration.from_pretrained(tmp_path / "again", tie_word_embeddings=False)
    assert loose.lm_head.weight is not loose.get_input_embeddings().weight


def test_the_gradient_of_a_tied_weight_is_the_sum_of_both(model_folder):
    tied = LladaVForConditionalGeneration.from_pretrained(model_folder)
    loose = LladaVForConditionalGeneration(LladaVConfig(**tied.config.to_dict() | {"tie_word_embeddings": False}))
    loose.load_state_dict(tied.state_dict())
    ids = torch.randint(6, 262, (2, 9), generator=torch.Generator().manual_seed(1))
    for model in (tied, loose):
        model(ids, labels=ids, generator=torch.Generator().manual_seed(0)).loss.backward()
    both = loose.lm_head.weight.grad + loose.get_input_embeddings().weight.grad
    torch.testing.assert_close(tied.lm_head.weight.grad, both)


def test_a_tied_model_grows_adapts_quantizes_and_has_a_mean(model_folder, tmp_path):
    from peft import LoraConfig, get_peft_model

    load = LladaVForConditionalGeneration.from_pretrained
    model, ids = load(model_folder), torch.tensor([[7, 8, 9]])
    plain = model(ids).logits
    adapted = get_peft_model(load(model_folder), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))
    merged = adapted.merge_and_unload()
    assert torch.equal(merged(ids).logits, plain) and merged.lm_head.weight is merged.get_input_embeddings().weight
    average([model_folder, model_folder, model_folder], tmp_path / "mean")
    torch.testing.assert_close(load(tmp_path / "mean")(ids).logits, plain)
    model.resize_token_embeddings(400)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.lm_head.out_features == model.config.text_config.vocab_size == len(model.lm_head.weight) == 400
    torch.testing.assert_close(model(ids).logits[..., :384], plain)
    quantize(model, "int8")
    model.save_pretrained(tmp_path / "int8")
    assert torch.equal(load(tmp_path / "int8")(ids).logits, model(ids).logits)


def test_a_budget_counts_a_tied_weight_once(model_folder):
    model = LladaVForConditionalGeneration.from_pretrained(model_folder)
    maker = BudgetMaker(Recipe(model=str(model_folder), data=["none.json"], output="none"))
    assert maker.total == sum(weight.numel() for weight in model.parameters())
    assert maker.total == sum(weight.numel() for weight in load_file(model_folder / "model.safetensors").values())


@pytest.mark.slow
def test_a_run_of_a_tied_model_goes_on_from_its_checkpoint(tiny_folder, toys, tmp_path):
    tied = LladaVConfig(**LladaVConfig.from_pretrained(tiny_folder).to_dict() | {"tie_word_embeddings": True})
    torch.manual_seed(0)
    LladaVForConditionalGeneration(tied).save_pretrained(tmp_path / "tied")
    LladaVProcessor.from_pretrained(tiny_folder).save_pretrained(tmp_path / "tied")
    before = weights(tmp_path / "tied")
    whole, broken = (small_recipe(tmp_path / "tied", toys, tmp_path / name, epochs=1) for name in ("whole", "broken"))
    after = weights(train(whole))
    assert after.keys() == before.keys() and not torch.equal(after[EMBEDDING], before[EMBEDDING])
    shutil.copytree(sorted((tmp_path / "whole").glob("checkpoint-*"))[0], tmp_path / "broken" / "checkpoint-2")
    assert largest_difference(weights(train(broken)), after) == 0
