"""LLaDA-V: a SigLIP tower, a two-layer projector, LLaDA's trunk and head (arXiv 2505.16933).

    pixel_values (T, 3, S, S) -> tower -> projector -> pack -> image_features (F, D)
    input_ids (B, L) -> embeddings, features put where the placeholders stand -> trunk -> logits where asked

It never sees a tokenizer, draws a random number only where `labels` ask for the training objective, and makes logits
only at the positions it is asked for.
Letters: B rows, L positions, T tiles of all pictures of the batch, N pictures (or videos), S pixels a tile side,
P = (S / patch)^2 features a tile, F features of all pictures, D width, V vocabulary, M positions with logits.
"""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import gelu, interpolate
from transformers import GenerationConfig, SiglipVisionModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling, MaskedLMOutput
from transformers.utils import GENERATION_CONFIG_NAME, can_return_tuple

from .anyres import Layout, grid_map, grid_of, num_tiles, pooled_side
from .checkpoint.files import check_folder, check_json, local_folder, shapes_of
from .checkpoint.names import KEY_MAPPING
from .configuration_llada_v import IGNORE, LladaVConfig
from .decisions import DecideMixin
from .errors import WrongValue
from .generation.config import SamplerConfig
from .generation.generate import SamplerMixin
from .head import LladaHead, adapted_loss
from .json_text import usable
from .modeling_llada import LladaModel, LladaPreTrainedModel
from .training.noise import Draw, add_noise, token_weights

if find_spec("transformers.decision") is not None:
    from .system_one import DecidesMixin
else:  # before transformers 5.23

    class DecidesMixin:  # type: ignore[no-redef]
        """Nothing: that version has no typed decisions."""


@dataclass
class LladaVModelOutput(BaseModelOutput):
    """What the model without its head returns.

    image_outputs: of a call with pixel_values what `get_image_features` returns for them; None for any other.
    """

    image_outputs: BaseModelOutputWithPooling | None = None


@dataclass
class LladaVOutput(MaskedLMOutput):
    """What the model with its head returns. image_outputs: as in `LladaVModelOutput`."""

    image_outputs: BaseModelOutputWithPooling | None = None


LARGEST_PIXEL = 16  # float tiles are in [-1, 1], and within 3 with the means of other towers; bytes go to 255


class LladaVProjector(nn.Module):
    """Tower width to trunk width: Linear, exact GELU, Linear."""

    def __init__(self, config: LladaVConfig):
        super().__init__()
        width = config.text_config.hidden_size
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features):
        return self.linear_2(gelu(self.linear_1(features)))


class LladaVPreTrainedModel(LladaPreTrainedModel):
    """What transformers must know to load, initialise and place the whole model."""

    config_class = LladaVConfig
    input_modalities = ("image", "video", "text")  # type: ignore[assignment]  # as transformers' own models have it
    _no_split_modules = ["LladaBlock", "SiglipEncoderLayer"]

    def _init_weights(self, module):
        if isinstance(module, LladaVProjector):
            for linear in (module.linear_1, module.linear_2):
                bound = 1 / math.sqrt(linear.in_features)
                init.uniform_(linear.weight, -bound, bound)
                init.uniform_(linear.bias, -bound, bound)
        elif isinstance(module, LladaVModel):
            init.normal_(module.image_newline, std=1 / math.sqrt(self.config.text_config.hidden_size))
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """The model of a folder or hub name, in our layout or in the published one, with every weight accounted for.

        Arguments are transformers' own. Raises ValueError, before any weight is read, naming a damaged file or the
        weights that are unknown, missing or of another shape. With output_loading_info, which returns a list of the
        last three, they are no error: what is missing is made fresh, as transformers does it. ignore_mismatched_sizes
        does so with weights of other shapes alone.
        """
        if kwargs.get("use_safetensors") is False:
            raise WrongValue("use_safetensors=False asks for pickles, which are not read because they can run code")
        if pretrained_model_name_or_path is not None:
            folder = local_folder(str(pretrained_model_name_or_path), kwargs)
            check_json(folder)
            config = kwargs.get("config")
            if not isinstance(config, LladaVConfig):
                config = cls.config_class.from_pretrained(folder if config is None else config)
            model, method = empty_model(config), quantization_method(config)
            if method is not None:
                check_dtype(kwargs.get("dtype"), config.dtype)
            if not kwargs.get("output_loading_info"):
                check_folder(
                    folder,
                    shapes_of(model),
                    kwargs.get("variant"),
                    method,
                    tied=model.all_tied_weights_keys,
                    needs_head=not issubclass(cls, LladaVModel),
                    any_shape=bool(kwargs.get("ignore_mismatched_sizes")),
                )
            pretrained_model_name_or_path = folder
        kwargs.setdefault("key_mapping", KEY_MAPPING)
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    def save_pretrained(self, save_directory, *args, save_original_format: bool = False, **kwargs):
        """transformers' `save_pretrained`, but a model read from the published layout is written in ours."""
        super().save_pretrained(save_directory, *args, **kwargs | {"save_original_format": save_original_format})


