"""Any bytes in the files of a model's folder give the same model or one clear error.

pytest -m slow tests/fuzz/test_files_beside_weights.py
"""

import json
import shutil
import struct
from collections import Counter
from copy import deepcopy

import pytest
import torch
from endings import ends_well
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from llada_v import LladaVConfig, LladaVForConditionalGeneration, LladaVProcessor
from llada_v.checkpoint.files import check_folder, read_headers, shapes_of
from llada_v.json_text import parse_json
from llada_v.modeling_llada_v import empty_model

pytestmark = pytest.mark.slow

FAST = dict(deadline=None, suppress_health_check=list(HealthCheck), database=None, phases=[Phase.generate])
HEADERS, CONFIGS, TEXTS, FOLDERS = 3000, 3000, 4000, 600
ODD = st.sampled_from(
    [None, True, -1, 0, 1, 3, 1.5, 1e308, 10**8, 10**30, "", "x", "auto", "float32", "int8", [], [1], [[1]], {}]
    + [{"a": 1}, [None], "../x", "\ud800", [["a", "b"]], {"quant_method": "x"}, "x" * 3000]
)
JSON = st.recursive(ODD, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside))
NAMES_ADDED = st.text(max_size=8) | st.sampled_from(
    ["quantization_config", "dtype", "id2label", "rope_scaling", "layer_types", "model_type", "auto_map"]
)
COUNTS = {name: Counter() for name in ("headers", "configs", "texts", "folders")}


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """The folder of a model of a few kilobytes, put right again after every input."""
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("fuzz") / "model")
    config = json.loads((folder / "config.json").read_text())
    small = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    config["text_config"] |= small | {"num_key_value_heads": 2}
    config["vision_config"] |= small
    model = LladaVForConditionalGeneration(LladaVConfig.from_dict(config))
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    return folder


def paths_in(value, path=()):
    """Where every value of a nested object stands."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from paths_in(inner, (*path, key))


def spoiled(data, value):
    """The object with one to three of its values changed, removed or added."""
    value = json.loads(json.dumps(value))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(paths_in(value))))
        inside = value
        for key in path[:-1]:
            inside = inside[key]
        action = data.draw(st.sampled_from(["change", "change", "remove", "add"]))
        if action == "change":
            inside[path[-1]] = deepcopy(data.draw(JSON))
        elif action == "remove":
            del inside[path[-1]]
        elif isinstance(inside, dict):
            inside[data.draw(NAMES_ADDED)] = deepcopy(data.draw(JSON))
        if not list(paths_in(value)):
            break
    return value


@settings(max_examples=HEADERS, **FAST)
@given(data=st.data())
def test_a_damaged_header_is_named(folder, data):
    file = folder / "model.safetensors"
    sound = file.read_bytes()
    length = struct.unpack("<Q", sound[:8])[0]
    header = json.loads(sound[8 : 8 + length])
    shapes = shapes_of(empty_model(LladaVConfig.from_pretrained(folder)))
    try:
        if data.draw(st.booleans()):
            text = json.dumps(spoiled(data, header)).encode()
            file.write_bytes(struct.pack("<Q", len(text)) + text + sound[8 + length :])
        else:
            place = data.draw(st.integers(0, 8 + length))
            new = data.draw(st.binary(max_size=12))
            cut = data.draw(st.sampled_from([0, 0, 1, 100, len(sound) - 4]))
            file.write_bytes((sound[:place] + new + sound[place + len(new) :])[: len(sound) - cut])
        with ends_well(COUNTS["headers"]):
            check_folder(folder, shapes)
            assert {name: stored.shape for name, stored in read_headers(folder).items()} == shapes
    finally:
        file.write_bytes(sound)


@settings(max_examples=CONFIGS, **FAST)
@given(data=st.data())
def test_a_config_with_odd_values_is_named(folder, data):
    file = folder / "config.json"
    sound = file.read_text()
    try:
        file.write_text(json.dumps(spoiled(data, json.loads(sound))))
        with ends_well(COUNTS["configs"]):
            empty_model(LladaVConfig.from_pretrained(folder))
    finally:
        file.write_text(sound)


@settings(max_examples=TEXTS, **FAST)
@given(st.text(max_size=60) | st.text('{}[]",:0123456789.eE-+ntfu\\', max_size=400) | JSON.map(json.dumps))
def test_any_text_is_an_object_or_refused(text):
    with ends_well(COUNTS["texts"]):
        assert isinstance(parse_json(text, "here"), dict)


NAMES = ("generation_config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json")


@settings(max_examples=FOLDERS, **FAST)
@given(data=st.data())
def test_a_folder_with_odd_files_loads_or_is_refused(folder, data):
    name = data.draw(st.sampled_from(NAMES))
    file = folder / name
    sound = file.read_text()
    try:
        file.write_text(json.dumps(spoiled(data, json.loads(sound))) if data.draw(st.integers(0, 4)) else "[" * 9999)
        with ends_well(COUNTS["folders"]):
            LladaVProcessor.from_pretrained(folder)
            if name == "generation_config.json":
                LladaVForConditionalGeneration.from_pretrained(folder).generate(torch.tensor([[40]]))
    finally:
        file.write_text(sound)


def test_both_endings_were_seen():
    print(COUNTS)
    assert all(counts["refused"] for counts in COUNTS.values())
