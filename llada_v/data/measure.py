"""What kind of record each one is, and how many tokens it makes, exactly, pictures included.

Pictures are not decoded for it: the header of a picture gives its size, the container of a video its frames. Text is
tokenized many records at a time. The result lies beside the index and is made once.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from ..anyres import Layout, canvases_within, count_of, num_features, select_canvas
from ..conversation import list_of, turns_of
from ..errors import WrongValue
from ..image_processing_llada_v import LAYOUTS
from ..images import load_image, open_picture
from ..processes import calm_worker
from ..processing_llada_v import LladaVProcessor
from ..sequence import Visual
from ..video import count_frames, frames_at_fps, load_frames
from .index import fingerprint, make_once
from .records import BadRecord, Records

FORMAT = 1
MODALITIES = ("text", "image", "images", "video")
"""Nothing to look at, one picture, several, a video."""
CHUNK = 256  # records measured together
UNKNOWN = -1  # length of a record that could not be measured
NO_TILES = torch.empty(0)


class Measure(NamedTuple):
    """One record's modality (an index of MODALITIES) and length in tokens, or what is wrong with it."""

    modality: int
    length: int
    error: BadRecord | None = None


class Encoding(NamedTuple):
    """The settings that a record's length depends on, beside the processor: see `Recipe`."""

    style: str
    max_frames: int
    max_length: int
    max_tiles: int | None = None


class Measurer(TorchDataset):
    """Measures chunks of records; chunk i holds the numbers from i * CHUNK on.

    decode: also decode every picture, and every frame of a video that training takes.
    """

    def __init__(self, records: Records, processor: LladaVProcessor, encoding: Encoding, decode: bool = False):
        self.records, self.processor, self.encoding, self.decode = records, processor, encoding, decode

    def __len__(self) -> int:
        return -(-len(self.records) // CHUNK)

    def __getitem__(self, chunk: int) -> list[Measure]:
        return self.measure(range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(self.records))))

    def measure(self, numbers: Iterable[int]) -> list[Measure]:
        """The measures of some records."""
        parts: list[Measure | tuple[int, int, list[str]]] = []
        for number in numbers:
            try:
                with self.records.reading(number) as record:
                    parts.append(self.parts_of(record))
            except BadRecord as error:
                parts.append(Measure(0, UNKNOWN, error))
        texts = [text for part in parts if not isinstance(part, Measure) for text in part[2]]
        counts = iter(self.count_tokens(texts))
        measures = []
        for number, part in zip(numbers, parts, strict=True):
            if not isinstance(part, Measure):
                modality, features, pieces = part
                part = Measure(modality, features + sum(next(counts) for _ in pieces))
                try:
                    check_length(part.length, self.encoding.max_length)
                except WrongValue as error:
                    part = part._replace(error=self.records.bad(number, error))
            measures.append(part)
        return measures

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Tokens of each text as `LladaVProcessor.encode` makes them, in half its time: ids alone, no offsets."""
        words = self.processor.words
        return [len(encoded) for encoded in words.encode_batch_fast(texts, add_special_tokens=False)]

    def parts_of(self, record: dict) -> tuple[int, int, list[str]]:
        """A record's modality, its features, and the pieces of text between them, as `encode_record` writes them."""
        turns = turns_of(record)
        images, video = list_of(record.get("image")), record.get("video")
        if images:
            visuals = [self.picture(image, len(images)) for image in images]
        else:
            visuals = [] if video is None else [self.video(video)]
        modality = 0 if not visuals else 3 if not images else 1 if len(images) == 1 else 2
        writer = PieceWriter(self.processor)
        sequence_of = writer.caption_sequence if self.encoding.style == "caption" else writer.chat_sequence
        return modality, len(sequence_of(turns, visuals).input_ids), writer.pieces

    def picture(self, source, count: int) -> Visual:
        """One of `count` pictures without its tiles."""
        image = load_image(source) if self.decode else open_picture(source)[0]
        layout, _ = LAYOUTS[self.processor.layout_of(count, self.encoding.style)]
        size, config, tiles = (image.height, image.width), self.processor.config, None
        most = self.encoding.max_tiles or self.processor.image_processor.max_tiles
        if layout == Layout.ANYRES and most is not None:
            canvases = canvases_within(config.image_grid_pinpoints, config.tile_size, most)
            tiles = count_of(*select_canvas(*size, canvases), config.tile_size) if canvases else 1
            layout = Layout.ANYRES if canvases else Layout.SQUARE
        return Visual(NO_TILES, size, layout, num_features(layout, *size, config, tiles=tiles))

    def video(self, source) -> Visual:
        """A video without its tiles."""

        def rule(total, fps):
            return frames_at_fps(total, fps, max_frames=self.encoding.max_frames)

        frames = len(load_frames(source, rule)) if self.decode else count_frames(source, rule)
        return Visual(NO_TILES, (1, 1), Layout.VIDEO, num_features(Layout.VIDEO, 1, 1, self.processor.config, frames))