class LladaVModel(LladaVPreTrainedModel):
    """Pictures and ids in, hidden states out."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    def __init__(self, config: LladaVConfig):
        super().__init__(config)
        self.vision_tower = SiglipVisionModel(config.vision_config)
        self.multi_modal_projector = LladaVProjector(config)
        self.language_model = LladaModel(config.text_config)
        self.image_newline = nn.Parameter(torch.empty(config.text_config.hidden_size))
        self.post_init()

    def get_input_embeddings(self):
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value):
        self.language_model.embed_tokens = value

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_sizes: torch.Tensor,
        image_layouts: torch.Tensor | None = None,
        **recorded,
    ) -> BaseModelOutputWithPooling:
        """What transformers asks of a model: last_hidden_state (T, P, E), the tower's own output for each tile, and
        pooler_output, a tuple with the features (n, D) of each picture. Arguments and errors: `encode_pictures`.

        recorded: output_hidden_states and output_attentions of the tower, which then runs a second time."""
        states, pictures = self.read_pictures(pixel_values, image_sizes, image_layouts)
        found = BaseModelOutputWithPooling(
            last_hidden_state=states,
            pooler_output=pictures,  # type: ignore[arg-type]  # transformers' own models give a tuple, too
        )
        names = ("output_hidden_states", "output_attentions")
        wanted = {name: recorded.get(name) or getattr(self.config.vision_config, name) for name in names}
        if any(wanted.values()):
            tower = self.vision_tower(scaled(pixel_values).to(self.dtype), **wanted)
            found.hidden_states, found.attentions = tower.hidden_states, tower.attentions
        return found

    def encode_pictures(
        self, pixel_values: torch.Tensor, image_sizes: torch.Tensor, image_layouts: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Features of all pictures in order, ready to stand in the sequence.

        pixel_values: (T, 3, S, S) normalised tiles of all pictures, one after the other, or the uint8 tiles themselves.
        image_sizes: (N, 2) original (height, width) in pixels.
        image_layouts: (N, 2) pairs (`Layout`, number of tiles); None: read off the number of tiles.
        Returns (F, D). Raises ValueError where tiles and pictures do not match.
        """
        return torch.cat(self.read_pictures(pixel_values, image_sizes, image_layouts)[1])

    def read_pictures(self, pixel_values, image_sizes, image_layouts) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The tower's states (T, P, E), and the features (n, D) of each picture."""
        visuals = self.list_visuals(pixel_values, image_sizes, image_layouts)
        states = self.tower_states(pixel_values)
        counts = [count for _, _, count in visuals]
        parts = self.multi_modal_projector(states).split(counts)
        return states, tuple(
            self.pack(part, layout, height, width)
            for part, (layout, (height, width), _) in zip(parts, visuals, strict=True)
        )

    def tile_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Tiles (T, 3, S, S) -> features of the trunk's width (T, P, D), not yet packed."""
        return self.multi_modal_projector(self.tower_states(pixel_values))

    def tower_states(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Tiles (T, 3, S, S) -> the tower's output (T, P, E).

        uint8 tiles are normalised here, to the bits that the image processor makes.
        """
        tower = self.vision_tower
        # The output of the last encoder layer; the published features never pass the tower's post_layernorm.
        embedded = tower.embeddings(scaled(pixel_values).to(self.dtype))
        return tower.encoder(inputs_embeds=embedded).last_hidden_state

    def list_visuals(self, pixel_values, image_sizes, image_layouts):
        """[(layout, (height, width), tiles)] of the batch's pictures, checked against the number of tiles."""
        total, config = pixel_values.shape[0], self.config
        sizes: list[tuple[int, int]] = [tuple(size) for size in image_sizes.tolist()]
        if image_layouts is None:
            counts = [num_tiles(Layout.ANYRES, *size, config) for size in sizes]
            layout = Layout.ANYRES
            if sum(counts) != total and total == len(sizes):
                counts, layout = [1] * total, Layout.SQUARE
            layouts = [(layout, count) for count in counts]
        else:
            layouts = [(Layout(kind), count) for kind, count in image_layouts.tolist()]
        if len(layouts) != len(sizes) or sum(count for _, count in layouts) != total:
            raise WrongValue(
                f"pixel_values has {total} tiles, but the {len(sizes)} image_sizes and their layouts account for "
                f"{sum(count for _, count in layouts)}; pass pixel_values, image_sizes and image_layouts "
                "of one processor call together"
            )
        return [(kind, size, count) for (kind, count), size in zip(layouts, sizes, strict=True)]

    def pack(self, tiles: torch.Tensor, layout: Layout, height: int, width: int) -> torch.Tensor:
        """Features (n, D) of one picture of (height, width) pixels from its tiles (t, P, D)."""
        if layout == Layout.VIDEO:
            return self.pack_video(tiles)
        base = tiles[0]
        if layout == Layout.FLAT:
            return base
        newline = self.newline_like(base)[None]
        if layout == Layout.SQUARE:
            return torch.cat((base, newline))
        config = self.config
        grid_rows, grid_columns = grid_of(height, width, config, len(tiles))
        side = config.tile_side
        grid = tiles[1:].unflatten(0, (grid_rows, grid_columns)).unflatten(2, (side, side))
        grid = grid.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)  # (D, rows * side, columns * side)
        rows, columns, (map_height, map_width) = grid_map(height, width, config, len(tiles))
        grid = grid[:, rows, columns]
        if grid.shape[1:] != (map_height, map_width):
            grid = interpolate(grid[None], size=(map_height, map_width), mode="bilinear")[0]
        grid = torch.cat((grid, newline.T[:, None].expand(-1, map_height, 1)), dim=2)
        return torch.cat((base, grid.flatten(1).T))

    def newline_like(self, features: torch.Tensor) -> torch.Tensor:
        """The newline feature (D,) where the features are, in their dtype; fetched where accelerate keeps it away."""
        if not (self.image_newline.is_meta and hasattr(self, "_hf_hook")):
            return self.image_newline.to(features)
        from accelerate.utils import align_module_device

        with align_module_device(self, features.device):
            return self.image_newline.to(features)

    def pack_video(self, tiles: torch.Tensor) -> torch.Tensor:
        """Features (n, D) of one video from its frames (t, P, D), each pooled to `pooled_side` squared."""
        side, pooled = self.config.tile_side, pooled_side(self.config)
        frames = tiles.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        frames = interpolate(frames, size=(pooled, pooled), mode="bilinear").permute(0, 2, 3, 1)  # (t, p, p, D)
        newline = self.newline_like(tiles)
        where = self.config.video_newline
        if where == "grid":
            column = newline.expand(*frames.shape[:2], 1, -1)
            return torch.cat((frames, column), dim=2).flatten(0, 2)
        frames = frames.flatten(1, 2)
        if where == "frame":
            return torch.cat((frames, newline.expand(frames.shape[0], 1, -1)), dim=1).flatten(0, 1)
        frames = frames.flatten(0, 1)
        return torch.cat((frames, newline[None])) if where == "one_token" else frames

    def embed(self, input_ids, image_features: torch.Tensor | None, inputs_embeds=None) -> torch.Tensor:
        """Embeddings (B, L, D) of ids (B, L), with `image_features` (F, D) where the placeholders stand.

        inputs_embeds: embeddings in place of the ids; a placeholder is then known by its row of the embedding.
        Raises ValueError unless there are exactly F placeholders.
        """
        rows = self.language_model.embed_tokens
        if inputs_embeds is None:
            embeds, is_image = rows(input_ids), input_ids == self.config.image_token_id
        elif image_features is None:
            return inputs_embeds
        else:
            placeholder = rows(torch.tensor(self.config.image_token_id, device=inputs_embeds.device))
            embeds, is_image = inputs_embeds, (inputs_embeds == placeholder.to(inputs_embeds)).all(-1)
        found = 0 if image_features is None else image_features.shape[0]
        expected = int(is_image.sum())
        if found != expected:
            raise WrongValue(
                f"the prompt has {expected} image placeholders (id {self.config.image_token_id}) but the pictures make "
                f"{found} features; build both with one call of the processor"
            )
        if image_features is None:
            return embeds
        return embeds.masked_scatter(is_image[..., None].to(embeds.device), image_features.to(embeds))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        image_layouts: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        wanted: torch.Tensor | None = None,
        copies: int = 1,
        idle_tiles: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **recorded,
    ) -> LladaVModelOutput:
        """Hidden states (B, L, D), or (M, D) where `wanted`; see `LladaModel.forward` for that, the masks and the rest.

        Pictures come as `pixel_values` with their sizes (see `encode_pictures`), or as finished `image_features`.
        `inputs_embeds` that come alone may have them in place already.
        copies: the rows are this many blocks, one after the other, that all show the same pictures in the same order;
            the tower sees each picture once.
        idle_tiles: (T, 3, S, S) tiles of no picture. They pass the tower and change nothing: where processes train
            together, a batch of text runs the same modules as the others do, in the same order (ZeRO-3 needs both).
        """
        idle = 0 if idle_tiles is None else 0 * (self.tile_features(idle_tiles).sum() + self.image_newline.sum())
        if (input_ids is None) == (inputs_embeds is None):
            raise WrongValue("give either input_ids or inputs_embeds, not both and not neither")
        image_outputs = None
        if image_features is None and pixel_values is not None:
            image_outputs = self.get_image_features(
                pixel_values, image_sizes, image_layouts, return_dict=True, **recorded
            )
            image_features = torch.cat(image_outputs.pooler_output)
        if image_features is not None and copies > 1:
            image_features = image_features.repeat(copies, 1)
        inputs_embeds = self.embed(input_ids, image_features, inputs_embeds)
        if idle_tiles is not None:
            inputs_embeds = inputs_embeds + idle
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            wanted=wanted,
            return_dict=True,
            **recorded,
        )
        return LladaVModelOutput(**outputs, image_outputs=image_outputs)


