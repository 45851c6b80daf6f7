"""Image features, logits and losses equal those recorded from the original (tests/golden).

The figures hold four or five decimals.
"""

import PIL
import pytest
import torch
from make_tokenizer import ASSISTANT_ID
from published import fill_in, golden, pattern, pictures_of

from llada_v.anyres import Layout, grid_of, num_features
from llada_v.images import anyres_tiles, normalised
from llada_v.training.dialogue import conversation_ids, dialogue_causal_mask
from llada_v.training.noise import diffusion_loss

FORWARD = {record["name"]: record for record in golden("forward")}
# batch2_padded is left out: there the original attends to zero vectors that pad the shorter row.
LOSS = {record["name"]: record for record in golden("loss") if record["name"] != "batch2_padded"}
IMAGES = {"{}x{}".format(*record["size"]): record for record in golden("images")}

# Measured with Pillow 13 and torch 2.13 on a CPU, float32: what is left is the rounding of the figures themselves.
TILE = 5e-4  # measured 5.0e-5; resampling filters differ a little between Pillow versions
# Measured 5.0e-5 with Pillow 13, which recorded them; 2.8e-3 with 11 and 12, whose bicubic filter gives this pattern's
# pixels up to 10 of 255 otherwise.
FEATURE = 1e-3 if int(PIL.__version__.split(".")[0]) >= 13 else 5e-3
TEXT_LOGIT = 1e-4  # measured 5.0e-5
LOGIT = 1e-3  # measured 1.2e-4, of logits up to 14
LOSS_TOLERANCE = 1e-4  # measured 1.3e-5, of a loss of 18


def close(found, expected, tolerance, what):
    """Assert the largest difference, and say it."""
    found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    error = (found - expected).abs().max().item()
    print(f"max error {what}: {error:.2e}")
    assert error <= tolerance, f"{what}: largest difference {error:.2e}, allowed {tolerance:.0e}"


@pytest.mark.parametrize("size", IMAGES)
def test_a_picture_has_the_tiles_and_features_of_the_original(small_model, size):
    record, config = IMAGES[size], small_model.config
    width, height = record["size"]
    canvas_width, canvas_height = record["best_resolution"]
    assert grid_of(height, width, config) == (canvas_height // 384, canvas_width // 384)
    tiles = normalised(anyres_tiles(pattern(width, height, record["pattern_k"]), config))
    assert len(tiles) == record["tiles"]
    close(tiles.mean((2, 3)), record["tile_mean"], TILE, "tile_mean")
    for tile, name in ((tiles[0], "tile_block_mean_first"), (tiles[-1], "tile_block_mean_last")):
        blocks = tile.unflatten(1, (8, 48)).unflatten(3, (8, 48)).mean((2, 4)).flatten(1)
        close(blocks, record[name], TILE, name)

    features = small_model.encode_pictures(tiles, torch.tensor([[height, width]]))
    assert len(features) == record["num_tokens"] == num_features(Layout.ANYRES, height, width, config)
    for row, name in ((0, "embed_first"), (len(features) // 2, "embed_mid"), (-1, "embed_last")):
        close(features[row, :8], record[name], FEATURE, name)
    close(features.mean(), record["embed_mean"], FEATURE, "embed_mean")
    close(features.std(), record["embed_std"], FEATURE, "embed_std")


@pytest.mark.parametrize("name", FORWARD)
def test_logits_are_those_of_the_original(small_model, monkeypatch, name):
    record, config = FORWARD[name], small_model.config
    monkeypatch.setattr(config, "video_newline", record.get("mm_newline_position", "grid"))
    pictures, counts = pictures_of(record, config)
    input_ids = fill_in([record["input_ids"]], counts, config.image_token_id)
    assert input_ids.shape[1] == record["seq_len"]
    wanted = torch.zeros_like(input_ids, dtype=torch.bool)
    wanted[0, record["positions"]] = True
    logits = small_model(input_ids=input_ids, logits_at=wanted, **pictures).logits
    top = logits.topk(5)
    assert top.indices.tolist() == record["top_ids"]
    tolerance = LOGIT if pictures else TEXT_LOGIT
    close(top.values, record["top_logits"], tolerance, "top_logits")
    close(logits[:, ::15808], record["sample"], tolerance, "sample")


@pytest.mark.parametrize("name", LOSS)
def test_the_loss_is_that_of_the_original(small_model, name):
    record, config = LOSS[name], small_model.config
    pictures, counts = pictures_of(record, config)
    clean = fill_in(record["input_ids"], counts, config.image_token_id)
    # A placeholder's label is -100: put one mark per picture into the labels, then fill both in alike.
    marked = [
        [-200 if token == -200 else label for token, label in zip(*row, strict=True)]
        for row in zip(record["input_ids"], record["labels"], strict=True)
    ]
    labels = fill_in(marked, counts, -100)
    assert clean.shape[1] == record["seq_len"]
    assert (labels != -100).sum(1).tolist() == record["labelled_per_row"]
    is_masked = torch.zeros_like(clean, dtype=torch.bool)
    for row, positions in enumerate(record["masked_positions"]):
        is_masked[row, positions] = True
    p_mask = torch.tensor(record["p_mask"])
    mask = None
    if "conversation_ids" in record:
        structure = (config.start_header_id, config.eot_token_id, ASSISTANT_ID)
        turns = conversation_ids(labels, *structure)
        assert turns.tolist() == record["conversation_ids"]
        mask = dialogue_causal_mask(turns)
    noisy = clean.masked_fill(is_masked, config.mask_token_id)
    logits = small_model(input_ids=noisy, attention_mask=mask, logits_at=is_masked, **pictures).logits

    errors = torch.nn.functional.cross_entropy(logits, labels[is_masked], reduction="none")
    per_row = torch.zeros_like(labels, dtype=errors.dtype).masked_scatter(is_masked, errors).sum(1)
    plain = (per_row / torch.tensor(record["labelled_per_row"]) / p_mask).mean()
    close(plain, record["loss"], LOSS_TOLERANCE, "loss")
    close(diffusion_loss(logits, labels, is_masked, p_mask), record["loss"], LOSS_TOLERANCE, "diffusion_loss")
