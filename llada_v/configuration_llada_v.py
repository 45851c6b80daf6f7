"""Every id, size and layer index of the project: `LladaConfig` for the trunk, `LladaVConfig` for the whole model.

The defaults are the published 8B model. A small model differs from it only in the numbers written here.
Nothing in this file knows a tensor or a tokenizer.
"""

from typing import TYPE_CHECKING

from transformers import PreTrainedConfig, SiglipVisionConfig
from transformers.activations import ACT2FN

from .checkpoint.configs import translate_config
from .checkpoint.files import check_name
from .checkpoint.names import PUBLISHED_MODEL_TYPE
from .errors import BadFile, WrongValue
from .json_text import read_json, shown, usable

ROPE_INV_FREQ = ("exact", "bf16_rounded")
VIDEO_NEWLINES = ("grid", "frame", "one_token", "no_token")
# The least and the largest value of sizes and counts, and of numbers: nothing that is built lies outside.
SIZES = {
    "vocab_size": (2, 2**22),
    "hidden_size": (1, 2**17),
    "intermediate_size": (1, 2**19),
    "num_hidden_layers": (1, 1000),
    "num_attention_heads": (1, 2**12),
    "num_key_value_heads": (1, 2**12),
    "max_position_embeddings": (1, 2**30),
}
NUMBERS = {"rms_norm_eps": (0, 1), "rope_base": (1, 1e12), "initializer_range": (0, 100)}
VISION_SIZES = {name: SIZES[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
VISION_SIZES |= {"num_attention_heads": (1, 2**12), "image_size": (1, 2**14), "patch_size": (1, 2**12)}
VISION_SIZES |= {"num_channels": (3, 3)}
VISION_NUMBERS = {"layer_norm_eps": (0, 1), "attention_dropout": (0, 1)}
PICTURE_SIZES = {"max_tile_features": (1, 1000), "video_pool_stride": (1, 1000)}
MOST_PINPOINTS, MOST_TILES = 1000, 10_000
IGNORE = -100
"""Label of a position that is never masked nor predicted: pictures, questions, padding."""


def siglip2_so400m(**changes) -> SiglipVisionConfig:
    """SigLIP2-so400m-patch14-384 as LLaDA-V uses it: 26 of its 27 layers, no pooling head."""
    sizes = dict(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=26,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    tower = SiglipVisionConfig(**sizes | changes)
    check_ranges(tower, VISION_SIZES, VISION_NUMBERS)
    if tower.hidden_size % tower.num_attention_heads:
        raise WrongValue(
            f"the tower's hidden_size {tower.hidden_size} is not a multiple of its num_attention_heads "
            f"{tower.num_attention_heads}"
        )
    assert isinstance(tower.patch_size, int) and isinstance(tower.image_size, int)  # as the ranges demand
    if tower.patch_size > tower.image_size:
        raise WrongValue(f"patch_size {tower.patch_size} is more than image_size {tower.image_size}")
    if tower.hidden_act not in ACT2FN:
        raise WrongValue(f"the tower's hidden_act is {shown(tower.hidden_act)}, which transformers does not know")
    return tower


class LladaConfig(PreTrainedConfig):
    """Sizes of the masked-diffusion trunk (LLaDA-8B by default; arXiv 2502.09992).

    vocab_size: rows of the embedding and of the head, 126,464 in LLaDA.
    hidden_size, intermediate_size: width of the residual stream and of the gated MLP.
    num_hidden_layers, num_attention_heads: depth and heads.
    num_key_value_heads: heads of keys and values; None means as many as query heads.
    rms_norm_eps: epsilon of every RMSNorm.
    rope_base: base of the rotary frequencies (theta).
    rope_inv_freq: "exact" keeps the inverse frequencies in float32; "bf16_rounded" rounds them to bfloat16 first,
        as the original's training did under DeepSpeed (at position 4,000 the phase differs by up to 7 rad).
    max_position_embeddings: the longest sequence the model was trained for, in tokens.
    initializer_range: standard deviation of fresh weights.
    tie_word_embeddings: the head's weight is the embedding's (iLLaDA; LLaDA-8B has two).
    """

    model_type = "llada"
    base_config_key = "text_config"

    vocab_size: int = 126464
    hidden_size: int = 4096
    intermediate_size: int = 12288
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    rms_norm_eps: float = 1e-5
    rope_base: float = 500000.0
    rope_inv_freq: str = "exact"
    max_position_embeddings: int = 16384
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        super().__post_init__(**kwargs)
        check_ranges(self, SIZES, NUMBERS)
        if self.hidden_size % self.num_attention_heads:
            raise WrongValue(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise WrongValue(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.rope_inv_freq not in ROPE_INV_FREQ:
            raise WrongValue(f"rope_inv_freq is {shown(self.rope_inv_freq)}; choose one of {', '.join(ROPE_INV_FREQ)}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


class LladaVConfig(PreTrainedConfig):
    """The whole model: tower, projector, trunk, the geometry of pictures and the ids of special tokens.

    vision_config: a `SiglipVisionConfig`; every layer it counts is run (the published model runs 26 of SigLIP2's 27).
    text_config: a `LladaConfig`.
    image_token_id: the placeholder; a picture has as many of them in `input_ids` as it has features.
    mask_token_id: the token that stands for "not yet revealed".
    bos_token_id, eos_token_id: start of a conversation; padding and end of text (`<|endoftext|>`).
    start_header_id, end_header_id, eot_token_id: the chat tokens around a role, and the end of a turn.
    pad_token_id: filler of batches; LLaDA uses its EOS.
    image_grid_pinpoints: canvases (height, width) in pixels that a picture may be cut into, in order of preference
        among equals; all multiples of the tile.
    max_tile_features: a picture whose tiles make more than 1.21 times this many tiles' worth of features is
        downscaled to about this many ("anyres_max_4" is 4).
    video_pool_stride: each frame's feature map is shrunk by this factor per side.
    video_newline: where the newline feature goes in a video: after every row ("grid"), every frame ("frame"),
        once at the end ("one_token") or nowhere ("no_token").
    tie_word_embeddings: as in `LladaConfig`, whose field takes this value; None: as it is there.
    """

    model_type = "llada_v"
    sub_configs = {"vision_config": SiglipVisionConfig, "text_config": LladaConfig}
    keys_to_ignore_at_inference = ["image_outputs"]  # transformers' Trainer would gather them over a whole evaluation

    if TYPE_CHECKING:  # what they are once `__post_init__` has made them

        def __init__(self, **fields): ...

        vision_config: SiglipVisionConfig
        text_config: LladaConfig
    else:
        vision_config: SiglipVisionConfig | dict | None = None
        text_config: LladaConfig | dict | None = None
    image_token_id: int = 126084
    mask_token_id: int = 126336
    bos_token_id: int | None = 126080
    eos_token_id: int | None = 126081
    pad_token_id: int | None = 126081
    start_header_id: int = 126346
    end_header_id: int = 126347
    eot_token_id: int = 126348
    image_grid_pinpoints: list | None = None
    max_tile_features: int = 4
    video_pool_stride: int = 2
    video_newline: str = "grid"
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs):
        for name, kind, made in (
            ("vision_config", SiglipVisionConfig, siglip2_so400m),
            ("text_config", LladaConfig, LladaConfig),
        ):
            given = getattr(self, name)
            if given is None or isinstance(given, dict):
                setattr(self, name, made(**(given or {})))
            elif not isinstance(given, kind):
                raise WrongValue(
                    f"{name} is {shown(given)}; an object with the fields of a {kind.__name__} is expected"
                )
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = self.text_config.tie_word_embeddings
        self.text_config.tie_word_embeddings = self.tie_word_embeddings
        if self.image_grid_pinpoints is None:
            tile, sides = self.tile_size, range(1, 7)
            # Width runs slowest, as in the original: the first of two equal canvases wins.
            self.image_grid_pinpoints = [[tile * rows, tile * columns] for columns in sides for rows in sides]
        super().__post_init__(**kwargs)
        check_ranges(self, PICTURE_SIZES, {})
        if self.video_newline not in VIDEO_NEWLINES:
            raise WrongValue(f"video_newline is {shown(self.video_newline)}; choose one of {', '.join(VIDEO_NEWLINES)}")
        self._check_pinpoints()
        filler = {} if self.pad_token_id is None else {"pad_token_id": self.pad_token_id}
        for name, token_id in (self.special_token_ids() | filler).items():
            if not is_whole(token_id) or not 0 <= token_id < self.text_config.vocab_size:
                raise WrongValue(
                    f"{name} is {shown(token_id)}, outside the vocabulary of {self.text_config.vocab_size} rows"
                )

    def _check_pinpoints(self) -> None:
        """Raise ValueError unless every canvas is a pair of whole tiles."""
        canvases, tile = self.image_grid_pinpoints, self.tile_size
        if not isinstance(canvases, (list, tuple)) or not 1 <= len(canvases) <= MOST_PINPOINTS:
            raise WrongValue(
                f"image_grid_pinpoints is {shown(canvases)}; list 1 to {MOST_PINPOINTS} canvases (height, width)"
            )
        for canvas in canvases:
            if not isinstance(canvas, (list, tuple)) or len(canvas) != 2 or not all(map(is_whole, canvas)):
                raise WrongValue(f"image_grid_pinpoints has {shown(canvas)}; a canvas is [height, width] in pixels")
            height, width = canvas
            if height < tile or width < tile or height % tile or width % tile:
                raise WrongValue(f"image_grid_pinpoints has {height} x {width}, not a multiple of the tile {tile}")
            if (height // tile) * (width // tile) > MOST_TILES:
                raise WrongValue(f"image_grid_pinpoints has {height} x {width}, more than {MOST_TILES} tiles of {tile}")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> "LladaVConfig":
        """The config of a folder or hub name in our layout or in the published one (`model_type` "llava_llada")."""
        check_name(pretrained_model_name_or_path)
        config_dict, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not config_dict:
            raise BadFile(f"{pretrained_model_name_or_path} has no config.json; name the folder of a whole model")
        if config_dict.get("model_type") == PUBLISHED_MODEL_TYPE:
            fields = translate_config(config_dict, str(pretrained_model_name_or_path))
            config_dict = fields | {"model_type": cls.model_type}
        return cls.from_dict(config_dict, **kwargs)

    @classmethod
    def _dict_from_json_file(cls, json_file) -> dict:
        """transformers' hook: what `config.json` holds."""
        return read_json(json_file)

    @classmethod
    def from_dict(cls, config_dict, **kwargs) -> "LladaVConfig":
        """The config of a dictionary, ours or the published one.

        Raises ValueError for another model's, and for values that cannot be used.
        """
        model_type, folder = config_dict.get("model_type"), kwargs.get("name_or_path")
        if model_type == PUBLISHED_MODEL_TYPE:
            config_dict = translate_config(config_dict, folder)
        elif model_type != cls.model_type:
            raise WrongValue(
                f"the config has model_type {shown(model_type)}, not LLaDA-V's {cls.model_type!r} or "
                f"{PUBLISHED_MODEL_TYPE!r}; a LLaDA-8B folder becomes one with `llada-v convert`"
            )
        for name, kind in (("_attn_implementation", str), ("quantization_config", dict)):
            if not isinstance(config_dict.get(name), (kind, type(None))):
                raise WrongValue(f"the config's {name} is {shown(config_dict[name])}; expected a {kind.__name__}")
        with usable("the config"):  # transformers' own fields, which it does not check
            return super().from_dict(config_dict, **kwargs)

    @property
    def tile_size(self) -> int:
        """Side of a tile in pixels, the tower's input."""
        return self.vision_config.image_size  # type: ignore[return-value]  # the ranges demand a whole number

    @property
    def tile_side(self) -> int:
        """Features per side of a tile (27 in the published model)."""
        return self.tile_size // self.vision_config.patch_size  # type: ignore[operator]  # likewise

    def special_token_ids(self) -> dict[str, int]:
        """The ids that tokenizer and config must agree on, by field name."""
        names: tuple[str, ...] = ("image_token_id", "mask_token_id", "bos_token_id", "eos_token_id")
        names += ("start_header_id", "end_header_id", "eot_token_id")
        return {name: getattr(self, name) for name in names}

    def never_generated_ids(self) -> list[int]:
        """Ids an answer may not contain: the four the original suppresses, and the mask itself.

        The original lets the mask be predicted, which wastes steps and can return an answer made of masks.
        """
        return [self.eos_token_id, self.bos_token_id, self.start_header_id, self.end_header_id, self.mask_token_id]


def check_ranges(config, sizes: dict[str, tuple], numbers: dict[str, tuple]) -> None:
    """Raise ValueError unless every size is whole and every number finite, within its limits (least, largest)."""
    for name, (least, most) in (sizes | numbers).items():
        value = getattr(config, name)
        right = is_whole(value) or name in numbers and isinstance(value, float)
        if not right or not least <= value <= most:
            noun = "a whole number" if name in sizes else "a number"
            raise WrongValue(f"{name} is {shown(value)}; it must be {noun} from {least} to {most}")


def is_whole(value) -> bool:
    """Whether it is a whole number, True and False left out."""
    return isinstance(value, int) and not isinstance(value, bool)