class LladaVForConditionalGeneration(SamplerMixin, DecideMixin, LladaVPreTrainedModel, DecidesMixin):  # type: ignore[misc]  # decide
    """The model with its head: logits for training, `generate` (from `SamplerMixin`) for answers, `decide` for closed
    questions, transformers' typed decisions among them.
    """

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # where the config ties them
    accepts_loss_kwargs = False  # the loss is a mean over rows: transformers' Trainer shares it among accumulated steps

    def __init__(self, config: LladaVConfig):
        super().__init__(config)
        self.model = LladaVModel(config)
        self.lm_head = LladaHead(config.text_config.hidden_size, config.text_config.vocab_size)
        # transformers' pipelines would put a length of their own beside the sampler's, unless the model has one.
        self.generation_config.max_new_tokens = SamplerConfig.gen_length
        self.post_init()

    def adjust_generation_fn(self, generation_config, from_auto_class, from_pipeline, folder, **kwargs) -> None:
        """transformers' hook while loading: the settings given, else those of the folder, where these have a length."""
        if generation_config is None and folder is not None and (Path(folder) / GENERATION_CONFIG_NAME).is_file():
            with usable(f"the {GENERATION_CONFIG_NAME} of {folder}"):
                generation_config = GenerationConfig.from_pretrained(folder)
        if generation_config is not None and generation_config.max_new_tokens is not None:
            self.generation_config = generation_config

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def get_image_features(self, pixel_values, image_sizes, image_layouts=None, **options):
        """See `LladaVModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, image_sizes, image_layouts, **options)

    def encode_pictures(self, pixel_values, image_sizes, image_layouts=None) -> torch.Tensor:
        """See `LladaVModel.encode_pictures`."""
        return self.model.encode_pictures(pixel_values, image_sizes, image_layouts)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        image_layouts: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        logits_at: torch.Tensor | None = None,
        targets: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        copies: int = 1,
        idle_tiles: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        use_cache: bool | None = None,
        **recorded,
    ) -> LladaVOutput:
        """Logits of the clean token at each position, given everything else (arXiv 2502.09992, eq. 3). No shift.

        logits_at: (B, L) bool, the positions that need logits; None for all.
        targets, weights: (M,) the tokens at those positions and what each counts for.
        Returns logits (M, V), row by row in order of position, or (B, L, V) without `logits_at`; with targets no
        logits but the loss, the weighted sum of the tokens' cross entropies in nats (see `head`).
        labels: (B, L) the clean ids, -100 where a position is never masked: what a plain Trainer passes. Then the call
            is the objective itself: labelled positions are masked at random, t ~ U(0, 1) a row, and the loss is theirs
            alone; there are no logits. `generator` (on the CPU; None: torch's own) draws, here and nowhere else.
        logits_to_keep: as transformers has it: the last so many positions, or those of the indices; 0: all.
        The other arguments are those of `LladaVModel.forward`. Without labels nothing is noised: see `training.noise`.
        """
        if labels is not None:
            if targets is not None or logits_at is not None:
                raise WrongValue("give labels, which are masked here, or targets and logits_at, which are: not both")
            for ids in (labels, input_ids):  # pictures are never masked
                if ids is not None:
                    labels = labels.masked_fill(ids == self.config.image_token_id, IGNORE)
            draw = Draw(*(torch.rand(shape, generator=generator) for shape in (labels.shape[:1], labels.shape)))
            ids, is_masked, p_mask = add_noise(
                labels if input_ids is None else input_ids, labels, self.config.mask_token_id, draw
            )
            logits_at, targets = is_masked, labels[is_masked]
            weights = token_weights(labels, is_masked, p_mask)
            if input_ids is not None:
                input_ids = ids
            elif inputs_embeds is not None:
                mask_id = torch.tensor(self.config.mask_token_id, device=inputs_embeds.device)
                mask = self.get_input_embeddings()(mask_id).to(inputs_embeds.dtype)
                inputs_embeds = torch.where(is_masked[..., None], mask, inputs_embeds)
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_sizes=image_sizes,
            image_layouts=image_layouts,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            image_features=image_features,
            wanted=logits_at,
            copies=copies,
            idle_tiles=idle_tiles,
            return_dict=True,
            **recorded,
        )
        hidden = outputs.last_hidden_state
        states = {name: outputs.get(name) for name in ("hidden_states", "attentions", "image_outputs")}
        if targets is not None:
            if hasattr(self.lm_head, "base_layer"):
                return LladaVOutput(loss=adapted_loss(self.lm_head, hidden, targets, weights), **states)
            return LladaVOutput(loss=self.lm_head(hidden, targets, weights), **states)
        if logits_at is None and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            at = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            hidden = hidden[:, at]
        return LladaVOutput(logits=self.lm_head(hidden), **states)


def scaled(pixel_values: torch.Tensor) -> torch.Tensor:
    """Tiles as the tower wants them: uint8 ones are normalised, to the bits that the image processor makes.

    Raises ValueError for bytes that were cast before they were normalised: the tower would see a white picture.
    """
    if pixel_values.dtype == torch.uint8:
        return pixel_values.float().mul_(1 / 255).sub_(0.5).div_(0.5)
    if pixel_values.numel() and not pixel_values.is_meta and bool(pixel_values.amax() > LARGEST_PIXEL):
        raise WrongValue(
            f"pixel_values are {pixel_values.dtype} up to {pixel_values.amax():g}; the tower wants -1 to 1. The model "
            "scales uint8 tiles itself: hand them over as they are, and cast nothing that is not a float"
        )
    return pixel_values


def empty_model(config: LladaVConfig) -> LladaVForConditionalGeneration:
    """The model without storage (meta device): names and shapes."""
    with torch.device("meta"):
        return LladaVForConditionalGeneration(config)


def quantization_method(config: LladaVConfig) -> str | None:
    """How the weights of a saved model are quantized, by its config; None: not at all."""
    saved = config.to_dict().get("quantization_config")
    return None if saved is None else str(saved.get("quant_method"))


def check_dtype(asked: torch.dtype | str | None, saved: torch.dtype | str | None) -> None:
    """Raise ValueError for a dtype that quantized weights do not have: what stands beside them would differ from it."""
    if asked not in (None, "auto", saved, str(saved).removeprefix("torch.")):
        raise WrongValue(f"dtype is {asked}, but the quantized weights were saved beside {saved}; leave dtype out")
