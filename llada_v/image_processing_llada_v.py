"""transformers' image and video processor of LLaDA-V: pictures in, tiles with their sizes and layouts out.

Both hold the geometry that the model's config holds too (see `LladaVConfig`), under the names of other models where
there are some. The pixels are Pillow's, with torchvision or without: the published weights were trained with them.
"""

from functools import partial
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs, VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor

from .anyres import Layout, canvases_within
from .configuration_llada_v import LladaVConfig
from .errors import WrongValue
from .images import anyres_tiles, load_image, normalised, open_picture, padded_tile, square_tile
from .media import open_media
from .video import frames_at_fps, frames_evenly, load_frames

LAYOUTS = {
    "anyres": (Layout.ANYRES, anyres_tiles),
    "square": (Layout.SQUARE, padded_tile),
    "flat": (Layout.FLAT, padded_tile),
    "caption": (Layout.FLAT, square_tile),
}
NOT_DONE = (
    "do_center_crop",
    "crop_size",
    "do_pad",
    "pad_size",
    "image_seq_length",
    "video_metadata",
    "return_metadata",
)
NUM_FRAMES = 32  # taken from a video evenly, as the original's evaluation does


class LladaVImageProcessorKwargs(ImagesKwargs, total=False):
    """What an image processor takes beside transformers' own: see `LladaVImageProcessor`."""

    image_grid_pinpoints: list[list[int]] | None
    max_tile_features: int | None
    patch_size: int | None
    layout: str | None
    max_tiles: int | None


class LladaVVideoProcessorKwargs(VideosKwargs, total=False):
    """What a video processor takes beside transformers' own: see `LladaVVideoProcessor`."""

    patch_size: int | None
    pool_stride: int | None
    newline: str | None


class Pixels:
    """What both have in common: the options of pixels, which are refused where they are not followed."""

    valid_kwargs: type[Any]
    do_resize = True
    do_convert_rgb = True
    do_rescale = True
    do_normalize = True
    rescale_factor = 1 / 255
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
    resample = PILImageResampling.BICUBIC
    model_input_names = ["pixel_values", "image_sizes", "image_layouts"]

    def checked(self, options: dict) -> dict:
        """The options with their defaults. Raises ValueError for an unknown one, or one that cannot be followed."""
        unknown = sorted(set(options) - set(self.valid_kwargs.__annotations__))
        if unknown:
            raise WrongValue(f"unknown options of {type(self).__name__}: {', '.join(unknown)}")
        options = {name: getattr(self, name, None) for name in self.valid_kwargs.__annotations__} | options
        refused = [name for name in NOT_DONE if options.get(name)]
        refused += ["do_resize"] * (options["do_resize"] is False)
        only = {"resample": PILImageResampling.BICUBIC, "device": "cpu", "data_format": "channels_first"}
        refused += [name for name, value in only.items() if str(options[name] or value) not in (str(value), value)]
        if refused:
            raise WrongValue(
                f"{', '.join(refused)}: tiles are resized with Pillow's bicubic filter, and neither cropped nor padded "
                "otherwise than in training; leave these out"
            )
        return options

    def scaled(self, tiles: torch.Tensor, options: dict) -> torch.Tensor:
        """uint8 tiles as they are asked for: as the tower wants them, or uint8 where nothing is to be done.

        With the option `as_bytes` tiles that the tower wants stay uint8, for the model to scale on its device.
        """
        standard = all(
            options[name] == getattr(Pixels, name) or tuple(options[name] or ()) == getattr(Pixels, name)
            for name in ("image_mean", "image_std")
        )
        if options["do_rescale"] and options["do_normalize"] and standard and options["rescale_factor"] == 1 / 255:
            return tiles if options.get("as_bytes") else normalised(tiles)
        if not options["do_rescale"] and not options["do_normalize"]:
            return tiles
        tiles = tiles.float()
        if options["do_rescale"]:
            tiles = tiles * options["rescale_factor"]
        if options["do_normalize"]:
            mean, std = (torch.tensor(options[name]).view(-1, 1, 1) for name in ("image_mean", "image_std"))
            tiles = (tiles - mean) / std
        return tiles

    @staticmethod
    def features(found: list[tuple[torch.Tensor, tuple[int, int], Layout]], return_tensors) -> BatchFeature:
        """Tiles, sizes and layouts as the model takes them."""
        data = {
            "pixel_values": torch.cat([tiles for tiles, _, _ in found]),
            "image_sizes": torch.tensor([size for _, size, _ in found]),
            "image_layouts": torch.tensor([(int(layout), len(tiles)) for tiles, _, layout in found]),
        }
        return BatchFeature(data, tensor_type=return_tensors)


