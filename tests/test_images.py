"""Every kind of picture becomes the right RGB or one clear error; tiles are normalised as SigLIP was trained."""

import io
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, PngImagePlugin
from published import pattern

from llada_v import LladaVConfig, images
from llada_v.images import anyres_tiles, load_image, normalised, open_picture, padded_tile, square_tile, stacked

RED, BLUE = (200, 30, 30), (20, 40, 220)
SIZE = (12, 8)  # width, height


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey(image: Image.Image) -> int:
    """The level of a picture of one grey."""
    levels = np.unique(np.asarray(image))
    assert image.mode == "RGB" and len(levels) == 1
    return int(levels[0])


# The right picture


def test_a_path_bytes_and_an_open_picture_are_the_same_picture(tmp_path):
    picture = pattern(*SIZE, 1)
    file = tmp_path / "picture.png"
    picture.save(file)
    for source in (file, str(file), file.read_bytes(), bytearray(file.read_bytes()), picture, Image.open(file)):
        found = load_image(source)
        assert found.mode == "RGB" and found.size == SIZE
        assert found.tobytes() == picture.tobytes()


def test_a_palette_is_looked_up():
    picture = Image.new("RGB", SIZE, RED).convert("P", palette=Image.Palette.ADAPTIVE)
    assert picture.mode == "P"
    assert load_image(encoded(picture, "PNG")).getpixel((3, 3)) == RED


@pytest.mark.parametrize("transparency", [0, b"\x00\x80"])
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_a_palette_with_transparency_keeps_its_colours(transparency):
    picture = Image.new("P", SIZE, 0)
    picture.putpalette([*RED, *BLUE])
    picture.putpixel((0, 0), 1)
    found = load_image(encoded(picture, "PNG", transparency=transparency))
    assert (found.mode, found.getpixel((3, 3)), found.getpixel((0, 0))) == ("RGB", RED, BLUE)


def test_alpha_is_dropped():
    assert load_image(encoded(Image.new("RGBA", SIZE, (*RED, 0)), "PNG")).getpixel((3, 3)) == RED
    assert grey(load_image(encoded(Image.new("LA", SIZE, (90, 7)), "PNG"))) == 90


def test_cmyk_becomes_rgb():
    found = load_image(encoded(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "TIFF"))
    assert (found.mode, found.getpixel((3, 3))) == ("RGB", (255, 0, 0))


def test_one_bit_becomes_black_and_white():
    picture = Image.new("1", SIZE, 1)
    picture.putpixel((0, 0), 0)
    found = load_image(encoded(picture, "PNG"))
    assert (found.getpixel((0, 0)), found.getpixel((3, 3))) == ((0, 0, 0), (255, 255, 255))


@pytest.mark.parametrize("value, level", [(0, 0), (200, 0), (1000, 3), (40_000, 156), (65_535, 255)])
def test_a_16_bit_grey_is_scaled_not_clipped(value, level):
    picture = Image.fromarray(np.full((8, 12), value, np.uint16))
    assert picture.mode == "I;16"
    assert grey(load_image(encoded(picture, "PNG"))) == level
    big_endian = Image.frombytes("I;16B", SIZE, np.full((8, 12), value, ">u2").tobytes())
    assert grey(load_image(big_endian)) == level


@pytest.mark.parametrize("value, level", [(-5, 0), (200, 200), (40_000, 156), (2**31 - 1, 255), (2**30, 128)])
def test_a_32_bit_grey_uses_the_bits_it_needs(value, level):
    picture = Image.fromarray(np.full((8, 12), value, np.int32))
    assert picture.mode == "I"
    assert grey(load_image(picture)) == level


@pytest.mark.parametrize("white", [1, 255, 65_535])
def test_greys_with_a_fraction_are_scaled_to_the_ramp_that_they_show(white):
    ramp = np.linspace(0, white, 64, dtype=np.float32).reshape(8, 8)
    picture = Image.fromarray(ramp)
    assert picture.mode == "F"
    expected = np.linspace(0, 255, 64).reshape(8, 8)
    for source in (picture, encoded(picture, "TIFF")):
        assert np.abs(np.asarray(load_image(source))[..., 0] - expected).max() <= 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, -1, 65_536])
def test_greys_with_a_fraction_of_no_known_range_are_refused(value):
    picture = Image.fromarray(np.array([[0, 0.5], [1, value]], np.float32))
    with pytest.raises(ValueError, match=r"its greys run from .* to .*; expected 0 .. 1, 0 .. 255 or 0 .. 65535"):
        load_image(picture)


def test_a_tiff_that_holds_the_negative_of_16_bit_greys_is_shown_as_it_was():
    greys = np.full((8, 12), 40 << 8, np.uint16)
    assert grey(load_image(encoded(Image.fromarray(greys), "TIFF", tiffinfo={262: 0}))) == 255 - 40


