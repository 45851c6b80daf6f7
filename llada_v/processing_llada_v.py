"""transformers' processor of LLaDA-V: messages, prompts and pictures to tensors, and ids back to text.

How a conversation is written is in `conversation` and `sequence`, how pictures become tiles in
`image_processing_llada_v`; here is what transformers asks of a processor: its parts, saving and loading, its options.
"""

from typing import Any

from transformers import PreTrainedTokenizerFast, ProcessorMixin
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, TextKwargs
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils.chat_template_utils import render_jinja_template

from .checkpoint.files import check_json
from .configuration_llada_v import IGNORE, LladaVConfig
from .conversation import (
    CHAT_TEMPLATE,
    IMAGE,
    PICTURE,
    TOKENS,
    check_count,
    pieces_of,
    plain_message,
    read_messages,
    read_part,
    render,
)
from .errors import BadFile, WrongType, WrongValue
from .image_processing_llada_v import (
    LladaVImageProcessor,
    LladaVImageProcessorKwargs,
    LladaVVideoProcessor,
    LladaVVideoProcessorKwargs,
    pictures_of,
    videos_of,
)
from .json_text import shown, usable
from .sequence import PICTURE_INPUTS, Sequence, SequenceWriter, pixel_inputs

PROCESSOR_FILE = "processor_config.json"
TOKENIZER_FILE = "tokenizer.json"
GEOMETRY = ("size", "patch_size", "image_grid_pinpoints", "max_tile_features", "pool_stride", "newline")
HUB = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
OF_MODELS = {*HUB, "code_revision", "trust_remote_code", "dtype", "use_fast"}  # pipelines hand them to every part
OF_TOKENIZER = {*PreTrainedTokenizerFast.SPECIAL_TOKENS_ATTRIBUTES, "model_max_length", "truncation_side"}
PADDING = {True: "longest", False: "do_not_pad", None: "do_not_pad"}
TEXT_OPTIONS = {
    "padding", "padding_side", "truncation", "max_length", "pad_to_multiple_of", "return_mm_token_type_ids",
    "return_tensors",
}  # fmt: skip
NO_EFFECT = {
    "add_special_tokens",
    "return_attention_mask",
    "verbose",
}  # the format's tokens and the mask are always there


class LladaVProcessorKwargs(ProcessingKwargs, total=False):
    """What a call of the processor takes: see `LladaVProcessor.__call__`."""

    text_kwargs: TextKwargs
    # transformers' own way to narrow its dictionaries, which the rules of typed dictionaries do not know.
    images_kwargs: LladaVImageProcessorKwargs  # type: ignore[misc]
    videos_kwargs: LladaVVideoProcessorKwargs  # type: ignore[misc]
    _defaults = {  # type: ignore[misc]
        "text_kwargs": {"padding": True, "padding_side": "left"}
    }


OPTIONS = {
    name
    for kwargs in (TextKwargs, LladaVImageProcessorKwargs, LladaVVideoProcessorKwargs)
    for name in kwargs.__annotations__
} | {"text_kwargs", "images_kwargs", "videos_kwargs", "common_kwargs", "return_mm_token_type_ids"}


