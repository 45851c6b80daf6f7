"""Published weights load without conversion by hand; every layout converts to ours, every tensor accounted for."""

import json
import shutil

import pytest
import torch
from published import PUBLISHED_CONFIG, layout_8b, pattern, small_layout, small_weights, write_folder
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from llada_v import LladaVConfig, LladaVForConditionalGeneration, LladaVModel, LladaVProcessor
from llada_v.checkpoint.configs import TEXT_FIELDS, translate_config
from llada_v.checkpoint.files import shapes_of
from llada_v.checkpoint.names import published_name
from llada_v.convert import convert
from llada_v.modeling_llada_v import empty_model

# Even smaller than the golden model, so that damaged folders are cheap to write.
TINY = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3}
TINY |= {"num_attention_heads": 2, "num_key_value_heads": 2}
TINY_VISION = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2}
TINY_CONFIG = PUBLISHED_CONFIG | TINY | {"torch_dtype": "bfloat16"}
TINY_CONFIG |= {"vision_config": TINY_VISION | {"image_size": 384, "patch_size": 14}}
TINY_LAYOUT = small_layout({4096: 8, 12288: 12, 1152: 16, 4304: 20})

# LLaDA-8B's own names, beside those of the Hugging Face layout.
ORIGINAL_NAMES = {
    "model.embed_tokens.weight": "model.transformer.wte.weight",
    "model.norm.weight": "model.transformer.ln_f.weight",
    "lm_head.weight": "model.transformer.ff_out.weight",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
}
ORIGINAL_CONFIG = {
    "model_type": "llada",
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig"},
    "d_model": 8,
    "n_layers": 3,
    "n_heads": 2,
    "n_kv_heads": 2,
    "mlp_hidden_size": 12,
    "embedding_size": 126464,
    "vocab_size": 126464,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_sequence_length": 4096,
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
    "weight_tying": False,
    "multi_query_attention": None,
}
TOWER_PREFIX = "model.vision_tower.vision_tower."


def random_weights(layout: dict, dtype=torch.bfloat16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in layout.items()}


TINY_WEIGHTS = random_weights(TINY_LAYOUT)
TRUNK = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")
TRUNK_WEIGHTS = {name: weight for name, weight in TINY_WEIGHTS.items() if name.startswith(TRUNK)}


@pytest.fixture
def with_tokenizer(tokenizer_folder):
    """Copies the tokenizer's files into a folder."""
    return lambda folder: shutil.copytree(tokenizer_folder, folder, dirs_exist_ok=True)


@pytest.fixture
def tiny(tmp_path, with_tokenizer):
    """A tiny published folder with its tokenizer; change its files freely."""
    return with_tokenizer(write_folder(tmp_path / "published", TINY_CONFIG, TINY_WEIGHTS))


@pytest.fixture
def siglip(tmp_path):
    """A SigLIP2 folder: both towers, the pooling head and the last layer that LLaDA-V does not run."""
    tower = {n.removeprefix(TOWER_PREFIX): w.float() for n, w in TINY_WEIGHTS.items() if n.startswith(TOWER_PREFIX)}
    tower |= {n.replace("layers.1.", "layers.2."): w.clone() for n, w in tower.items() if "layers.1." in n}
    extra = ("text_model.embeddings.token_embedding.weight", "vision_model.head.probe", "logit_scale", "logit_bias")
    config = {"model_type": "siglip", "vision_config": TINY_CONFIG["vision_config"]}
    return write_folder(tmp_path / "siglip2", config, tower | {name: torch.zeros(1) for name in extra})


@pytest.fixture
def llada(tmp_path, with_tokenizer):
    """LLaDA-8B's original layout, tiny."""
    weights = {}
    for name, weight in TRUNK_WEIGHTS.items():
        for theirs, ours in ORIGINAL_NAMES.items():
            name = name.replace("model.layers.", "model.transformer.blocks.").replace(theirs, ours)
        weights[name] = weight
    return with_tokenizer(write_folder(tmp_path / "llada", ORIGINAL_CONFIG, weights, num_shards=2))


@pytest.fixture
def llada_hf(tmp_path, with_tokenizer):
    """LLaDA-8B in the Hugging Face layout, tiny."""
    config = {name: value for name, value in TINY_CONFIG.items() if name in TEXT_FIELDS}
    return with_tokenizer(write_folder(tmp_path / "llada_hf", config | {"model_type": "llada"}, TRUNK_WEIGHTS))