def test_much_text_beside_the_pixels_of_a_png_does_not_matter(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 5_000_000, zip=True)
    (tmp_path / "a.png").write_bytes(data := encoded(pattern(*SIZE, 1), "PNG", pnginfo=info))
    assert load_image(data).tobytes() == pattern(*SIZE, 1).tobytes()
    assert open_picture(tmp_path / "a.png")[0].size == SIZE


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, BLUE, RED)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    found = load_image(data)
    assert found.size == SIZE
    assert np.abs(np.subtract(found.getpixel((3, 3)), RED)).max() <= 1


def test_exif_rotation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by a quarter to see it upright
    assert load_image(encoded(pattern(*SIZE, 1), "JPEG", exif=exif)).size == SIZE


# One clear error


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_picture_without_pixels_is_refused(size):
    with pytest.raises(ValueError, match=f"the picture is empty: {size[1]} x {size[0]} pixels"):
        load_image(Image.new("RGB", size))


def test_an_empty_file_is_refused_by_name(tmp_path):
    file = tmp_path / "empty.png"
    file.touch()
    with pytest.raises(ValueError, match="empty.png is not a picture that can be read"):
        load_image(file)
    with pytest.raises(ValueError, match="0 bytes of picture is not a picture"):
        load_image(b"")


def test_a_text_file_called_png_is_refused_by_name(tmp_path):
    file = tmp_path / "letter.png"
    file.write_text("Dear reader, this is no picture.")
    with pytest.raises(ValueError, match="letter.png is not a picture that can be read"):
        load_image(file)


@pytest.mark.parametrize("name", ["nowhere.png", ""])
def test_a_missing_file_is_said_so(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="no picture at .*give the path of an image file"):
        load_image(tmp_path / name)  # a folder is no picture either


@pytest.mark.parametrize("source", [None, 3, np.zeros((4, 4, 3), np.uint8), ["a.png"]])
def test_anything_else_is_a_type_error(source):
    with pytest.raises(TypeError, match="a picture is a PIL image, a path or bytes, not"):
        load_image(source)


