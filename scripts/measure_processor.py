"""Pictures a second that become tiles on one core, and the bytes they take: floats as before, and bytes.

    python scripts/measure_processor.py

The pictures are noise of mixed sizes, in memory already, the same for each way. "floats" is the path of earlier
versions: every tile a picture of its own, normalised on the CPU, then joined. "bytes" is today's: tiles stay uint8, and
the model normalises them on its device. "resizing" is what Pillow alone takes for the same pixels: no way is faster
than that. "torch's resizing" is torch's bicubic, whose vectors are faster and whose pixels are others: the last line
says how many. Time is that of the processor (`time.process_time`), so that others on the machine count less; the ways
take turns, picture by picture. Every result is compared: floats and normalised bytes are equal bit by bit.
"""

import argparse
import random
import time

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from llada_v import LladaVConfig
from llada_v.anyres import resized_on_canvas, select_canvas
from llada_v.images import anyres_tiles, normalised, squash

CONFIG = LladaVConfig()


def floats(image: Image.Image) -> torch.Tensor:
    """Tiles as earlier versions made them."""
    tile = CONFIG.tile_size
    canvas_height, canvas_width = select_canvas(image.height, image.width, CONFIG.image_grid_pinpoints)
    height, width = resized_on_canvas(image.height, image.width, (canvas_height, canvas_width))
    canvas = Image.new("RGB", (canvas_width, canvas_height))
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    canvas.paste(resized, ((canvas_width - width) // 2, (canvas_height - height) // 2))
    tiles = [squash(image, tile)]
    for top in range(0, canvas_height, tile):
        tiles += [canvas.crop((left, top, left + tile, top + tile)) for left in range(0, canvas_width, tile)]
    pixels = torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles]))
    return pixels.permute(0, 3, 1, 2).float().mul_(1 / 255).sub_(0.5).div_(0.5).contiguous()


def as_bytes(image: Image.Image) -> torch.Tensor:
    """Tiles as they are made today."""
    return anyres_tiles(image, CONFIG)


def resizing(image: Image.Image) -> None:
    """Pillow's share."""
    canvas = select_canvas(image.height, image.width, CONFIG.image_grid_pinpoints)
    height, width = resized_on_canvas(image.height, image.width, canvas)
    image.resize((width, height), Image.Resampling.BICUBIC)
    squash(image, CONFIG.tile_size)


def torch_resizing(image: Image.Image) -> None:
    """The same sizes by torch."""
    canvas = select_canvas(image.height, image.width, CONFIG.image_grid_pinpoints)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    for size in (resized_on_canvas(image.height, image.width, canvas), (CONFIG.tile_size,) * 2):
        interpolate(pixels, size=size, mode="bicubic", antialias=True)


WAYS = {"floats": floats, "bytes": as_bytes, "resizing alone": resizing, "torch's resizing": torch_resizing}


def other_pixels(image: Image.Image) -> float:
    """The share of values that torch's squashed tile has otherwise than Pillow's."""
    side = CONFIG.tile_size
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    theirs = interpolate(pixels, size=(side, side), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    return float((theirs.numpy() != np.asarray(squash(image, side))).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--smallest", type=int, default=100, help="least side in pixels")
    parser.add_argument("--largest", type=int, default=1400, help="greatest side in pixels")
    args = parser.parse_args()
    torch.set_num_threads(1)
    draw, seconds, size = random.Random(0), dict.fromkeys(WAYS, 0.0), dict.fromkeys(WAYS, 0)
    others = 0.0
    for _ in range(args.pictures):
        sides = draw.randint(args.smallest, args.largest), draw.randint(args.smallest, args.largest)
        image, made = Image.effect_noise(sides, 60).convert("RGB"), {}
        for name, way in draw.sample(list(WAYS.items()), len(WAYS)):
            start = time.process_time()
            made[name] = [way(image)]
            # A batch is joined at its end: once more over every byte.
            tiles = torch.cat(made[name]) if made[name][0] is not None else None
            seconds[name] += time.process_time() - start
            size[name] += 0 if tiles is None else tiles.nbytes
        others += other_pixels(image) / args.pictures
        assert torch.equal(normalised(made["bytes"][0]), made["floats"][0])
    print(f"{args.pictures} pictures of {args.smallest} to {args.largest} pixels a side, one core")
    print(f"{'way':16}{'pictures/s':>12}{'ms each':>10}{'MiB each':>10}{'times':>8}")
    for name in WAYS:
        each = seconds[name] / args.pictures
        times = seconds["floats"] / seconds[name]
        print(f"{name:16}{1 / each:12.1f}{1e3 * each:10.2f}{size[name] / args.pictures / 2**20:10.1f}{times:8.2f}")

    print(f"torch has {others:.2%} of a squashed picture's values otherwise than Pillow")


if __name__ == "__main__":
    main()
