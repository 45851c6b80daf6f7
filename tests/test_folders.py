"""Folders that transformers loads are loaded, every weight accounted for; JSON that is damaged is one clear error."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from llada_v import LladaVConfig, LladaVForConditionalGeneration, LladaVModel, LladaVProcessor
from llada_v.checkpoint.files import JSON_FILES, unpacked
from llada_v.json_text import parse_json, read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of the tiny model's folder to spoil."""
    return shutil.copytree(tiny_folder, tmp_path / "model")


def equal(first, second) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(one, two) for (a, one), (b, two) in pairs)


def old_index(folder):
    (folder / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}))


def adapter(folder):
    save_file({"base_model.model.lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")


BESIDE = {
    "an old index": old_index,
    "an adapter": adapter,
    "another variant": lambda folder: shutil.copy(folder / WEIGHTS, folder / "model.fp16.safetensors"),
    "a helper file of macOS": lambda folder: (folder / "._model.safetensors").write_bytes(b"\0\5\26\7"),
    "an older file": lambda folder: shutil.copy(folder / WEIGHTS, folder / "old.safetensors"),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_stands_beside_the_weights_is_none_of_the_models(folder, tiny_model, what):
    BESIDE[what](folder)
    assert equal(LladaVForConditionalGeneration.from_pretrained(folder), tiny_model)


def test_helper_files_beside_shards_without_an_index_are_left_out(folder):
    from llada_v.checkpoint.files import read_headers

    names = set(read_headers(folder))
    (folder / WEIGHTS).rename(folder / "pytorch_00001.safetensors")
    adapter(folder)
    BESIDE["a helper file of macOS"](folder)
    assert set(read_headers(folder)) == names


def test_a_variant_is_loaded_where_it_is_asked_for(folder, tiny_model):
    (folder / WEIGHTS).rename(folder / "model.fp16.safetensors")
    assert equal(LladaVForConditionalGeneration.from_pretrained(folder, variant="fp16"), tiny_model)
    with pytest.raises(ValueError, match="holds no model.safetensors; it has the variants fp16: choose one"):
        LladaVForConditionalGeneration.from_pretrained(folder)
    with pytest.raises(ValueError, match="holds no model.bf16.safetensors; it has the variants fp16"):
        LladaVForConditionalGeneration.from_pretrained(folder, variant="bf16")


def test_a_variant_in_shards_is_loaded_by_its_own_index(folder, tiny_model):
    LladaVForConditionalGeneration.from_pretrained(folder).save_pretrained(folder, variant="fp16", max_shard_size="1MB")
    (folder / WEIGHTS).unlink()
    assert (folder / "model.safetensors.index.fp16.json").is_file()
    assert equal(LladaVForConditionalGeneration.from_pretrained(folder, variant="fp16"), tiny_model)


def test_the_model_without_head_loads_what_it_saved(tiny_model, tmp_path):
    tiny_model.model.save_pretrained(tmp_path / "base")
    assert equal(LladaVModel.from_pretrained(tmp_path / "base"), tiny_model.model)
    with pytest.raises(ValueError, match="1 missing: lm_head.weight"):
        LladaVForConditionalGeneration.from_pretrained(tmp_path / "base")
    weights = load_file(tmp_path / "base" / WEIGHTS)
    save_file(weights | {"language_model.odd": torch.zeros(1)}, tmp_path / "base" / WEIGHTS)
    with pytest.raises(ValueError, match="1 unknown: language_model.odd"):
        LladaVModel.from_pretrained(tmp_path / "base")


def test_pickles_are_not_read_even_when_asked_for(folder):
    with pytest.raises(ValueError, match="use_safetensors=False asks for pickles, which are not read"):
        LladaVForConditionalGeneration.from_pretrained(folder, use_safetensors=False)


# Quantized weights, as bitsandbytes and torchao name them


def stored(shape=(1,)):
    from llada_v.checkpoint.files import Stored

    return Stored(None, "", shape, "U8")


@pytest.mark.parametrize(
    "method, parts",
    [
        ("bitsandbytes", ["weight", "weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"]),
        ("bitsandbytes", ["weight", "weight.nested_absmax", "weight.nested_quant_map"]),
        ("bitsandbytes", ["weight", "SCB", "weight_format"]),
        ("torchao", ["_weight_qdata", "_weight_scale", "_weight_zero_point"]),
    ],
)
def test_the_parts_of_a_quantized_weight_count_as_that_weight(method, parts):
    found = {f"a.q_proj.{part}": stored() for part in parts} | {"a.norm.weight": stored((3,)), "a.odd": stored()}
    weights, packed = unpacked(found, method, "here")
    assert set(weights) == {"a.q_proj.weight", "a.norm.weight", "a.odd"} and set(packed) == {"a.q_proj.weight"}


def quantized(folder, method="bitsandbytes"):
    """Make one weight of the folder a packed one, as 4 bits of bitsandbytes look."""
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    weights = load_file(folder / WEIGHTS)
    weights[name] = torch.zeros(weights[name].numel() // 2, 1, dtype=torch.uint8)
    weights |= {f"{name}.absmax": torch.zeros(4), f"{name}.quant_state.bitsandbytes__nf4": torch.zeros(4)}
    save_file(weights, folder / WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    if method is not None:
        config["quantization_config"] = {"quant_method": method, "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    return name


def test_quantized_weights_are_accounted_for_one_by_one(folder):
    from llada_v.checkpoint.files import check_folder, shapes_of
    from llada_v.modeling_llada_v import empty_model

    shapes = shapes_of(empty_model(LladaVConfig.from_pretrained(folder)))
    name = quantized(folder)
    check_folder(folder, shapes, quantized_by="bitsandbytes")
    with pytest.raises(ValueError, match="2 unknown: .*absmax"):
        check_folder(folder, shapes)
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {f"{name}.odd": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(ValueError, match="1 unknown: .*up_proj.weight.odd"):
        check_folder(folder, shapes, quantized_by="bitsandbytes")
    save_file({key: weight for key, weight in weights.items() if not key.startswith(name)}, folder / WEIGHTS)
    with pytest.raises(ValueError, match="1 missing: .*up_proj.weight"):
        check_folder(folder, shapes, quantized_by="bitsandbytes")


def test_weights_quantized_by_a_method_that_is_not_known_are_refused_by_name(folder):
    quantized(folder, method="gptq")
    with pytest.raises(ValueError, match="quantized by 'gptq'; bitsandbytes, torchao are read"):
        LladaVForConditionalGeneration.from_pretrained(folder)


# An index


@pytest.mark.parametrize(
    "index, told",
    [
        ([], "holds a list, where an object with fields is expected"),
        (None, "holds null, where an object"),
        ({}, "has no weight_map from names to files"),
        ({"weight_map": ["model.safetensors"]}, "has no weight_map"),
        ({"weight_map": {"lm_head.weight": 5}}, "has no weight_map"),
        ({"weight_map": {"lm_head.weight": "../other/model.safetensors"}}, "only safetensors files of its own folder"),
        ({"weight_map": {"lm_head.weight": "/etc/model.safetensors"}}, "only safetensors files of its own folder"),
        ({"weight_map": {"lm_head.weight": "a\\..\\model.safetensors"}}, "only safetensors files of its own folder"),
        ({"weight_map": {"lm_head.weight": "pytorch_model.bin"}}, "only safetensors files of its own folder"),
        ({"weight_map": {}}, "weights .* do not fit"),
    ],
    ids=str,
)
def test_a_damaged_index_is_one_clear_error(folder, index, told):
    other = folder.parent / "other"
    other.mkdir()
    (folder / WEIGHTS).rename(other / WEIGHTS)
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=told):
        LladaVForConditionalGeneration.from_pretrained(folder)


# JSON beside weights

DAMAGED = {
    "null": ("null", "holds null, where an object with fields is expected"),
    "a list": ("[1, 2]", "holds a list, where an object"),
    "a number": ("5", "holds a int, where an object"),
    "nothing": ("", "is not valid JSON"),
    "half": ('{"model_type": ', "is not valid JSON"),
    "NaN": ('{"a": NaN}', "is not valid JSON .NaN is no number"),
    "digits": ('{"a": ' + "9" * 5000 + "}", "is not valid JSON"),
    "deep": ('{"a": ' * 5000 + "1" + "}" * 5000, "is nested deeper than 60 levels"),
    "deep lists": ('{"a": ' + "[" * 90 + "]" * 90 + "}", "is nested deeper than 60 levels"),
}


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_json_beside_weights_is_one_clear_error(folder, damage, name):
    text, told = DAMAGED[damage]
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} {told}"):
        LladaVForConditionalGeneration.from_pretrained(folder)


ODD = [
    ("tokenizer.json", "version", None, "the tokenizer of .* has a value that cannot be used"),
    (
        "generation_config.json",
        "max_new_tokens",
        {},
        "the generation_config.json of .* has a value that cannot be used",
    ),
    ("config.json", "image_token_id", ["x" * 9999], r"image_token_id is .{100}\.\.\. \("),
    ("config.json", "pad_token_id", ["x" * 9999], r"pad_token_id is .{100}\.\.\. \("),
    (
        "processor_config.json",
        "image_processor",
        {"size": {"height": {"x": "x" * 9999}}},
        "has size .{100}|has a value",
    ),
    ("config.json", "vision_config", {"intermediate_size": ["x" * 9999]}, "the config has a value that cannot be used"),
]


@pytest.mark.parametrize("name, key, value, told", ODD)
def test_an_odd_value_beside_weights_is_one_short_error(folder, name, key, value, told):
    (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | {key: value}))
    with pytest.raises(ValueError, match=told) as found:
        LladaVProcessor.from_pretrained(folder)
        LladaVForConditionalGeneration.from_pretrained(folder)
    assert len(str(found.value)) < 600


@pytest.mark.parametrize("damage", DAMAGED)
def test_the_processor_and_the_config_read_through_the_same_door(folder, damage):
    text, told = DAMAGED[damage]
    for name in ("processor_config.json", "tokenizer.json", "config.json"):
        before = (folder / name).read_bytes()
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=f"{name} {told}"):
            LladaVProcessor.from_pretrained(folder)
        if name == "config.json":
            with pytest.raises(ValueError, match=f"{name} {told}"):
                LladaVConfig.from_pretrained(folder)
        (folder / name).write_bytes(before)


def test_bytes_that_are_no_text_are_named(tmp_path):
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(ValueError, match="config.json is not UTF-8 text"):
        read_json(tmp_path / "config.json")


def test_a_file_too_large_is_not_read(tmp_path):
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(2**27 + 1)
    with pytest.raises(ValueError, match="has 134217729 bytes; JSON beside weights has at most 134217728"):
        read_json(tmp_path / "config.json")


def test_sound_json_is_read_as_it_is():
    assert parse_json('{"a": [1, {"b": null}], "c": "\\u00e9"}', "here") == {"a": [1, {"b": None}], "c": "\u00e9"}


def test_a_long_name_is_not_printed_whole():
    data = "data:image/png;base64," + "iVBORw0KGgo/" * 1000
    for kind in (LladaVForConditionalGeneration, LladaVProcessor, LladaVConfig):
        with pytest.raises((ValueError, OSError)) as found:
            kind.from_pretrained(data)
        assert len(str(found.value)) < 400