class LladaVImageProcessor(Pixels, PilBackend):
    """Pictures to tiles.

    size: {"height", "width"} of a tile in pixels, equal.
    patch_size: side of the tower's patch in pixels.
    image_grid_pinpoints: canvases (height, width); None: those of `LladaVConfig` for that tile.
    max_tile_features: see `LladaVConfig`.
    layout: "anyres" cuts a picture into tiles; "square" pads it to one tile and a newline, "flat" to one tile alone;
        "caption" squashes it into one tile. None: anyres where a conversation has one picture, square where several.
    max_tiles: the most tiles that anyres cuts a picture into, the squashed one counted: fewer are faster and see less.
        1 is "square". None: as many as the canvases have.
    Returns pixel_values (T, 3, S, S), image_sizes (N, 2) and image_layouts (N, 2). With do_rescale and do_normalize
    both False pixel_values are uint8: the model scales them itself, to the same bits. `LladaVProcessor` hands out
    uint8 tiles unless one of the two is asked for.
    Raises ValueError for an option that is not followed, and what reading a picture raises.
    """

    valid_kwargs = LladaVImageProcessorKwargs
    size = {"height": 384, "width": 384}
    patch_size = 14
    image_grid_pinpoints = None
    max_tile_features = 4
    layout = None
    max_tiles = None

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if self.image_grid_pinpoints is None:
            tile = tile_of(self.size)
            self.image_grid_pinpoints = LladaVConfig(vision_config={"image_size": tile}).image_grid_pinpoints
        self.checked({})

    @classmethod
    def from_config(cls, config: LladaVConfig) -> "LladaVImageProcessor":
        """That of a model."""
        return cls(
            size={"height": config.tile_size, "width": config.tile_size},
            patch_size=config.vision_config.patch_size,
            image_grid_pinpoints=config.image_grid_pinpoints,
            max_tile_features=config.max_tile_features,
        )

    def preprocess(self, images, return_tensors=None, **options) -> BatchFeature:
        """See the class. images: a picture, those of one conversation, or a list a conversation."""
        options = self.checked({name: value for name, value in options.items() if value is not None})
        groups = images if isinstance(images, (list, tuple)) and nested(images) else [images]
        found = []
        for group in groups:
            sources = [open_media(image, channels=options["input_data_format"]) for image in pictures_of(group)]
            pictures = [self.picture(source, options) for source in sources]
            found += self.tiles(pictures, options)
        if not found:
            raise WrongValue("there are no images; give at least one")
        return self.features(found, return_tensors or options["return_tensors"])

    def picture(self, source, options: dict) -> Image.Image:
        """What `open_media` gave, in RGB. Raises ValueError where it is not, and is not to be converted."""
        if options["do_convert_rgb"] is False and (mode := open_picture(source)[0].mode) != "RGB":
            raise WrongValue(
                f"do_convert_rgb is False, but a picture has mode {mode}; the tower sees red, green and blue"
            )
        return load_image(source)

    def tiles(self, pictures: list[Image.Image], options: dict) -> list[tuple[torch.Tensor, tuple[int, int], Layout]]:
        """(tiles, (height, width), layout) of each picture of one conversation."""
        layout = options["layout"] or ("anyres" if len(pictures) == 1 else "square")
        if layout not in LAYOUTS:
            raise WrongValue(f"layout is {layout!r}; choose one of {', '.join(LAYOUTS)}")
        size, most = tile_of(options["size"]), options["max_tiles"]
        canvases = canvases_within(options["image_grid_pinpoints"], size, checked_tiles(most))
        if layout == "anyres" and not canvases:
            layout = "square"
        layout, tiles_of = LAYOUTS[layout]
        geometry = Geometry(size, canvases)
        return [
            (self.scaled(tiles_of(picture, geometry), options), (picture.height, picture.width), layout)
            for picture in pictures
        ]


class Geometry:
    """What cutting into tiles needs: the side of a tile, and the canvases."""

    def __init__(self, tile_size: int, image_grid_pinpoints: list):
        self.tile_size, self.image_grid_pinpoints = tile_size, image_grid_pinpoints