class LladaVProcessor(ProcessorMixin, SequenceWriter):
    """Tokenizer, image preparation and chat format of LLaDA-V.

    tokenizer: a fast tokenizer with LLaDA's special tokens.
    config: the model's `LladaVConfig`; geometry and ids are read from it. None: the geometry is that of the two
        processors, the ids are the tokenizer's.
    reproduce_original: write prompts as the original's inference does, token by token: message texts are stripped,
        the first token after every picture is lost, and each of several pictures has no newline feature (729
        features instead of 730). Off by default: prompts then look like the training data.
    image_processor, video_processor: None: those of the config.
    chat_template: a Jinja template, or several by name, that replaces the format of LLaDA-V.
    Raises ValueError where tokenizer, config and processors disagree.
    """

    valid_processor_kwargs: type[Any] = LladaVProcessorKwargs

    def __init__(
        self,
        tokenizer,
        config: LladaVConfig | None = None,
        reproduce_original: bool = False,
        image_processor: LladaVImageProcessor | None = None,
        video_processor: LladaVVideoProcessor | None = None,
        chat_template: str | dict | None = None,
    ):
        ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in TOKENS.items()}
        if config is None:
            config = config_of(
                ids, image_processor or LladaVImageProcessor(), video_processor or LladaVVideoProcessor()
            )
        for name, token_id in config.special_token_ids().items():
            if ids[name] != token_id:
                raise WrongValue(
                    f"tokenizer and config disagree: {TOKENS[name]!r} is id {ids[name]} in the tokenizer, but the "
                    f"config's {name} is {token_id}; use the tokenizer the model was trained with"
                )
        self.tokenizer = tokenizer
        self.config = config
        self.reproduce_original = reproduce_original
        self.image_processor = LladaVImageProcessor.from_config(config) if image_processor is None else image_processor
        self.video_processor = LladaVVideoProcessor.from_config(config) if video_processor is None else video_processor
        check_geometry(config, self.image_processor, self.video_processor)
        self.chat_template = CHAT_TEMPLATE if chat_template is None else chat_template
        self.image_token = self.video_token = IMAGE
        self.image_token_id = self.video_token_id = config.image_token_id

    # Saving and loading

    def to_dict(self) -> dict:
        """Everything but the tokenizer and the chat template, for `processor_config.json`."""
        return {
            "processor_class": type(self).__name__,
            "reproduce_original": self.reproduce_original,
            "image_processor": self.image_processor.to_dict(),
            "video_processor": self.video_processor.to_dict(),
        }

    @classmethod
    def from_pretrained(cls, name, reproduce_original: bool | None = None, **kwargs) -> "LladaVProcessor":
        """The processor of a folder or hub name: ours, or one in the published layout (config and tokenizer alone).

        kwargs: transformers' own of the hub, parts that replace those of the folder (tokenizer, image_processor,
            video_processor, chat_template), and options of the tokenizer or of the two processors.
        Raises OSError where the tokenizer is missing, ValueError where it or the geometry disagrees with the config,
        TypeError for an option that nothing takes.
        """
        check_json(name)
        hub = {key: kwargs.pop(key) for key in HUB if kwargs.get(key) is not None}
        kwargs = {key: value for key, value in kwargs.items() if key not in OF_MODELS and not key.startswith("_")}
        names = ("tokenizer", "image_processor", "video_processor")
        parts: dict[str, Any] = {key: kwargs.pop(key) for key in names if key in kwargs}
        if "tokenizer" not in parts:
            options = {key: kwargs.pop(key) for key in OF_TOKENIZER & kwargs.keys()}
            parts["tokenizer"] = load_tokenizer(name, hub, options)
        saved, _ = cls.get_processor_dict(name, **hub)
        template = kwargs.pop("chat_template", saved.get("chat_template"))
        pixels: dict[str, type[LladaVImageProcessor] | type[LladaVVideoProcessor]] = {
            "image_processor": LladaVImageProcessor,
            "video_processor": LladaVVideoProcessor,
        }
        known = {option for part in pixels.values() for option in part.valid_kwargs.__annotations__}
        if unknown := sorted(kwargs.keys() - known):
            raise WrongType(f"nothing in the processor takes {', '.join(unknown)}")
        # Folders written before the parts were saved apart hold a copy of the config in their place.
        with usable(f"{name}'s {PROCESSOR_FILE}"):
            copy = LladaVConfig(**saved["config"]) if "config" in saved else None
        config = copy
        is_there = cached_file(name, CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **hub) is not None
        if is_there or copy is None and not pixels.keys() <= saved.keys():
            config = LladaVConfig.from_pretrained(name, **hub)
        for part, kind in pixels.items():
            if part not in parts:
                written = saved.get(part) or kind.from_config(copy or config).to_dict()
                with usable(f"the {part} of {name}"):
                    parts[part] = kind.from_dict(written, **kwargs)
        if reproduce_original is None:
            reproduce_original = saved.get("reproduce_original", False)
        return cls(config=config, reproduce_original=reproduce_original, chat_template=template, **parts)

    @property
    def model_input_names(self) -> list[str]:
        """Keys of what a call returns."""
        return ["input_ids", "attention_mask", *PICTURE_INPUTS]

    # Conversations to answer

    def apply_chat_template(
        self,
        conversation: list,
        chat_template: str | None = None,
        tools: list | None = None,
        documents: list | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = None,
        return_dict: bool = False,
        processor_kwargs: dict | None = None,
        enable_thinking: bool | None = None,
        allow_urls: bool = False,
        load_audio_from_video: bool = False,
        **kwargs,
    ):
        """The prompt of a conversation, or of a list of conversations.

        conversation: messages, see `conversation.read_messages`.
        chat_template: a Jinja template, or the name of one of the processor's, in place of LLaDA-V's format.
        tools, documents: of another template; LLaDA-V's format has none.
        add_generation_prompt: open the assistant's turn, for `generate`.
        continue_final_message: leave the last turn open, to have it continued.
        return_assistant_tokens_mask: also assistant_masks (B, L), 1 on the assistant's turns; with another template on
            what stands between its `{% generation %}` and `{% endgeneration %}`.
        tokenize: False returns the text, with `<image>` where pictures stand; words that spell a special token or
            `<image>` are refused there, since a text cannot tell them apart.
        processor_kwargs, kwargs: options of `__call__`; of another template also its variables.
        enable_thinking: True or False ends the last question with the mode of the reasoning data.
        allow_urls: fetch pictures and videos from the web.
        load_audio_from_video: of no effect; transformers' server asks for it with every video, and the model is deaf.
        Returns with `tokenize` and `return_dict` input_ids (B, L), attention_mask (B, L), and with pictures
        pixel_values (T, 3, S, S), image_sizes (N, 2) and image_layouts (N, 2), pictures in the order of the rows;
        input_ids alone if not `return_dict`. pixel_values are uint8, which the model scales on its device, or float32
        with do_rescale=True, do_normalize=True.
        Raises ValueError for an empty question, an unknown role or part and options that exclude each other, TypeError
        for an unknown option.
        """
        if add_generation_prompt and continue_final_message:
            raise WrongValue(
                "give add_generation_prompt or continue_final_message: one opens a turn, one keeps it open"
            )
        template = self.template_of(chat_template)
        options = {key: kwargs.pop(key) for key in OPTIONS & kwargs.keys()} | (processor_kwargs or {})
        if return_tensors not in (None, "auto"):
            options["return_tensors"] = return_tensors
        is_batch = len(conversation) > 0 and (
            isinstance(conversation[0], (list, tuple)) or hasattr(conversation[0], "messages")
        )
        chats = [
            [plain_message(message) for message in getattr(chat, "messages", chat)]
            for chat in (conversation if is_batch else [conversation])
        ]
        is_open = add_generation_prompt or continue_final_message
        if template != CHAT_TEMPLATE:
            rendered: Any = render_jinja_template(  # texts and masks; its annotation says a text
                conversations=chats,
                chat_template=template,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                return_assistant_tokens_mask=return_assistant_tokens_mask,
                **{**self.tokenizer.special_tokens_map, "enable_thinking": enable_thinking, **kwargs},
            )
            texts, spans = rendered
            if not tokenize:
                return texts if is_batch else texts[0]
            images, videos = ([sources_of(chat, kind) for chat in chats] for kind in ("image", "video"))
            merged = self.options(options)
            sequences = self.prompts(
                texts, images if any(images) else None, videos if any(videos) else None, allow_urls, merged
            )
            if return_assistant_tokens_mask:
                for sequence, text, parts in zip(sequences, texts, spans, strict=True):
                    self.label(sequence, text, parts)
            features = self.collate(sequences, **merged["text_kwargs"], with_masks=return_assistant_tokens_mask)
            return features if return_dict else features["input_ids"]
        if kwargs:
            raise WrongType(f"unknown processor options: {', '.join(sorted(kwargs))}")
        if tools or documents:
            raise WrongValue(f"the model knows no {'tools' if tools else 'documents'}; leave them out")
        merged = self.options(options)
        sequences, texts = [], []
        for chat in chats:
            turns, images, videos = read_messages(chat, enable_thinking)
            if add_generation_prompt:
                turns.append(("assistant", []))
            if tokenize:
                visuals = self.visuals_of(images, allow_urls=allow_urls, **merged["images_kwargs"]) if images else []
                if videos:
                    visuals = self.visuals_of(videos, True, allow_urls=allow_urls, **merged["videos_kwargs"])
                sequences.append(self.sequence(turns, visuals, is_open))
            else:
                texts.append(render(self.laid_out(turns), is_open))
        if not tokenize:
            return texts if is_batch else texts[0]
        features = self.collate(sequences, **merged["text_kwargs"], with_masks=return_assistant_tokens_mask)
        return features if return_dict else features["input_ids"]

    def template_of(self, name: str | None) -> str:
        """The Jinja template of that name, or the one given, or the processor's own."""
        if isinstance(self.chat_template, dict):
            return self.chat_template.get("default" if name is None else name, name)
        return self.chat_template if name is None else name

    # Finished prompts

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        allow_urls: bool | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Finished prompts with `<image>` in them, and their pictures, to tensors (see `apply_chat_template`).

        text: a prompt or a list of prompts, special tokens written out. images, videos: what their `<image>` stand
            for, in order; or one list a prompt, and then the count of each prompt is checked.
        allow_urls: fetch pictures and videos from the web.
        kwargs: padding (True or "longest", False, "max_length"), padding_side, truncation (True cuts the end at
            max_length), max_length, pad_to_multiple_of, return_tensors, return_mm_token_type_ids, and options of the
            image and the video processor; each may also stand in text_kwargs, images_kwargs or videos_kwargs.
        Raises ValueError unless there is one `<image>` for each picture, for an option that is not followed, and where
        truncation would cut a picture; TypeError for an unknown option.
        """
        if not text:
            raise WrongValue("the processor needs text; for pictures alone use the image_processor")
        texts = [text] if isinstance(text, str) else list(text)
        if any(not isinstance(prompt, str) for prompt in texts):
            raise WrongValue("text has to be a string or a list of strings")
        merged = self.options(kwargs)
        return self.collate(self.prompts(texts, images, videos, bool(allow_urls), merged), **merged["text_kwargs"])

    def prompts(self, texts: list[str], images, videos, allow_urls: bool, merged: dict) -> list[Sequence]:
        """The sequences of finished prompts; see `__call__`. merged: what `options` gives."""
        images, image_groups = grouped(images, pictures_of, len(texts))
        videos, video_groups = grouped(videos, videos_of, len(texts))
        if images and videos:
            raise WrongValue("give images or videos, not both: the model was trained on one kind at a time")
        pictures, groups = (videos, video_groups) if videos else (images, image_groups)
        options = merged["videos_kwargs" if videos else "images_kwargs"]
        prompts = [pieces_of(prompt, has_pictures=True) for prompt in texts]
        if groups is None:
            check_count([piece for pieces in prompts for piece in pieces], pictures, "the text")
            rest = iter(pictures)
            groups = [[next(rest) for piece in pieces if piece is PICTURE] for pieces in prompts]
        sequences = []
        for number, (pieces, group) in enumerate(zip(prompts, groups, strict=True)):
            check_count(pieces, group, f"prompt {number}")
            visuals = self.visuals_of(group, bool(videos), allow_urls=allow_urls, **options) if group else []
            sequence = Sequence()
            parts = [piece if piece is PICTURE else self.encode_finished(piece) for piece in pieces]
            self.write(sequence, parts, visuals, labelled=False)
            sequences.append(sequence)
        return sequences

    def label(self, sequence: Sequence, text: str, spans: list[tuple[int, int]]) -> None:
        """Label the tokens of a finished prompt that lie in spans (first, behind the last) of its characters."""
        labels: list[int] = []
        offset, loses_one, visuals = 0, False, iter(sequence.visuals)
        for piece in pieces_of(text, has_pictures=True):
            if piece is PICTURE:
                labels += [IGNORE] * next(visuals).num_features
                offset, loses_one = offset + len(IMAGE), self.reproduce_original
            elif piece:
                found = self.tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
                tokens = list(zip(found.input_ids, found.offset_mapping, strict=True))
                for token, (start, end) in tokens[1:] if loses_one else tokens:
                    is_inside = any(offset + start < last and offset + end > first for first, last in spans)
                    labels.append(token if is_inside else IGNORE)
                offset, loses_one = offset + len(piece), False
        sequence.labels = labels

    def options(self, given: dict) -> dict[str, dict]:
        """Options by the part that takes them, the tokenizer's own settings and defaults among them.

        Raises TypeError for an unknown one, ValueError for one that is not followed.
        """
        if unknown := sorted(given.keys() - OPTIONS):
            raise WrongType(f"unknown processor options: {', '.join(unknown)}")
        settings = {key: value for key, value in self.tokenizer.init_kwargs.items() if key != "padding_side"}
        merged = self._merge_kwargs(
            LladaVProcessorKwargs,  # type: ignore[arg-type]  # it takes the class; its annotation says an instance
            tokenizer_init_kwargs=settings,
            **given,
        )
        text = merged["text_kwargs"]
        if "return_mm_token_type_ids" in given:
            text["return_mm_token_type_ids"] = given["return_mm_token_type_ids"]
        unknown = sorted(name for name in text.keys() - TEXT_OPTIONS - NO_EFFECT if text[name])
        if unknown:
            raise WrongValue(f"{', '.join(unknown)}: not an option of LLaDA-V's prompts; leave it out")
        for part in ("images_kwargs", "videos_kwargs"):
            merged[part].pop("return_tensors", None)
            if changed := [name for name in GEOMETRY if merged[part].get(name) is not None]:
                raise WrongValue(f"{', '.join(changed)}: what the model was built for cannot change in a call")
        merged["text_kwargs"] = {name: text[name] for name in TEXT_OPTIONS & text.keys()}
        return merged

    def collate(
        self,
        sequences: list[Sequence],
        padding_side: str | None = "left",
        return_tensors: str | None = None,
        padding: bool | str | None = True,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_mm_token_type_ids: bool = False,
        with_masks: bool = False,
    ) -> BatchFeature:
        """Pad sequences to one batch and join their pictures; see `__call__` for the options.

        with_masks: also assistant_masks, 1 where a position is labelled.
        """
        padding_side = padding_side or "left"
        if padding_side not in ("left", "right"):
            raise WrongValue(f"padding_side is {padding_side!r}; choose left or right")
        how = PADDING[padding] if isinstance(padding, (bool, type(None))) else str(getattr(padding, "value", padding))
        if how not in ("longest", "max_length", "do_not_pad"):
            raise WrongValue(f"padding is {padding!r}; choose True, False or 'max_length'")
        cuts = truncation not in (None, False, "do_not_truncate")
        most = max_length
        if most is None and (cuts or how == "max_length"):
            most = min(self.tokenizer.model_max_length, self.config.text_config.max_position_embeddings)
        rows = {"input_ids": [sequence.input_ids for sequence in sequences]}
        if with_masks:
            rows["assistant_masks"] = [[int(label != IGNORE) for label in sequence.labels] for sequence in sequences]
        if cuts:
            for ids in rows["input_ids"]:
                if self.config.image_token_id in ids[most:]:
                    raise WrongValue(
                        f"a prompt of {len(ids)} tokens cut at max_length {most} would lose a part of a picture; "
                        "raise max_length, or leave truncation out"
                    )
            rows = {name: [row[:most] for row in part] for name, part in rows.items()}
        if return_mm_token_type_ids:
            rows["mm_token_type_ids"] = [
                [int(token == self.config.image_token_id) for token in ids] for ids in rows["input_ids"]
            ]
        lengths = [len(ids) for ids in rows["input_ids"]]
        if how == "do_not_pad":
            if return_tensors is not None and len(set(lengths)) > 1:
                raise WrongValue("the rows differ in length; padding=True makes a batch of them")
            widths = lengths
        else:
            width = max(lengths if how == "longest" else [*lengths, most])
            width = -(-width // (pad_to_multiple_of or 1)) * (pad_to_multiple_of or 1)
            widths = [width] * len(lengths)
        rows["attention_mask"] = [[1] * length for length in lengths]
        fillers = {"input_ids": self.config.pad_token_id}
        data: dict[str, Any] = {
            name: [
                padded(row, width, fillers.get(name, 0), padding_side) for row, width in zip(part, widths, strict=True)
            ]
            for name, part in rows.items()
        }
        data |= pixel_inputs([visual for sequence in sequences for visual in sequence.visuals])
        return BatchFeature(data, tensor_type=return_tensors)


def padded(row: list[int], width: int, filler: int, side: str) -> list[int]:
    """The row with filler on one side."""
    more = [filler] * (width - len(row))
    return more + row if side == "left" else row + more


def grouped(sources, flat, count: int) -> tuple[list, list | None]:
    """All pictures or videos, and those of each of `count` prompts where they are given so."""
    is_list = isinstance(sources, (list, tuple))
    if not is_list or not sources or not all(isinstance(group, (list, tuple)) for group in sources):
        return flat(sources), None
    groups = [flat(group) for group in sources]
    if len(groups) == count:
        return [item for group in groups for item in group], groups
    if flat(sources) and flat is videos_of:  # a list of videos, each a list of frames
        return flat(sources), None
    raise WrongValue(f"there are {count} prompts, but pictures for {len(groups)}; give one list of pictures a prompt")


def sources_of(chat: list[dict], kind: str) -> list:
    """The pictures or videos of a chat's messages."""
    contents = [message["content"] for message in chat if isinstance(message.get("content"), (list, tuple))]
    return [source for content in contents for found, source in map(read_part, content) if found == kind]


