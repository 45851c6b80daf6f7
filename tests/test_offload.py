"""A model whose weights are elsewhere, or on several devices, answers with the same tokens."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from PIL import Image

from llada_v import LladaVForConditionalGeneration, SamplerConfig

CHAT = [
    {
        "role": "user",
        "content": [
            {"type": "image", "image": Image.effect_noise((100, 80), 60).convert("RGB")},
            {"type": "text", "text": "What is it?"},
        ],
    }
]
CPU = torch.device("cpu")
SETTINGS = (
    SamplerConfig(gen_length=8, steps=4),
    SamplerConfig(gen_length=8, cache="prompt", refresh_interval=2, rule="factor"),
    SamplerConfig(gen_length=8, cfg_scale=0.5),
)


@pytest.fixture(scope="module")
def inputs(tiny_processor):
    options = dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    return tiny_processor.apply_chat_template(CHAT, **options)


def parts_of(model) -> list[str]:
    """The parts a device map may name: tower, projector, newline, embedding, each block, norm, head."""
    trunk = "model.language_model"
    blocks = [f"{trunk}.layers.{number}" for number in range(model.config.text_config.num_hidden_layers)]
    parts = ["model.vision_tower", "model.multi_modal_projector", "model.image_newline", f"{trunk}.embed_tokens"]
    return [*parts, *blocks, f"{trunk}.norm", "lm_head"]


def dispatched(model, folder):
    """Every second part on the disk, the others in memory: accelerate's hooks move what a call needs."""
    places = {part: ("cpu", "disk")[number % 2] for number, part in enumerate(parts_of(model))}
    return dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


WAYS = {
    "in memory, moved when needed": lambda model, folder: cpu_offload(model, CPU),
    "on the disk": lambda model, folder: disk_offload(model, str(folder), CPU),
    "on several devices": dispatched,
}


@pytest.mark.parametrize("way", WAYS)
def test_offloaded_weights_give_the_same_tokens(way, tiny_folder, tiny_model, inputs, tmp_path):
    model = WAYS[way](LladaVForConditionalGeneration.from_pretrained(tiny_folder).eval(), tmp_path)
    assert any(weight.device.type == "meta" for weight in model.parameters())
    for sampler in SETTINGS:
        assert torch.equal(model.generate(**inputs, sampler=sampler), tiny_model.generate(**inputs, sampler=sampler))


def test_a_folder_loads_onto_a_device_map(tiny_folder, tiny_model, inputs, tmp_path):
    places = {part: ("cpu", "disk")[number % 2] for number, part in enumerate(parts_of(tiny_model))}
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder, device_map=places, offload_folder=str(tmp_path))
    assert len(set(model.hf_device_map.values())) == 2
    assert torch.equal(model.generate(**inputs, max_new_tokens=6), tiny_model.generate(**inputs, max_new_tokens=6))