class LladaVVideoProcessor(Pixels, BaseVideoProcessor):
    """Videos to tiles, one a frame.

    size: {"height", "width"} of a tile in pixels, equal. patch_size: side of the tower's patch in pixels.
    pool_stride, newline: `video_pool_stride` and `video_newline` of `LladaVConfig`.
    num_frames: taken evenly from a file or a folder. fps: takes so many a second instead, at most num_frames if both
        are given. do_sample_frames=False takes all. Frames that are in memory already are all taken, or num_frames of
        them; when they were filmed is not known, so fps is refused there.
    Returns pixel_values (T, 3, S, S), image_sizes (N, 2) and image_layouts (N, 2); see `LladaVImageProcessor`.
    Raises ValueError for an option that is not followed, and what reading a video raises.
    """

    valid_kwargs: type[Any] = LladaVVideoProcessorKwargs
    size = {"height": 384, "width": 384}
    patch_size = 14
    pool_stride = 2
    newline = "grid"
    num_frames = None
    fps = None

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        tile_of(self.size)
        self.checked({})

    @classmethod
    def from_config(cls, config: LladaVConfig) -> "LladaVVideoProcessor":
        """That of a model."""
        return cls(
            size={"height": config.tile_size, "width": config.tile_size},
            patch_size=config.vision_config.patch_size,
            pool_stride=config.video_pool_stride,
            newline=config.video_newline,
        )

    def preprocess(self, videos, return_tensors=None, **options) -> BatchFeature:
        """See the class. videos: one, or a list of them."""
        options = self.checked({name: value for name, value in options.items() if value is not None})
        found = [self.tiles(open_media(video), options) for video in videos_of(videos)]
        if not found:
            raise WrongValue("there are no videos; give at least one")
        return self.features(found, return_tensors or options["return_tensors"])

    def tiles(self, video, options: dict, rule=None) -> tuple[torch.Tensor, tuple[int, int], Layout]:
        """(tiles, (height, width), layout) of one video. rule: which frames are taken; None: what the options say."""
        if isinstance(video, list) and options["do_sample_frames"]:
            raise WrongValue(
                "Sampling frames from a list of images is not supported! Set `do_sample_frames=False`: frames that are "
                "in memory are all taken"
            )
        frames = load_frames(video, rule or frame_rule(options))
        if rule is None and isinstance(video, list) and options.get("do_sample_frames") is not False:
            if options.get("fps") is not None:
                raise WrongValue(
                    f"fps is {options['fps']}, but these frames are in memory, without their times; give num_frames, "
                    "or do_sample_frames=False for all of them"
                )
            if options.get("num_frames") is not None:
                frames = [frames[number] for number in frames_evenly(len(frames), options["num_frames"])]
        geometry = Geometry(tile_of(options["size"]), [])
        tiles = torch.cat([square_tile(frame, geometry) for frame in frames])
        return self.scaled(tiles, options), (frames[0].height, frames[0].width), Layout.VIDEO


def frame_rule(options: dict):
    """Which frames of a file or a folder are taken: (number of frames, frames a second) -> frame numbers."""
    num_frames, fps = options.get("num_frames"), options.get("fps")
    if options.get("do_sample_frames") is False:
        return lambda total, rate: list(range(total))
    if fps is not None:
        return partial(frames_at_fps, video_fps=fps, max_frames=num_frames or 0)
    return lambda total, rate: frames_evenly(total, num_frames or NUM_FRAMES)


def tile_of(size) -> int:
    """The side of a tile. Raises ValueError for a size that is no square."""
    height, width = size["height"], size["width"]
    if not height or height != width:
        raise WrongValue(f"size is {dict(size)}; tiles are square: give equal height and width")
    return height


def checked_tiles(most: int | None) -> int | None:
    """max_tiles. Raises ValueError unless it is a number of tiles."""
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise WrongValue(f"max_tiles is {most!r}; it must be a whole number of at least 1, or None for no limit")
    return most


def nested(images) -> bool:
    """Whether the images are lists, one a conversation."""
    return bool(images) and all(isinstance(image, (list, tuple)) for image in images)


def pictures_of(images) -> list:
    """The pictures of one conversation; the first axis of a batch of arrays counts them."""
    if images is None:
        return []
    if isinstance(images, (list, tuple)):
        return [picture for image in images for picture in pictures_of(image)]
    return list(images) if getattr(images, "ndim", 0) == 4 else [images]


def videos_of(videos) -> list:
    """The videos. One may be a path, an array (frames, ...) or a list of frames; lists inside lists are opened."""
    if videos is None:
        return []
    if not isinstance(videos, (list, tuple)):
        return list(videos) if getattr(videos, "ndim", 0) == 5 else [videos]
    if videos and all(isinstance(item, Image.Image) or getattr(item, "ndim", 0) in (2, 3) for item in videos):
        return [list(videos)]
    return [video for item in videos for video in (videos_of(item) if isinstance(item, (list, tuple)) else [item])]
