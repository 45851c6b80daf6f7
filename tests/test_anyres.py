"""How pictures are cut and how many features they make: the figures of the original, for the published 8B model."""

import pytest

from llada_v import LladaVConfig
from llada_v.anyres import (
    Layout,
    canvases_within,
    count_of,
    grid_map,
    grid_of,
    num_features,
    num_tiles,
    resized_on_canvas,
    select_canvas,
    unpadded,
)
from llada_v.toyworld.tiny import build_tokenizer, tiny_config

CONFIG = LladaVConfig()
# picture, canvas, picture on it, feature map, the same without border, the same downscaled; (height, width)
TABLE = [
    ((384, 384), (384, 384), (384, 384), (27, 27), (27, 27), (27, 27), 1485, 2),
    ((384, 768), (384, 768), (384, 768), (27, 54), (27, 54), (27, 54), 2214, 3),
    ((600, 1000), (768, 1152), (692, 1152), (54, 81), (48, 81), (41, 70), 3640, 7),
    ((1000, 336), (1152, 384), (1143, 384), (81, 27), (81, 27), (81, 27), 2997, 4),
    ((2048, 2048), (2304, 2304), (2304, 2304), (162, 162), (162, 162), (54, 54), 3699, 37),
    ((1000, 4000), (768, 2304), (576, 2304), (54, 162), (40, 162), (26, 108), 3563, 13),
    ((480, 640), (768, 768), None, (54, 54), (40, 54), (40, 54), 2929, 5),
    ((1080, 1920), (1152, 1920), None, (81, 135), (75, 135), (40, 72), 3649, 16),
    ((1920, 1080), (1920, 1152), None, (135, 81), (135, 75), (72, 40), 3681, 16),
    ((375, 500), (384, 768), None, (27, 54), (27, 36), (27, 36), 1728, 3),
    ((768, 1152), (768, 1152), None, (54, 81), (54, 81), (44, 66), 3677, 7),
    ((3000, 30), (2304, 384), None, (162, 27), (162, 1), (162, 1), 1053, 7),
]


@pytest.mark.parametrize("size, canvas, resized, whole, kept, final, count, tiles", TABLE)
def test_a_picture_is_cut_as_in_the_original(size, canvas, resized, whole, kept, final, count, tiles):
    assert select_canvas(*size, CONFIG.image_grid_pinpoints) == canvas
    if resized:
        assert resized_on_canvas(*size, canvas) == resized
    rows, columns = grid_of(*size, CONFIG)
    assert (rows * 27, columns * 27) == whole
    rows, columns, scaled = grid_map(*size, CONFIG)
    assert (rows.stop - rows.start, columns.stop - columns.start) == kept
    assert scaled == final
    assert num_features(Layout.ANYRES, *size, CONFIG) == count
    assert num_tiles(Layout.ANYRES, *size, CONFIG) == tiles


def test_rows_are_rounded_up_in_floats_as_the_original_does():
    assert resized_on_canvas(2120, 2544, (1920, 1920)) == (1601, 1920)  # exactly 1600


def test_the_border_is_rounded_down_in_floats_as_the_original_does():
    # 108 columns exactly; in floats 107, so that one line more is cut on either side.
    assert grid_of(2418, 1612, CONFIG) == (6, 4)
    rows, columns = unpadded(2418, 1612, 162, 108)
    assert int(1612 * (162 / 2418)) == 107
    assert (rows, columns) == (slice(0, 162), slice(0, 108))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (30, 100_000), (100_000, 30)])
def test_no_shape_is_too_extreme_for_the_published_model(size):
    rows, columns, (height, width) = grid_map(*size, CONFIG)
    assert height >= 1 and width >= 1
    assert rows.stop > rows.start and columns.stop > columns.start


@pytest.mark.parametrize("size", [(1, 500), (500, 1)])
def test_a_picture_that_leaves_no_feature_is_a_clear_error(size):
    config = tiny_config(build_tokenizer(1))  # six features a tile side: an even map can lose its whole middle
    message = f"a picture of {size[0]} x {size[1]} pixels .* leaves no feature .* pad it to a less extreme shape"
    with pytest.raises(ValueError, match=message):
        num_features(Layout.ANYRES, *size, config)


@pytest.mark.parametrize("most", [2, 3, 4, 5, 7, 9])
def test_a_limit_takes_the_best_canvas_within_it_and_its_number_of_tiles_tells_which(most):
    for size, *_ in TABLE:
        canvas = select_canvas(*size, canvases_within(CONFIG.image_grid_pinpoints, 384, most))
        tiles = count_of(*canvas, 384)
        assert tiles <= most
        assert grid_of(*size, CONFIG, tiles) == (canvas[0] // 384, canvas[1] // 384)
        assert num_features(Layout.ANYRES, *size, CONFIG, tiles=tiles) <= 729 + 27 * (27 + 1) * (tiles - 1)


def test_a_number_of_tiles_that_no_canvas_has_is_refused():
    with pytest.raises(ValueError, match="a picture has 12 tiles, but no canvas"):
        grid_of(100, 100, CONFIG, 12)


def test_an_empty_list_of_canvases_is_refused():
    with pytest.raises(ValueError, match=r"image_grid_pinpoints is \[\]"):
        LladaVConfig(image_grid_pinpoints=[])


def test_a_canvas_that_is_no_multiple_of_the_tile_is_refused():
    with pytest.raises(ValueError, match="400 x 384, not a multiple of the tile 384"):
        LladaVConfig(image_grid_pinpoints=[[400, 384]])


@pytest.mark.parametrize("newline, count", [("grid", 6720), ("frame", 6304), ("one_token", 6273), ("no_token", 6272)])
def test_a_video_of_32_frames_has_the_features_of_the_original(newline, count):
    config = LladaVConfig(video_newline=newline)
    assert num_features(Layout.VIDEO, 480, 640, config, frames=32) == count
    assert num_tiles(Layout.VIDEO, 480, 640, config, frames=32) == 32


@pytest.mark.parametrize("layout, count", [(Layout.FLAT, 729), (Layout.SQUARE, 730)])
def test_a_single_tile_makes_the_same_features_whatever_the_picture(layout, count):
    for size in ((384, 384), (1000, 30)):
        assert num_features(layout, *size, CONFIG) == count
        assert num_tiles(layout, *size, CONFIG) == 1