def test_a_decompression_bomb_is_not_decoded(monkeypatch):
    picture = pattern(*SIZE, 1)
    data = encoded(picture, "PNG")
    monkeypatch.setattr(images, "MAX_PIXELS", 60)
    for source in (data, picture):
        with pytest.raises(ValueError, match="96 pixels, more than the 60 that are safe to decode; downscale it"):
            load_image(source)
    monkeypatch.setattr(images, "MAX_PIXELS", 96)
    assert load_image(data).size == SIZE


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_cut_short_is_damaged(kind):
    data = encoded(pattern(200, 100, 1), kind)
    with pytest.raises(ValueError, match=f"{len(data) // 2} bytes of picture is damaged and cannot be decoded"):
        load_image(data[: len(data) // 2])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "DDS", "QOI"])
@pytest.mark.filterwarnings("ignore")
def test_damage_anywhere_is_a_picture_or_a_clear_error(kind):
    data, random = encoded(pattern(24, 16, 1), kind), np.random.default_rng(0)
    for length in range(0, len(data), max(1, len(data) // 40)):
        broken = bytearray(data)
        broken[random.integers(0, min(len(data), 200))] = random.integers(0, 256)
        for damaged in (broken, data[:length]):
            try:
                assert load_image(bytes(damaged)).mode == "RGB"
            except ValueError as error:
                assert f"{len(damaged)} bytes of picture" in str(error)


@pytest.mark.parametrize("kind", ["EPS", "ICO"])
def test_what_starts_programs_or_holds_several_pictures_is_not_read(kind):
    with pytest.raises(ValueError, match="bytes of picture is not a picture that can be read"):
        load_image(encoded(pattern(32, 32, 1), kind))
    assert f".{kind.lower()}" not in images.picture_suffixes()


def test_the_suffixes_of_pictures_are_those_that_are_read():
    assert {".png", ".jpg", ".jpeg", ".pgm", ".webp", ".tif", ".jp2", ".qoi"} <= images.picture_suffixes()
    assert not {".mpg", ".txt", ".json", ".mp4", ".npy"} & images.picture_suffixes()


# Switches of the whole process


DAMAGED = {
    "cut": lambda data: data[: len(data) // 2],
    "broken": lambda data: data[: len(data) // 2] + bytes(40) + data[len(data) // 2 + 40 :],
    "whole": lambda data: data,
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_pillows_switch_for_truncated_pictures_changes_nothing(monkeypatch, kind, damage):
    data = DAMAGED[damage](encoded(pattern(200, 100, 1), kind))
    found = []
    for switch in (False, True):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", switch)
        for source in (data, io.BytesIO(data)):
            try:
                found.append(load_image(source if isinstance(source, bytes) else Image.open(source)).tobytes())
            except (ValueError, OSError):
                found.append("refused")
        assert ImageFile.LOAD_TRUNCATED_IMAGES is switch
    assert len(set(found)) == 1
    if damage != "broken":  # zeros may pass as pixels
        assert (found[0] == "refused") == (damage == "cut")


def test_lmms_eval_imported_first_does_not_make_damaged_pictures_whole(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(encoded(pattern(200, 100, 1), "JPEG")[:2000])
    code = (
        "import sys, lmms_eval.api.task; from PIL import ImageFile; assert ImageFile.LOAD_TRUNCATED_IMAGES\n"
        "from llada_v.images import load_image\n"
        "try: load_image(sys.argv[1])\n"
        "except ValueError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code, tmp_path / "cut.jpg"], capture_output=True, text=True)
    assert "cut.jpg is damaged and cannot be decoded: its data end before its pixels do" in ran.stdout, ran.stderr


def test_threads_read_at_once_while_another_turns_the_switch(monkeypatch):
    whole = encoded(pattern(200, 100, 1), "JPEG")
    expected, is_done = load_image(whole).tobytes(), []

    def turn():
        while not is_done:
            monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", not ImageFile.LOAD_TRUNCATED_IMAGES)

    def read(number):
        if number % 2:
            return load_image(whole).tobytes() == expected
        with pytest.raises(ValueError):
            load_image(whole[: len(whole) // 2])
        return True

    with ThreadPoolExecutor(5) as threads:
        threads.submit(turn)
        assert all(threads.map(read, range(200)))
        is_done.append(True)


@pytest.mark.parametrize("limit", [1, None])
def test_pillows_limit_of_pixels_changes_nothing(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "PPM"):  # of TIFF and WebP Pillow itself refuses what is beyond it
        assert load_image(encoded(pattern(*SIZE, 1), kind)).size == SIZE
    assert len(anyres_tiles(pattern(400, 300, 1), LladaVConfig())) > 1
    monkeypatch.setattr(images, "MAX_PIXELS", 95)
    with pytest.raises(ValueError, match="96 pixels, more than the 95 that are safe to decode"):
        load_image(encoded(pattern(*SIZE, 1), "PNG"))


def test_a_process_that_makes_errors_of_warnings_reads_the_same():
    palette = Image.new("P", SIZE, 0)
    palette.putpalette([*RED, *BLUE])
    data = encoded(palette, "PNG", transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(data).getpixel((3, 3)) == RED


def test_torchs_default_type_changes_nothing():
    expected = normalised(anyres_tiles(pattern(50, 30, 2), LladaVConfig()))
    torch.set_default_dtype(torch.float64)
    try:
        found = normalised(anyres_tiles(pattern(50, 30, 2), LladaVConfig()))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


# Tiles


def test_pixels_are_normalised_as_siglip_was_trained():
    picture = pattern(50, 30, 2)
    expected = (np.asarray(picture.resize((384, 384), Image.Resampling.BICUBIC)) / 255 - 0.5) / 0.5
    tile = normalised(square_tile(picture, LladaVConfig()))
    assert tile.dtype == torch.float32 and tile.shape == (1, 3, 384, 384)
    assert np.abs(tile[0].permute(1, 2, 0).numpy() - expected).max() < 1e-6  # measured 1.2e-7


def test_black_is_minus_one_and_white_is_one():
    tiles = normalised(stacked([Image.new("RGB", (2, 2), "black"), Image.new("RGB", (2, 2), "white")]))
    assert torch.equal(tiles, torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 3, 2, 2))


def test_a_picture_among_several_is_padded_with_grey_to_a_square():
    tile = normalised(padded_tile(Image.new("RGB", (384, 192), "white"), LladaVConfig()))[0]
    padding = (127 / 255 - 0.5) / 0.5
    for rows in (tile[:, :92], tile[:, -92:]):  # bicubic is exact where the size does not change
        assert torch.allclose(rows, torch.full_like(rows, padding), atol=1e-6)
    assert torch.equal(tile[:, 96:288], torch.ones(3, 192, 384))


def test_tiles_run_row_by_row_behind_the_squashed_picture():
    picture = pattern(768, 768, 3)
    tiles = anyres_tiles(picture, LladaVConfig())
    corners = [(0, 0), (384, 0), (0, 384), (384, 384)]  # left, top
    cut = [picture.crop((left, top, left + 384, top + 384)) for left, top in corners]
    assert torch.equal(tiles, stacked([picture.resize((384, 384), Image.Resampling.BICUBIC), *cut]))
