"""Pictures and messages to tensors, and ids back to text.

    messages / record -> turns (role, text with <image>) -> pieces -> ids with placeholders, labels
    pictures          -> tiles, (height, width), layout

The processor knows the tokenizer and the config, never a model. It writes one placeholder id for every feature the
model will make, so `input_ids`, `labels` and positions have their final length from here on.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, ProcessorMixin
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import cached_file

from .anyres import Layout, num_features
from .checkpoint.files import check_json
from .configuration_llada_v import IGNORE, LladaVConfig
from .images import anyres_tiles, load_image, padded_tile, square_tile
from .messages import list_of
from .video import frames_at_fps, frames_evenly, load_frames

IMAGE = "<image>"  # where a picture or a video stands in a message's text
PICTURE_INPUTS = ("pixel_values", "image_sizes", "image_layouts")
SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
TOKENS = {
    "mask_token_id": "<|mdm_mask|>",
    "bos_token_id": "<|startoftext|>",
    "eos_token_id": "<|endoftext|>",
    "start_header_id": "<|start_header_id|>",
    "end_header_id": "<|end_header_id|>",
    "eot_token_id": "<|eot_id|>",
    "image_token_id": "<|reserved_token_0|>",
}
ROLES = {"human": "user", "gpt": "assistant"}
PROCESSOR_FILE = "processor_config.json"
TOKENIZER_FILE = "tokenizer.json"
NOISE_TAG = "QA_GT_caption_based_noisy"  # left over in some rows of the training data


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


class LladaVProcessor(ProcessorMixin):
    """Tokenizer, image preparation and chat format of LLaDA-V.

    tokenizer: a fast tokenizer with LLaDA's special tokens.
    config: the model's `LladaVConfig`; geometry and ids are read from it.
    reproduce_original: write prompts as the original's inference does, token by token: message texts are stripped,
        the first token after every picture is lost, and each of several pictures has no newline feature (729
        features instead of 730). Off by default: prompts then look like the training data.
    Raises ValueError where tokenizer and config disagree on an id.
    """

    def __init__(self, tokenizer, config: LladaVConfig, reproduce_original: bool = False):
        for name, token_id in config.special_token_ids().items():
            found = tokenizer.convert_tokens_to_ids(TOKENS[name])
            if found != token_id:
                raise ValueError(
                    f"tokenizer and config disagree: {TOKENS[name]!r} is id {found} in the tokenizer, but the config's "
                    f"{name} is {token_id}; use the tokenizer the model was trained with"
                )
        self.tokenizer = tokenizer
        self.config = config
        self.reproduce_original = reproduce_original
        self.chat_template = None  # the format is code, in `write_turn`

    # Saving and loading

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts transformers saves and loads by themselves."""
        return ["tokenizer"]

    def to_dict(self) -> dict:
        """Everything but the tokenizer, for `processor_config.json`."""
        return {
            "processor_class": type(self).__name__,
            "reproduce_original": self.reproduce_original,
            "config": self.config.to_diff_dict(),
        }

    @classmethod
    def from_pretrained(cls, name, reproduce_original: bool | None = None, **kwargs) -> "LladaVProcessor":
        """The processor of a folder or hub name: ours, or one in the published layout (config and tokenizer alone).

        Raises OSError where the tokenizer is missing, ValueError where it disagrees with the config.
        """
        check_json(name)
        hub = {key: kwargs[key] for key in ("cache_dir", "local_files_only", "revision", "token") if key in kwargs}
        if cached_file(name, TOKENIZER_FILE, _raise_exceptions_for_missing_entries=False, **hub) is None:
            raise OSError(f"{name} has no {TOKENIZER_FILE}; put the tokenizer's files there, beside config.json")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(name, **hub)
        file = cached_file(name, PROCESSOR_FILE, _raise_exceptions_for_missing_entries=False, **hub)
        saved = {} if file is None else json.loads(Path(file).read_text())
        config = LladaVConfig(**saved["config"]) if "config" in saved else LladaVConfig.from_pretrained(name, **hub)
        if reproduce_original is None:
            reproduce_original = saved.get("reproduce_original", False)
        return cls(tokenizer, config, reproduce_original)

    def save_pretrained(self, folder, **kwargs) -> list[str]:
        """Write the tokenizer and `processor_config.json`; returns the latter's path."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        file = Path(folder) / PROCESSOR_FILE
        file.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n")
        return [str(file)]

    @property
    def model_input_names(self) -> list[str]:
        """Keys of what a call returns."""
        return ["input_ids", "attention_mask", "pixel_values", "image_sizes", "image_layouts"]

    # Pictures

    def visuals_of(self, images: list, is_video: bool = False, style: str = "chat", frame_rule=None) -> list[Visual]:
        """Pictures of one conversation, laid out as the number and style ask: one in full resolution, several one
        tile each, a caption's squashed. With `is_video`, `images` are videos and each gives one visual."""
        config = self.config
        if is_video:
            rule = frame_rule or (lambda total, fps: frames_evenly(total))
            return [self.video(load_frames(video, rule)) for video in images]
        pictures = [load_image(image) for image in images]
        layout, tiles_of = self.layout_of(len(pictures), style)
        return [
            Visual(
                tiles_of(picture, config),
                (picture.height, picture.width),
                layout,
                num_features(layout, picture.height, picture.width, config),
            )
            for picture in pictures
        ]

    def layout_of(self, count: int, style: str):
        """How `count` pictures of one conversation are laid out, and the function that makes the tiles of one."""
        if style == "caption":
            return Layout.FLAT, square_tile
        if count == 1:
            return Layout.ANYRES, anyres_tiles
        return (Layout.FLAT if self.reproduce_original else Layout.SQUARE), padded_tile

    def video(self, frames: list) -> Visual:
        """One video from its RGB frames."""
        size = (frames[0].height, frames[0].width)
        count = num_features(Layout.VIDEO, *size, self.config, frames=len(frames))
        return Visual(torch.cat([square_tile(frame, self.config) for frame in frames]), size, Layout.VIDEO, count)

    # Text

    def encode(self, text: str) -> list[int]:
        """Ids of a text, special tokens recognised, none added."""
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def write(self, sequence: Sequence, text: str, visuals: list[Visual], labelled: bool) -> None:
        """Append a text to the sequence, the next of `visuals` at each `<image>`; without visuals it is plain text."""
        pieces = text.split(IMAGE) if visuals else [text]
        for index, piece in enumerate(pieces):
            if index:
                visual = visuals[len(sequence.visuals)]
                sequence.visuals.append(visual)
                sequence.add([self.config.image_token_id] * visual.num_features, labelled=False)
            ids = self.encode(piece)
            sequence.add(ids[1:] if index and self.reproduce_original else ids, labelled)

    def write_turn(self, sequence: Sequence, role: str, text: str, visuals: list[Visual], is_open: bool = False):
        """Append one turn: header, text, end of turn (left out where `is_open`: the text goes on)."""
        end = "" if is_open else TOKENS["eot_token_id"]
        header = TOKENS["start_header_id"] + role + TOKENS["end_header_id"] + "\n\n"
        self.write(sequence, header + text + end, visuals, labelled=role == "assistant")

    def check_count(self, texts: list[str], visuals: list, where: str) -> None:
        """Raise ValueError unless there is one `<image>` for each picture."""
        written = sum(text.count(IMAGE) for text in texts)
        if written != len(visuals):
            raise ValueError(f"{where} has {written} {IMAGE} for {len(visuals)} pictures or videos; write one for each")

    # Conversations to answer

    def apply_chat_template(
        self,
        conversation: list,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        return_dict: bool = True,
        return_tensors: str | None = None,
        padding: bool = True,
        padding_side: str = "left",
        processor_kwargs: dict | None = None,
    ):
        """The prompt of a conversation, or of a list of conversations.

        conversation: messages {"role", "content"}; content is a string or parts {"type": "text", "text"},
            {"type": "image", "image": PIL image, path or bytes}, {"type": "video", "video": path or frames}. The
            system prompt of the training data is put in front unless there is one.
        add_generation_prompt: open the assistant's turn, for `generate`.
        continue_final_message: leave the last turn open, to have it continued.
        tokenize: False returns the text with `<image>` where pictures stand.
        Returns input_ids (B, L), attention_mask (B, L), and with pictures pixel_values (T, 3, S, S), image_sizes
        (N, 2) and image_layouts (N, 2), pictures in the order of the rows; input_ids alone if not `return_dict`.
        Raises ValueError for an empty question, an unknown role or part, or `<image>` written without a picture.
        """
        options = dict(processor_kwargs or {})
        padding, padding_side = options.pop("padding", padding), options.pop("padding_side", padding_side)
        if options:
            raise TypeError(f"unknown processor options: {', '.join(sorted(options))}")
        if add_generation_prompt and continue_final_message:
            raise ValueError(
                "give add_generation_prompt or continue_final_message: one opens a turn, one keeps it open"
            )
        is_batch = isinstance(conversation[0], (list, tuple)) if len(conversation) else False
        sequences, rendered = [], []
        for messages in conversation if is_batch else [conversation]:
            turns, images, videos = self.read_messages(messages)
            if add_generation_prompt:
                turns.append(("assistant", ""))
            is_open = add_generation_prompt or continue_final_message
            rendered.append(self.render(turns, is_open))
            if tokenize:
                visuals = self.visuals_of(images) + self.visuals_of(videos, is_video=True)
                sequences.append(self.sequence(turns, visuals, is_open))
        if not tokenize:
            return rendered if is_batch else rendered[0]
        if len(sequences) > 1 and not padding and len({len(s.input_ids) for s in sequences}) > 1:
            raise ValueError("the conversations differ in length; padding=True makes a batch of them")
        features = self.collate(sequences, padding_side, return_tensors)
        return features if return_dict else features["input_ids"]

    def read_messages(self, messages: list) -> tuple[list[tuple[str, str]], list, list]:
        """Turns (role, text with `<image>`), pictures and videos of a conversation."""
        if not messages:
            raise ValueError("the conversation is empty; give at least one message")
        turns, images, videos = [], [], []
        for message in messages:
            role, content = message.get("role"), message.get("content")
            if role not in ("system", "user", "assistant"):
                raise ValueError(f"a message has role {role!r}; it may be system, user or assistant")
            if not isinstance(content, (str, list, tuple)):
                raise ValueError(f"a message has content {content!r}; it may be a string or a list of parts")
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            text = ""
            for part in parts:
                kind = part.get("type")
                if kind == "text":
                    # Pictures in front of the text stand on a line of their own, as in the training data.
                    is_first = text.replace(IMAGE, "").strip() == ""
                    text += ("\n" if text and is_first and not part["text"].startswith("\n") else "") + part["text"]
                elif kind in ("image", "video"):
                    (images if kind == "image" else videos).append(self.source_of(part, kind))
                    text += (" " if text.endswith(IMAGE) else "") + IMAGE
                else:
                    raise ValueError(f"a message part has type {kind!r}; it may be text, image or video")
            if role == "user" and not text.replace(IMAGE, "").strip():
                raise ValueError("the question is empty; write what you want to know")
            turns.append((role, text))
        if images and videos:
            raise ValueError(
                f"the conversation has {len(images)} images and {len(videos)} videos; the model was trained on one "
                "kind at a time"
            )
        if turns[0][0] != "system":
            turns.insert(0, ("system", SYSTEM_PROMPT))
        visuals = images + videos
        self.check_count([text for _, text in turns], visuals, "the conversation")
        if self.reproduce_original:
            turns = [(role, text.strip()) for role, text in turns]
        elif visuals:
            turns = [(role, image_first(text)) for role, text in turns]
        return turns, images, videos

    @staticmethod
    def source_of(part: dict, kind: str):
        """The picture or video of a message part, under any of the keys transformers uses."""
        for key in (kind, "path"):
            if key in part:
                return part[key]
        raise ValueError(f"a message part of type {kind} has no {kind!r}; put the {kind} or its path there")

    def render(self, turns: list[tuple[str, str]], is_open: bool) -> str:
        """The prompt as text."""
        text = TOKENS["bos_token_id"]
        for role, content in turns:
            text += TOKENS["start_header_id"] + role + TOKENS["end_header_id"] + "\n\n" + content
            text += TOKENS["eot_token_id"]
        return text.removesuffix(TOKENS["eot_token_id"]) if is_open else text

    def sequence(self, turns: list[tuple[str, str]], visuals: list[Visual], is_open: bool = False) -> Sequence:
        """Ids and labels of a conversation: assistant turns are labelled whole, header and end included."""
        sequence = Sequence()
        if self.reproduce_original:
            # The original cuts the whole prompt at its pictures, so the token lost may be a special one.
            self.write(sequence, self.render(turns, is_open), visuals, labelled=False)
            return sequence
        sequence.add([self.config.bos_token_id], labelled=False)
        for index, (role, text) in enumerate(turns):
            self.write_turn(sequence, role, text, visuals, is_open and index == len(turns) - 1)
        return sequence

    def __call__(self, images=None, text=None, videos=None, return_tensors=None, padding=True, padding_side="left"):
        """Finished prompts with `<image>` in them, and their pictures, to tensors (see `apply_chat_template`).

        text: a prompt or a list of prompts. images, videos: what their `<image>` stand for, in order; images may
            also be one list a prompt.
        Raises ValueError unless there is one `<image>` for each picture.
        """
        if not text:
            raise ValueError("the processor needs text; for pictures alone use encode_record")
        texts = [text] if isinstance(text, str) else list(text)
        pictures = [image for item in list_of(images) for image in list_of(item)] or list_of(videos)
        if images is not None and videos is not None:
            raise ValueError("give images or videos, not both: the model was trained on one kind at a time")
        self.check_count(texts, pictures, "the text")
        sequences = []
        for prompt in texts:
            here, pictures = pictures[: prompt.count(IMAGE)], pictures[prompt.count(IMAGE) :]
            sequence = Sequence()
            self.write(sequence, prompt, self.visuals_of(here, is_video=videos is not None), labelled=False)
            sequences.append(sequence)
        return self.collate(sequences, padding_side, return_tensors)

    def collate(self, sequences: list[Sequence], padding_side: str, return_tensors: str | None) -> BatchFeature:
        """Pad sequences to one batch and join their pictures."""
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side is {padding_side!r}; choose left or right")
        length = max(len(sequence.input_ids) for sequence in sequences)
        ids, masks = [], []
        for sequence in sequences:
            filler = length - len(sequence.input_ids)
            padding, real = [self.config.pad_token_id] * filler, [1] * len(sequence.input_ids)
            if padding_side == "left":
                ids.append(padding + sequence.input_ids)
                masks.append([0] * filler + real)
            else:
                ids.append(sequence.input_ids + padding)
                masks.append(real + [0] * filler)
        data = {"input_ids": ids, "attention_mask": masks}
        data |= pixel_inputs([visual for sequence in sequences for visual in sequence.visuals])
        return BatchFeature(data, tensor_type=return_tensors)

    # Records to train on

    def encode_record(
        self, record: dict, style: str = "chat", image_root=None, video_fps: float = 1.0, max_frames: int = 32
    ) -> dict[str, torch.Tensor]:
        """One training record in LLaVA's format.

        record: {"conversations": [{"from": "human" | "gpt", "value"}], and "image" (path, PIL image or a list of
            them) or "video" (path or frames)}; None means absent. Relative paths start at `image_root`.
        style: "chat" writes the conversation; "caption" the picture and its caption alone (projector stage).
        video_fps, max_frames: how frames are taken, see `video.frames_at_fps`.
        Returns input_ids (L,) and labels (L,), and with pictures pixel_values (T, 3, S, S), image_sizes (N, 2) and
        image_layouts (N, 2). Labels are the ids of assistant turns, and of the structural tokens everywhere
        (BOS, headers, end of turn), as the published model was trained; the rest is -100.
        Raises ValueError for a record that cannot be used, saying why.
        """
        if self.reproduce_original:
            raise ValueError(
                "reproduce_original is for prompts to answer; load the processor with reproduce_original=False to train"
            )
        turns = turns_of(record)
        images, video = list_of(record.get("image")), record.get("video")
        sources = images or ([] if video is None else [video])
        if image_root is not None:
            sources = [Path(image_root) / source if isinstance(source, (str, Path)) else source for source in sources]
        is_video = not images and video is not None

        def rule(total, fps):
            return frames_at_fps(total, fps, video_fps, max_frames)

        visuals = self.visuals_of(sources, is_video, style, rule)
        if style == "chat":
            sequence = self.chat_sequence(turns, visuals)
        elif style == "caption":
            sequence = self.caption_sequence(turns, visuals)
        else:
            raise ValueError(f"style is {style!r}; choose chat or caption")
        encoded = {"input_ids": torch.tensor(sequence.input_ids), "labels": torch.tensor(sequence.labels)}
        return encoded | pixel_inputs(sequence.visuals)

    def chat_sequence(self, turns: list[dict], visuals: list[Visual]) -> Sequence:
        """A conversation as the model is trained on it. A first turn of the assistant is dropped."""
        if turns[0]["from"] != "human":
            turns = turns[1:]
        if not turns:
            raise ValueError("the record has no turn from human")
        check_order(turns)
        texts = [turn["value"].replace(NOISE_TAG, "") for turn in turns]
        if visuals:  # otherwise a literal <image> is plain text
            self.check_count(texts, visuals, "the record")
            texts = [image_first(text) for text in texts]
        roles = [ROLES[turn["from"]] for turn in turns]
        sequence = self.sequence([("system", SYSTEM_PROMPT), *zip(roles, texts, strict=True)], visuals)
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
            raise ValueError(
                f"a caption record has one picture, and two turns of which the first contains {IMAGE}; this one has "
                f"{len(visuals)} pictures and {len(turns)} turns"
            )
        check_order(turns)
        sequence = Sequence()
        self.write(sequence, IMAGE, visuals, labelled=False)
        sequence.add(self.encode(turns[1]["value"] + "\n"), labelled=True)
        return sequence


