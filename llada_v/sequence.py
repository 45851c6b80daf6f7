"""Turns and pictures to ids and labels: the format of LLaDA-V, in chat and in training.

The words of a message or a record are encoded as text, whatever they spell; only the format writes special tokens. One
placeholder id stands for every feature the model will make of a picture. Knows tokenizer and geometry, never a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer

from .anyres import Layout, num_features
from .configuration_llada_v import IGNORE, LladaVConfig
from .conversation import (
    IMAGE,
    NOISE_TAG,
    PICTURE,
    ROLES,
    SYSTEM_PROMPT,
    TOKENS,
    Turn,
    check_count,
    check_order,
    list_of,
    picture_first,
    pieces_of,
    stripped,
    turns_of,
)
from .errors import WrongValue
from .media import open_media
from .video import frames_at_fps

if TYPE_CHECKING:
    from .image_processing_llada_v import LladaVImageProcessor, LladaVVideoProcessor

PICTURE_INPUTS = ("pixel_values", "image_sizes", "image_layouts")


@dataclass
class Visual:
    """One picture or video, ready: its tiles (T, 3, S, S), original (height, width), layout and feature count."""

    tiles: torch.Tensor
    size: tuple[int, int]
    layout: Layout
    num_features: int


@dataclass
class Sequence:
    """Ids, labels and pictures of one conversation while it is written."""

    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    visuals: list[Visual] = field(default_factory=list)

    def add(self, ids: list[int], labelled: bool) -> None:
        """Append ids; unlabelled ones are never masked in training."""
        self.input_ids += ids
        self.labels += ids if labelled else [IGNORE] * len(ids)


class SequenceWriter:
    """What writes sequences, for a class with `tokenizer`, `config`, `reproduce_original` and the two processors."""

    tokenizer: Any
    config: LladaVConfig
    reproduce_original: bool
    image_processor: "LladaVImageProcessor"
    video_processor: "LladaVVideoProcessor"

    # Pictures

    def visuals_of(
        self,
        images: list,
        is_video: bool = False,
        style: str = "chat",
        frame_rule=None,
        allow_urls: bool = False,
        **options,
    ) -> list[Visual]:
        """Pictures of one conversation, laid out as the number and style ask: one in full resolution, several one
        tile each, a caption's squashed. With `is_video`, `images` are videos and each gives one visual.

        frame_rule: which frames of a video are taken. options: of the image or video processor. Tiles are uint8, which
        the model scales, unless the options or the processors' own settings ask for another scale.
        """
        sources = [open_media(source, allow_urls) for source in images]
        as_bytes = all(options.get(name) is None for name in ("do_rescale", "do_normalize"))
        if is_video:
            checked = self.video_processor.checked(options) | {"as_bytes": as_bytes}
            found = [self.video_processor.tiles(video, checked, frame_rule) for video in sources]
        else:
            processor = self.image_processor
            layout = options.pop("layout", None) or self.layout_of(len(images), style)
            checked = processor.checked(options | {"layout": layout}) | {"as_bytes": as_bytes}
            found = processor.tiles([processor.picture(source, checked) for source in sources], checked)
        return [
            Visual(tiles, size, layout, num_features(layout, *size, self.config, len(tiles), len(tiles)))
            for tiles, size, layout in found
        ]

    def layout_of(self, count: int, style: str) -> str:
        """How `count` pictures of one conversation are laid out: a name of the image processor's."""
        if style == "caption":
            return "caption"
        if count == 1:
            return "anyres"
        return "flat" if self.reproduce_original else "square"

    # Text

    def encode(self, text: str) -> list[int]:
        """Ids of words: text that spells a special token is text like any other."""
        return self.words.encode(text, add_special_tokens=False).ids if text else []

    @property
    def words(self) -> Tokenizer:
        """The tokenizer that reads no special token; made once, of the tokenizer as it is then."""
        if "_words" not in self.__dict__:
            self._words = words_tokenizer(self.tokenizer, self.config)
        return self._words

    def encode_finished(self, text: str) -> list[int]:
        """Ids of a prompt that is written out, special tokens recognised, none added."""
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def write(self, sequence: Sequence, parts: list, visuals: list[Visual], labelled: bool) -> None:
        """Append parts: ids, and the next of `visuals` at each PICTURE.

        With `reproduce_original` the first token behind every picture is lost, whatever it is.
        """
        behind = False
        for part in parts:
            if part is PICTURE:
                visual = visuals[len(sequence.visuals)]
                sequence.visuals.append(visual)
                sequence.add([self.config.image_token_id] * visual.num_features, labelled=False)
                behind = self.reproduce_original
            elif part:
                sequence.add(part[1:] if behind else part, labelled)
                behind = False

    def turn_parts(self, role: str, pieces: list, is_open: bool = False) -> list:
        """The parts of one turn: header, words and pictures, end of turn (left out where `is_open`)."""
        config = self.config
        header = [config.start_header_id, *self.encode(role), config.end_header_id]
        words = [piece if piece is PICTURE else self.encode(piece) for piece in joined(["\n\n", *pieces])]
        return [header, *words] if is_open else [header, *words, [config.eot_token_id]]

    def sequence(self, turns: list[Turn], visuals: list[Visual], is_open: bool = False) -> Sequence:
        """Ids and labels of a conversation: assistant turns are labelled whole, header and end included.

        Raises ValueError unless there is one PICTURE for each visual.
        """
        check_count([piece for _, pieces in turns for piece in pieces], visuals, "the conversation")
        sequence = Sequence()
        sequence.add([self.config.bos_token_id], labelled=False)
        turns = self.laid_out(turns)
        parts = [self.turn_parts(*turn, is_open and index == len(turns) - 1) for index, turn in enumerate(turns)]
        if self.reproduce_original:
            # The original cuts the whole prompt at its pictures, so the token lost may be the next turn's first.
            self.write(sequence, [part for turn in parts for part in turn], visuals, labelled=False)
        else:
            for (role, _), turn in zip(turns, parts, strict=True):
                self.write(sequence, turn, visuals, labelled=role == "assistant")
        return sequence

    def laid_out(self, turns: list[Turn]) -> list[Turn]:
        """The turns with pictures and white space where the format has them."""
        return [(role, (stripped if self.reproduce_original else picture_first)(pieces)) for role, pieces in turns]

    # Records to train on

    def encode_record(
        self,
        record: dict,
        style: str = "chat",
        image_root=None,
        video_fps: float = 1.0,
        max_frames: int = 32,
        max_tiles: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """One training record in LLaVA's format.

        record: {"conversations": [{"from": "human" | "gpt", "value"}], and "image" (path, PIL image or a list of
            them) or "video" (path or frames)}; None means absent. Relative paths start at `image_root`.
        style: "chat" writes the conversation; "caption" the picture and its caption alone (projector stage).
        video_fps, max_frames: how frames are taken, see `video.frames_at_fps`.
        max_tiles: of a single picture; see `LladaVImageProcessor`. None: what the processor was saved with.
        Returns input_ids (L,) and labels (L,), and with pictures uint8 pixel_values (T, 3, S, S), image_sizes
        (N, 2) and image_layouts (N, 2). Labels are the ids of assistant turns, and of the structural tokens everywhere
        (BOS, headers, end of turn), as the published model was trained; the rest is -100. Text that spells a special
        token is text; `<image>` is a picture's place where the record has pictures, and text where it has none.
        Raises ValueError for a record that cannot be used, saying why.
        """
        if self.reproduce_original:
            raise WrongValue(
                "reproduce_original is for prompts to answer; load the processor with reproduce_original=False to train"
            )
        turns = turns_of(record)
        images, video = list_of(record.get("image")), record.get("video")
        sources = images or ([] if video is None else [video])
        if image_root is not None:
            sources = [Path(image_root) / source if isinstance(source, (str, Path)) else source for source in sources]
        is_video = not images and video is not None
        rule = partial(frames_at_fps, video_fps=video_fps, max_frames=max_frames)
        options: dict[str, Any] = {} if is_video or max_tiles is None else {"max_tiles": max_tiles}
        visuals = self.visuals_of(sources, is_video, style, rule, **options)
        if style == "chat":
            sequence = self.chat_sequence(turns, visuals)
        elif style == "caption":
            sequence = self.caption_sequence(turns, visuals)
        else:
            raise WrongValue(f"style is {style!r}; choose chat or caption")
        encoded = {"input_ids": torch.tensor(sequence.input_ids), "labels": torch.tensor(sequence.labels)}
        return encoded | pixel_inputs(sequence.visuals)

    def chat_sequence(self, turns: list[dict], visuals: list[Visual]) -> Sequence:
        """A conversation as the model is trained on it. A first turn of the assistant is dropped."""
        if turns[0]["from"] != "human":
            turns = turns[1:]
        if not turns:
            raise WrongValue("the record has no turn from human")
        check_order(turns)
        texts = [turn["value"].replace(NOISE_TAG, "") for turn in turns]
        pieces = [pieces_of(text, bool(visuals)) for text in texts]
        check_count([piece for turn in pieces for piece in turn], visuals, "the record")
        roles = [ROLES[turn["from"]] for turn in turns]
        sequence = self.sequence([("system", [SYSTEM_PROMPT]), *zip(roles, pieces, strict=True)], visuals)
        config = self.config
        structure = {config.bos_token_id, config.start_header_id, config.end_header_id, config.eot_token_id}
        sequence.labels = [
            token if token in structure else label
            for token, label in zip(sequence.input_ids, sequence.labels, strict=True)
        ]
        return sequence

    def caption_sequence(self, turns: list[dict], visuals: list[Visual]) -> Sequence:
        """The picture, its caption, a newline: no roles, the instruction thrown away."""
        if len(turns) != 2 or IMAGE not in turns[0]["value"] or len(visuals) != 1:
            raise WrongValue(
                f"a caption record has one picture, and two turns of which the first contains {IMAGE}; this one has "
                f"{len(visuals)} pictures and {len(turns)} turns"
            )
        check_order(turns)
        sequence = Sequence()
        self.write(sequence, [PICTURE], visuals, labelled=False)
        sequence.add(self.encode(turns[1]["value"] + "\n"), labelled=True)
        return sequence


def words_tokenizer(tokenizer, config) -> Tokenizer:
    """A copy of the tokenizer that reads special tokens as text. Raises ValueError where it reads one all the same."""
    words = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    words.no_padding()
    words.no_truncation()
    words.encode_special_tokens = True
    for name, token_id in config.special_token_ids().items():
        if token_id in words.encode(TOKENS[name], add_special_tokens=False).ids:
            raise WrongValue(
                f"the tokenizer reads {TOKENS[name]!r} in a text as its {name}, because its file does not say that the "
                "token is special; use the tokenizer the model was trained with"
            )
    return words


def joined(pieces: list) -> list:
    """Pieces with neighbouring texts as one: their tokens do not depend on how a message was cut into parts."""
    found: list = []
    for piece in pieces:
        if piece is not PICTURE and found and found[-1] is not PICTURE:
            found[-1] += piece
        else:
            found.append(piece)
    return found


def picture_inputs(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What of a model's inputs the pictures are; empty where there are none."""
    return {name: inputs[name] for name in PICTURE_INPUTS if name in inputs}


def pixel_inputs(visuals: list[Visual]) -> dict[str, torch.Tensor]:
    """pixel_values, image_sizes and image_layouts of pictures; nothing where there are none."""
    if not visuals:
        return {}
    return {
        "pixel_values": torch.cat([visual.tiles for visual in visuals]),
        "image_sizes": torch.tensor([visual.size for visual in visuals]),
        "image_layouts": torch.tensor([(int(visual.layout), len(visual.tiles)) for visual in visuals]),
    }