def load_tokenizer(name, hub: dict, options: dict) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder or hub name. Raises OSError where its file is missing."""
    if cached_file(name, TOKENIZER_FILE, _raise_exceptions_for_missing_entries=False, **hub) is None:
        raise BadFile(f"{name} has no {TOKENIZER_FILE}; put the tokenizer's files there, beside config.json")
    with usable(f"the tokenizer of {name}"):
        return PreTrainedTokenizerFast.from_pretrained(name, **hub, **options)


def config_of(ids: dict, image_processor, video_processor) -> LladaVConfig:
    """The config that has a processor's ids and geometry; its widths and depths are those of the published model."""
    return LladaVConfig(
        vision_config={"image_size": image_processor.size["height"], "patch_size": image_processor.patch_size},
        image_grid_pinpoints=image_processor.image_grid_pinpoints,
        max_tile_features=image_processor.max_tile_features,
        video_pool_stride=video_processor.pool_stride,
        video_newline=video_processor.newline,
        pad_token_id=ids["eos_token_id"],
        **ids,
    )


def check_geometry(config: LladaVConfig, image_processor, video_processor) -> None:
    """Raise ValueError, naming the field, where the processors would cut pictures otherwise than the config says."""
    for part, wanted in (
        (image_processor, LladaVImageProcessor.from_config(config)),
        (video_processor, LladaVVideoProcessor.from_config(config)),
    ):
        for name in GEOMETRY:
            found, expected = getattr(part, name, None), getattr(wanted, name, None)
            if plain(found) != plain(expected):
                raise WrongValue(
                    f"the {type(part).__name__} has {name} {shown(plain(found))}, but the model's config says "
                    f"{shown(plain(expected))}; {PROCESSOR_FILE} and config.json describe one model: change both"
                )


def plain(value):
    """A size as a dictionary, lists in place of tuples."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return {"height": value["height"], "width": value["width"]} if hasattr(value, "height") else value