def change_weights(folder, **changes):
    """Rewrite a folder's single weight file; None removes a weight."""
    file = folder / "model.safetensors"
    weights = load_file(file) | {name.replace("__", "."): weight for name, weight in changes.items()}
    save_file({name: weight for name, weight in weights.items() if weight is not None}, file)


def change_config(folder, **changes):
    """Rewrite a folder's config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def published_weights(model) -> dict[str, torch.Tensor]:
    return {published_name(name): weight for name, weight in model.state_dict().items()}


def assert_equal_weights(found: dict, expected: dict):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


# Names


def test_the_8b_model_has_exactly_the_published_names_shapes_and_size():
    shapes = shapes_of(empty_model(LladaVConfig()))
    assert {published_name(name): shape for name, shape in shapes.items()} == layout_8b()
    assert len(shapes) == 717
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 8_434_837_024


# Loading the published layout


def test_a_published_folder_loads_directly_bit_by_bit(published_folder, small_model):
    assert_equal_weights(published_weights(small_model), small_weights())
    auto = AutoModelForImageTextToText.from_pretrained(published_folder)
    assert type(auto) is LladaVForConditionalGeneration
    assert auto.dtype == torch.float32
    assert_equal_weights(auto.state_dict(), small_model.state_dict())


def test_code_named_in_a_published_config_is_not_run(published_folder):
    assert "auto_map" in json.loads((published_folder / "config.json").read_text())
    for options in ({}, {"trust_remote_code": True}):
        config = AutoConfig.from_pretrained(published_folder, **options)
        assert type(config) is LladaVConfig
        assert not hasattr(config, "auto_map")


def test_a_model_read_from_the_published_layout_is_saved_in_ours(tiny, tmp_path):
    model = LladaVForConditionalGeneration.from_pretrained(tiny)
    model.save_pretrained(tmp_path / "ours")
    assert load_file(tmp_path / "ours" / "model.safetensors").keys() == model.state_dict().keys()
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    assert again.dtype == torch.bfloat16
    assert_equal_weights(again.state_dict(), model.state_dict())


def test_the_model_without_head_loads_from_the_same_folder(tiny):
    whole, base = (kind.from_pretrained(tiny) for kind in (LladaVForConditionalGeneration, LladaVModel))
    assert_equal_weights(base.state_dict(), whole.model.state_dict())


def test_the_dtype_asked_for_is_the_dtype_loaded(tiny):
    assert LladaVForConditionalGeneration.from_pretrained(tiny, dtype=torch.float16).dtype == torch.float16
    assert AutoModelForImageTextToText.from_pretrained(tiny, dtype="float32").dtype == torch.float32


def test_the_processor_needs_no_conversion_either(tiny):
    processor = AutoProcessor.from_pretrained(tiny)
    assert type(processor) is LladaVProcessor
    assert processor.config.to_dict() == LladaVConfig.from_pretrained(tiny).to_dict()


# Config


def test_the_published_config_is_translated(published_folder):
    for config in (LladaVConfig.from_pretrained(published_folder), AutoConfig.from_pretrained(published_folder)):
        text, vision = config.text_config, config.vision_config
        assert (text.hidden_size, text.num_hidden_layers, text.rope_base) == (64, 3, 500000.0)
        assert (vision.hidden_size, vision.num_hidden_layers, vision.vision_use_head) == (48, 2, False)
        assert (vision.hidden_act, vision.layer_norm_eps) == ("gelu_pytorch_tanh", 1e-6)
        assert config.bos_token_id == 126080
        assert (config.max_tile_features, config.video_newline) == (4, "grid")
        assert config.dtype == torch.float32


def test_a_published_8b_config_is_the_default_config():
    sizes = {"vocab_size": 126464, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32}
    published = {"model_type": "llava_llada", "num_attention_heads": 32, "bos_token_id": 128000} | sizes
    assert LladaVConfig(**translate_config(published)).to_dict() == LladaVConfig().to_dict()


def test_pinpoints_are_turned_to_height_first():
    fields = translate_config(PUBLISHED_CONFIG | {"image_grid_pinpoints": [[384, 768], [1152, 384]]})
    assert fields["image_grid_pinpoints"] == [[768, 384], [384, 1152]]


@pytest.mark.parametrize("counted", [3, 2])
def test_the_tower_depth_may_count_the_layer_that_is_not_run_or_not(tiny, counted):
    change_config(tiny, vision_config=TINY_CONFIG["vision_config"] | {"num_hidden_layers": counted})
    assert AutoConfig.from_pretrained(tiny).vision_config.num_hidden_layers == 2
    LladaVForConditionalGeneration.from_pretrained(tiny)


@pytest.mark.parametrize("counted", [1, 4])
def test_another_tower_depth_is_refused(tiny, counted):
    change_config(tiny, vision_config=TINY_CONFIG["vision_config"] | {"num_hidden_layers": counted})
    with pytest.raises(ValueError, match=f"counts {counted} vision layers, but .* holds 2"):
        AutoConfig.from_pretrained(tiny)


@pytest.mark.parametrize(
    "field, value",
    [
        ("mm_projector_type", "linear"),
        ("mm_patch_merge_type", "flat"),
        ("mm_resampler_type", "perceiver"),
        ("mm_spatial_pool_mode", "average"),
        ("mm_use_im_start_end", True),
        ("add_faster_video", True),
        ("image_aspect_ratio", "pad"),
        ("mm_newline_position", "row"),
        ("image_grid_pinpoints", "(1x1),...,(6x6)"),
        ("rope_scaling", {"type": "linear", "factor": 2}),
        ("attention_bias", True),
        ("hidden_act", "gelu"),
    ],
)
def test_a_config_the_model_is_not_built_for_is_refused_by_name(tiny, field, value):
    change_config(tiny, **{field: value})
    with pytest.raises(ValueError, match="video_newline" if field == "mm_newline_position" else field):
        LladaVConfig.from_pretrained(tiny)


def test_a_config_without_sizes_is_refused_by_name(tiny):
    change_config(tiny, hidden_size=None)
    with pytest.raises(ValueError, match="lacks hidden_size"):
        LladaVConfig.from_pretrained(tiny)


def test_missing_multimodal_fields_take_the_published_values(tiny):
    file = tiny / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({n: v for n, v in config.items() if not n.startswith(("mm_", "image_"))}))
    assert LladaVConfig.from_pretrained(tiny).to_dict() == LladaVConfig(**translate_config(TINY_CONFIG)).to_dict()


def test_another_models_config_is_refused(llada_hf):
    with pytest.raises(ValueError, match="'llada'.*llada-v convert"):
        LladaVConfig.from_pretrained(llada_hf)


@pytest.mark.parametrize("layout", ["llada", "llada_hf"])
def test_a_language_model_alone_is_not_loaded_at_random(layout, request):
    with pytest.raises(ValueError, match="is a published language model .*`llada-v convert`"):
        AutoModel.from_pretrained(request.getfixturevalue(layout))


# Conversion


def test_a_converted_published_folder_is_the_same_model(published_folder, small_model, tokenizer_folder, tmp_path):
    source = shutil.copytree(published_folder, tmp_path / "source")
    shutil.copytree(tokenizer_folder, source, dirs_exist_ok=True)
    steps = []
    done = convert(source, tmp_path / "ours", shard_bytes=40_000_000, progress=lambda *step: steps.append(step))
    assert done == (72, [], [], [])
    assert steps == [(count, 72) for count in range(1, 73)]
    assert not (tmp_path / "ours.incomplete").exists()
    shards = sorted((tmp_path / "ours").glob("*.safetensors"))
    assert len(shards) == 2
    assert all(shard.stat().st_size < 40_100_000 for shard in shards)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    assert_equal_weights(model.state_dict(), small_model.state_dict())
    ours, published = model.config.to_dict(), small_model.config.to_dict()
    same = ours.keys() - {"_name_or_path", "architectures"}
    assert {name: ours[name] for name in same} == {name: published[name] for name in same}
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    inputs = processor(images=[pattern(384, 384, 0)], text="<image>", return_tensors="pt")
    assert inputs["input_ids"].shape == (1, 1485)


@pytest.mark.parametrize("layout", ["llada", "llada_hf"])
def test_a_language_model_and_a_tower_become_one_model(layout, siglip, tmp_path, request):
    source = request.getfixturevalue(layout)
    done = convert(source, tmp_path / "ours", vision_tower=siglip)
    assert done.num_tensors == len(TINY_LAYOUT)
    dropped = ("text_model", "vision_model.head", "logit_", "vision_model.encoder.layers.2.")
    assert len(done.dropped) == 20
    assert all(name.startswith(dropped) for name in done.dropped)
    model = LladaVForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert model.dtype == torch.bfloat16
    assert model.config.text_config.max_position_embeddings == 16384
    weights = published_weights(model)
    assert weights.keys() == TINY_LAYOUT.keys()
    fresh = {published_name(name) for name in done.fresh}
    assert fresh == {name for name in TINY_LAYOUT if "mm_projector" in name or "newline" in name}
    kept = {name: weight for name, weight in TINY_WEIGHTS.items() if name not in fresh}
    assert_equal_weights({name: weights[name] for name in weights.keys() - fresh}, kept)


def test_fresh_weights_have_the_models_own_scale_and_follow_the_seed(llada, siglip, tmp_path):
    weights = []
    for index, seed in enumerate((0, 0, 1)):
        convert(llada, tmp_path / str(index), vision_tower=siglip, seed=seed, dtype="float32")
        weights.append(load_file(tmp_path / str(index) / "model.safetensors"))
    first, again, other = (part["model.multi_modal_projector.linear_1.weight"] for part in weights)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.15 < first.abs().max() <= 0.25  # uniform within 1 / sqrt(16)
    assert 0.1 < weights[0]["model.image_newline"].std() < 0.8  # normal, 1 / sqrt(8)
    assert all(weight.dtype == torch.float32 for weight in weights[0].values())


def test_a_tower_saved_without_prefix_and_last_layer_converts_too(llada, siglip, tmp_path):
    weights = load_file(siglip / "model.safetensors")
    weights = {n.removeprefix("vision_model."): w for n, w in weights.items() if ".layers.2." not in n}
    save_file({n: w for n, w in weights.items() if n.startswith(("emb", "enc", "post"))}, siglip / "model.safetensors")
    assert convert(llada, tmp_path / "ours", vision_tower=siglip).dropped == []


def test_a_leftover_of_a_killed_conversion_is_replaced(tiny, tmp_path):
    leftover = tmp_path / "ours.incomplete"
    leftover.mkdir()
    (leftover / "model-00001-of-00009.safetensors").write_bytes(b"half")
    convert(tiny, tmp_path / "ours")
    assert not leftover.exists()
    LladaVForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert not list((tmp_path / "ours").glob("*-of-*"))


def test_a_failure_while_writing_leaves_nothing_behind(tiny, tmp_path, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("llada_v.convert.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        convert(tiny, tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published"]


# Bad inputs


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lose_shard(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def pickles_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def two_files(folder):
    for name in ("one", "two"):
        shutil.copy(folder / "model.safetensors", folder / f"{name}.safetensors")
    (folder / "model.safetensors").unlink()


BAD_WEIGHTS = {
    "truncated": (truncate, "model.safetensors is truncated or damaged"),
    "extra": (lambda f: change_weights(f, model__extra=torch.zeros(1)), "1 unknown: model.extra"),
    "missing": (lambda f: change_weights(f, model__norm__weight=None), "1 missing: model.norm.weight"),
    "shape": (
        lambda f: change_weights(f, model__norm__weight=torch.ones(3)),
        r"1 of another shape: model.norm.weight is \(3,\) and not \(8,\)",
    ),
    "lost shard": (lose_shard, "lists model-00001-of-00001.safetensors, which"),
    "pickles": (pickles_only, r"pickles \(pytorch_model.bin\), and pickles are not read"),
    "none": (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
    "twice": (two_files, "is in both"),
    "config": (lambda f: (f / "config.json").write_text("{"), "config.json.*valid JSON"),
}


@pytest.mark.parametrize("damage", BAD_WEIGHTS)
def test_bad_weights_are_one_clear_error_when_converted(tiny, tmp_path, damage):
    spoil, message = BAD_WEIGHTS[damage]
    spoil(tiny)
    with pytest.raises(ValueError, match=message):
        convert(tiny, tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published"]


@pytest.mark.parametrize("kind", [LladaVForConditionalGeneration, AutoModelForImageTextToText])
@pytest.mark.parametrize("damage", [name for name in BAD_WEIGHTS if name != "config"])
def test_bad_weights_are_one_clear_error_when_loaded(tiny, damage, kind):
    spoil, message = BAD_WEIGHTS[damage]
    spoil(tiny)
    with pytest.raises(ValueError, match=message):
        kind.from_pretrained(tiny)


@pytest.mark.parametrize("damage", ["truncated", "extra", "missing", "shape"])
def test_our_own_layout_is_as_strict(tiny, tmp_path, damage):
    convert(tiny, tmp_path / "ours")
    changes = {
        "extra": {"model__extra": torch.zeros(1)},
        "missing": {"model__language_model__norm__weight": None},
        "shape": {"model__language_model__norm__weight": torch.ones(3)},
    }
    truncate(tmp_path / "ours") if damage == "truncated" else change_weights(tmp_path / "ours", **changes[damage])
    message = BAD_WEIGHTS[damage][1].replace("model.norm", "model.language_model.norm")
    with pytest.raises(ValueError, match=message):
        LladaVForConditionalGeneration.from_pretrained(tmp_path / "ours")


def test_what_is_missing_is_a_list_where_one_is_asked_for(tiny, tmp_path):
    convert(tiny, tmp_path / "ours")
    change_weights(tmp_path / "ours", model__language_model__norm__weight=None, model__extra=torch.zeros(1))
    model, found = LladaVForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert found["missing_keys"] == {"model.language_model.norm.weight"}
    assert found["unexpected_keys"] == {"model.extra"}
    assert torch.equal(model.model.language_model.norm.weight, torch.ones(8, dtype=torch.bfloat16))


def test_weights_of_other_shapes_can_be_made_fresh(tiny, tmp_path):
    convert(tiny, tmp_path / "ours")
    change_weights(tmp_path / "ours", model__image_newline=torch.ones(3))
    load = LladaVForConditionalGeneration.from_pretrained
    model = load(tmp_path / "ours", ignore_mismatched_sizes=True)
    assert model.model.image_newline.shape == (8,)
    change_weights(tmp_path / "ours", model__extra=torch.ones(3))
    with pytest.raises(ValueError, match="1 unknown: model.extra$"):
        load(tmp_path / "ours", ignore_mismatched_sizes=True)


def test_a_folder_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        LladaVForConditionalGeneration.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="there is no folder"):
        convert(tmp_path / "nowhere", tmp_path / "ours")


def test_a_name_that_is_neither_folder_nor_on_the_hub_is_said_so():
    with pytest.raises(OSError, match="'nobody/nothing' is no folder here, and the hub did not give it"):
        LladaVForConditionalGeneration.from_pretrained("nobody/nothing", local_files_only=True)


def test_a_destination_in_use_is_left_alone(tiny, tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        convert(tiny, tmp_path / "ours")
    assert (tmp_path / "ours" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_missing_tokenizer_file_is_named_with_its_origin(tiny, tmp_path, name):
    (tiny / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {name}; copy it there from .* download .LLaDA-8B-Instruct"):
        convert(tiny, tmp_path / "ours")
    assert not list(tmp_path.glob("ours*"))


def test_a_tokenizer_without_llada_tokens_is_refused(tiny, tmp_path):
    file = tiny / "tokenizer.json"
    file.write_text(file.read_text().replace("<|mdm_mask|>", "<|other|>"))
    with pytest.raises(ValueError, match=r"lacks <\|mdm_mask\|>"):
        convert(tiny, tmp_path / "ours")
    assert not list(tmp_path.glob("ours*"))


def test_a_language_model_needs_a_tower_and_a_whole_model_none(llada, tiny, siglip, tmp_path):
    with pytest.raises(ValueError, match="pass --vision-tower"):
        convert(llada, tmp_path / "ours")
    with pytest.raises(ValueError, match="leave out --vision-tower"):
        convert(tiny, tmp_path / "ours", vision_tower=siglip)
    with pytest.raises(ValueError, match="SigLIP2 folder is expected"):
        convert(llada, tmp_path / "ours", vision_tower=llada)
    assert not list(tmp_path.glob("ours*"))


def test_bad_tower_weights_are_named_as_in_their_own_folder(llada, siglip, tmp_path):
    change_weights(siglip, vision_model__post_layernorm__bias=None, vision_model__odd=torch.zeros(1))
    message = "1 unknown: vision_model.odd; 1 missing: vision_model.post_layernorm.bias"
    with pytest.raises(ValueError, match=message):
        convert(llada, tmp_path / "ours", vision_tower=siglip)


def test_our_own_layout_is_not_converted_again(tiny, tmp_path):
    convert(tiny, tmp_path / "ours")
    with pytest.raises(ValueError, match="model_type 'llada_v'.* is neither"):
        convert(tmp_path / "ours", tmp_path / "again")


def test_an_unknown_dtype_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="int8.*float32, float16, bfloat16"):
        convert(tiny, tmp_path / "ours", dtype="int8")
