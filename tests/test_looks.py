"""Where a token looks: the row equals that of full attention, and a map's cells lie where their features came from."""

import pytest
import torch
from PIL import Image

from llada_v.answering import DEMO_IMAGE
from llada_v.anyres import Layout, grid_map, num_features, pooled_side
from llada_v.conversation import user_message
from llada_v.looks import attention_row, looks_of


def inputs_of(model, processor, images=(), video=None):
    inputs = processor.apply_chat_template(
        [user_message("What is this?", images, video)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    pictures = {name: value for name, value in inputs.items() if name.startswith(("pixel", "image"))}
    visuals = model.model.list_visuals(**pictures) if pictures else []
    features = model.encode_pictures(**pictures) if pictures else None
    return inputs["input_ids"], model.model.embed(inputs["input_ids"], features), visuals


@pytest.mark.parametrize("position", [0, 7, -1])
@pytest.mark.parametrize("folder", ["tiny", "small"])
def test_the_row_is_that_of_full_attention(request, folder, position):
    model = request.getfixturevalue(f"{folder}_model")
    trunk = model.model.language_model
    ids = torch.arange(1, 30)[None] % trunk.config.vocab_size
    embeds = trunk.embed_tokens(ids)
    kept = trunk.config._attn_implementation
    trunk.set_attn_implementation("eager")
    try:
        full = torch.stack(trunk(inputs_embeds=embeds, output_attentions=True).attentions)  # (layers, 1, H, L, L)
    finally:
        trunk.set_attn_implementation(kept)
    position %= ids.shape[1]
    row = attention_row(trunk, embeds, position)
    torch.testing.assert_close(row, full[:, 0, :, position].mean((0, 1)), atol=1e-6, rtol=1e-5)
    assert row.sum().item() == pytest.approx(1, abs=1e-5)


def test_nothing_of_size_length_times_length_is_made(tiny_model, monkeypatch):
    seen = []
    plain = torch.Tensor.softmax
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, *a, **k: seen.append(x.numel()) or plain(x, *a, **k))
    attention_row(tiny_model.model.language_model, torch.zeros(1, 100, 192), 3)
    assert max(seen) == 4 * 100  # heads x length


@pytest.mark.parametrize("size", [(72, 72), (200, 90), (60, 150)])
def test_a_picture_alone_has_a_map_over_its_whole_and_its_grid(tiny_model, tiny_processor, size):
    height, width = size
    picture = Image.new("RGB", (width, height), "red")
    ids, embeds, visuals = inputs_of(tiny_model, tiny_processor, [picture])
    config = tiny_model.config
    rows, columns = grid_map(height, width, config)[2]
    weights = torch.rand(int((ids == config.image_token_id).sum()))
    (look,) = looks_of(weights, visuals, config)
    assert look.weights.shape == (rows, columns) and (look.picture, look.frame) == (0, None)
    side = config.tile_side
    newlines = weights[side**2 :].view(rows, columns + 1)[:, -1]
    assert look.weights.sum().item() == pytest.approx((weights.sum() - newlines.sum()).item(), rel=1e-4)
    corner = torch.zeros_like(weights)
    corner[side**2 + columns - 1] = 1  # the last feature of the grid's first row
    (look,) = looks_of(corner, visuals, config)
    assert look.weights.argmax() == columns - 1


def test_several_pictures_have_a_map_each_without_their_borders(tiny_model, tiny_processor):
    wide, high = Image.new("RGB", (120, 40), "red"), Image.new("RGB", (40, 120), "blue")
    ids, embeds, visuals = inputs_of(tiny_model, tiny_processor, [wide, high])
    config = tiny_model.config
    side = config.tile_side
    first, second = looks_of(torch.ones(int((ids == config.image_token_id).sum())), visuals, config)
    assert (first.picture, second.picture) == (0, 1)
    assert first.weights.shape == (side // 3, side) and second.weights.shape == (side, side // 3)


@pytest.mark.parametrize("newline", ["grid", "frame", "one_token", "no_token"])
def test_a_video_has_a_map_a_frame(tiny_model, newline, monkeypatch):
    config = tiny_model.config
    monkeypatch.setattr(config, "video_newline", newline)
    side = pooled_side(config)
    visuals = [(Layout.VIDEO, (72, 72), 3)]
    looks = looks_of(torch.ones(num_features(Layout.VIDEO, 72, 72, config, frames=3)), visuals, config)
    assert [look.frame for look in looks] == [0, 1, 2]
    assert all(look.weights.shape == (side, side) and look.weights.min() == 1 for look in looks)


def test_the_model_that_ships_looks_at_the_circle_to_name_its_colour():
    """The demo's green circle is at the lower left."""
    from llada_v.answering import load

    model, processor = load()
    inputs = processor.apply_chat_template(
        [user_message("What colour is the circle?", [str(DEMO_IMAGE)])],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    pictures = {name: value for name, value in inputs.items() if name.startswith(("pixel", "image"))}
    ids = torch.cat((inputs["input_ids"], torch.full((1, 4), model.config.mask_token_id)), dim=1)
    embeds = model.model.embed(ids, model.encode_pictures(**pictures))
    row = attention_row(model.model.language_model, embeds, ids.shape[1] - 4)
    (look,) = looks_of(row[ids[0] == model.config.image_token_id], model.model.list_visuals(**pictures), model.config)
    rows, columns = look.weights.shape
    lower_left = look.weights[rows // 2 :, : columns // 2].sum() / look.weights.sum()
    assert lower_left > 0.4