class PieceWriter(LladaVProcessor):
    """A processor that collects the texts it would tokenize, so that many records can be tokenized together."""

    def __init__(self, processor: LladaVProcessor):
        self.__dict__ = dict(processor.__dict__)
        self.pieces: list[str] = []

    def encode(self, text: str) -> list[int]:
        self.pieces += [text] if text else []
        return []


def check_length(length: int, max_length: int) -> None:
    """Raise ValueError for a record that is too long. It is never cut: that would lose its answer or half a picture."""
    if length > max_length:
        raise WrongValue(
            f"{length} tokens are more than max_length {max_length}; raise max_length or remove the record"
        )


def measure_all(measurer: Measurer, workers: int, what: str) -> Iterator[list[Measure]]:
    """The measures of all records, chunk by chunk in order, with a progress bar; `workers` processes, 0: this one."""
    loader = DataLoader(
        measurer,
        batch_size=None,
        num_workers=min(workers, len(measurer)),
        collate_fn=as_it_is,
        worker_init_fn=calm_worker,
        generator=torch.Generator(),  # a loader draws a number; a run must not depend on whether lengths were there
    )
    with tqdm(total=len(measurer.records), desc=what, unit=" records", mininterval=1, leave=False, disable=None) as bar:
        for measures in loader:
            bar.update(len(measures))
            yield measures


def as_it_is(measures: list[Measure]) -> list[Measure]:
    """What the loader would otherwise turn into tensors."""
    return measures


class Measures:
    """modalities (int8) and lengths (int32) of all records, memory-mapped; made first unless they are there.

    A record that could not be measured has the length UNKNOWN and counts as text. While they are made, `on_error` is
    told each bad record's number and error; if it raises, nothing is kept.
    """

    def __init__(self, measurer: Measurer, workers: int, on_error: Callable[[int, BadRecord], None]):
        folder = folder_of(measurer)
        make_once(folder, lambda draft: save(draft, *collected(measurer, workers, "lengths", on_error)))
        self.modalities = np.load(folder / "modalities.npy", mmap_mode="r")
        self.lengths = np.load(folder / "lengths.npy", mmap_mode="r")


def folder_of(measurer: Measurer) -> Path:
    """Where the measures of these records lie, beside their index, for these settings and processor."""
    index, encoding = measurer.records.index, measurer.encoding
    what = {
        "format": FORMAT,
        "index": index.folder.name,
        "image_roots": [source.image_roots for source in measurer.records.sources],
        "style": encoding.style,
        "max_frames": encoding.max_frames,
        "processor": of_processor(measurer.processor),
    } | ({} if encoding.max_tiles is None else {"max_tiles": encoding.max_tiles})
    return index.folder.with_name(f"{index.folder.name}-lengths-{fingerprint(what)}")


def collected(
    measurer: Measurer, workers: int, what: str, on_error: Callable[[int, BadRecord], None]
) -> tuple[np.ndarray, np.ndarray]:
    """The modalities and lengths of all records; `on_error` as in `Measures`."""
    count, at = len(measurer.records), 0
    modalities, lengths = np.zeros(count, np.int8), np.zeros(count, np.int32)
    for measures in measure_all(measurer, workers, what):
        modalities[at : at + len(measures)] = [measure.modality for measure in measures]
        lengths[at : at + len(measures)] = [measure.length for measure in measures]
        for number, measure in enumerate(measures, start=at):
            if measure.error is not None:
                on_error(number, measure.error)
        at += len(measures)
    return modalities, lengths


def save(folder: Path, modalities: np.ndarray, lengths: np.ndarray) -> None:
    """Write measures into a new folder."""
    folder.mkdir()
    np.save(folder / "modalities.npy", modalities)
    np.save(folder / "lengths.npy", lengths)


def keep(measurer: Measurer, modalities: np.ndarray, lengths: np.ndarray) -> None:
    """Leave measures just made for the training to find, in place of older ones: pictures may have been mended."""
    folder = folder_of(measurer)
    if folder.is_dir() and not np.array_equal(np.load(folder / "lengths.npy"), lengths):
        shutil.rmtree(folder)
    make_once(folder, lambda draft: save(draft, modalities, lengths))


def of_processor(processor: LladaVProcessor) -> str:
    """A fingerprint of tokenizer and geometry."""
    tokenizer = hashlib.sha256(processor.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    return fingerprint([tokenizer, processor.to_dict()])