def turns_of(record: dict) -> list[dict]:
    """A record's turns. Raises ValueError where there is none, or one that is not a text from human or gpt."""
    turns = record.get("conversations")
    if not turns:
        raise ValueError("the record has no conversations")
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("from") not in ROLES or not isinstance(turn.get("value"), str):
            raise ValueError(f"a turn has 'from' (human or gpt) and 'value' (a text); this one is {turn!r}")
    return turns


def check_order(turns: list[dict]) -> None:
    """Raise ValueError unless questions and answers take turns, the last is an answer, and no answer is empty."""
    for number, turn in enumerate(turns):
        expected = ("human", "gpt")[number % 2]
        if turn["from"] != expected:
            raise ValueError(f"turn {number} is from {turn['from']}; human and gpt take turns, so expected {expected}")
        if expected == "gpt" and not turn["value"].strip():
            raise ValueError(f"turn {number}, an answer, is empty; write it or remove the turn")
    if len(turns) % 2:
        raise ValueError("the last turn is from human; a record ends with an answer from gpt")


def image_first(text: str) -> str:
    """A message with its only `<image>` moved to the front, on a line of its own; all others unchanged."""
    if text.count(IMAGE) == 1 and not text.startswith(IMAGE):
        return (IMAGE + "\n" + text.replace(IMAGE, "").strip()).strip()
    return text


def pixel_inputs(visuals: list[Visual]) -> dict[str, torch.Tensor]:
    """pixel_values, image_sizes and image_layouts of pictures; nothing where there are none."""
    if not visuals:
        return {}
    return {
        "pixel_values": torch.cat([visual.tiles for visual in visuals]),
        "image_sizes": torch.tensor([visual.size for visual in visuals]),
        "image_layouts": torch.tensor([(int(visual.layout), len(visual.tiles)) for visual in visuals]),
    }
