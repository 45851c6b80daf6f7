"""Calls of different requests as one run of the trunk: their positions stand one after the other in a single row.

Everything but attention looks at one position at a time, so a row of T positions from many sequences is computed as it
is. Attention alone must know which queries belong to which keys: a `Span` says so for one sequence, and the layers here
stand where the trunk's blocks expect those of a cache (see `generation.cache`).

What a sequence is packed with changes its numbers by rounding alone, and where a run is asked to be exact not even so:
on a CPU, where attention runs sequence by sequence, a matrix product gives each row the same bits however many rows
there are, as long as there are a few (`FEW`), and what has fewer runs apart. On a GPU with 16-bit weights one fused
call serves all sequences.

Letters: T positions of the pack, Q of them that the last layer computes, H heads, K width of one head, C columns.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.nn.attention.varlen import varlen_attn

from .pool import Pool

FEW = 4  # rows below which a CPU's matrix product takes another way, with other roundings


@dataclass
class Run:
    """What the trunk runs for a call of R rows.

    embeds: (R, C, D). wanted: (R, C) bool, where logits are asked for. position_ids: (R, C).
    columns: (R, C) where in the sequence they stand; None: everywhere. mask: (R, L) what may be attended to; None: all.
    With guidance the rows are there twice, the unguided ones behind.
    """

    embeds: torch.Tensor
    wanted: torch.Tensor
    position_ids: torch.Tensor
    columns: torch.Tensor | None
    mask: torch.Tensor | None


@dataclass
class Part:
    """One call of one request.

    run: what it runs. stretch: where the keys of its canvases stand in the pool; None: they are not kept.
    length: of the whole sequence. copies: how many canvases share what a whole call leaves.
    """

    run: Run
    stretch: int | None
    length: int
    room: int = 0  # positions that one canvas has in the pool
    copies: int = 1

    @property
    def num_positions(self) -> int:
        """Positions that the trunk runs."""
        return self.run.wanted.numel()


@dataclass
class Span:
    """One sequence in a pack.

    at: its positions. asked: its queries in the last layer.
    start: where its keys stand in the pool; None: they are those of its own positions.
    """

    at: slice
    asked: slice
    start: int | None
    length: int


@dataclass
class Bundle:
    """Sequences that one fused call serves.

    reads: whether their keys stand in the pool. rows, columns: their queries in the pack, and their keys there or in
    the pool, one sequence after the other. query_ends, key_ends: (sequences + 1,) where each ends, from 0 on.
    """

    reads: bool
    rows: torch.Tensor
    columns: torch.Tensor
    query_ends: torch.Tensor
    key_ends: torch.Tensor
    most_queries: int
    most_keys: int


class Pack:
    """The parts of one run, laid out.

    embeds: (1, T, D). position_ids: (1, T). positions: (1, Q) what the last layer computes.
    places: per part, (M,) which of the Q are wanted. slots, kept: (W,) where in the pool the keys of the positions
        `kept` are written; None: nowhere.
    """

    def __init__(self, trunk, parts: list[Part], device: torch.device, is_exact: bool):
        """is_exact: fill up what the last layer computes, as the trunk does for the part alone."""
        self.spans: list[Span] = []
        self.made: dict[bool, list[Bundle]] = {}
        positions, self.places, slots, kept = [], [], [], []
        first = asked = 0
        for part in parts:
            run, (num_rows, width) = part.run, part.run.wanted.shape
            if is_exact:
                at, places = trunk.gather_positions(run.wanted)
                counts = [at.shape[1]] * num_rows
                at = at + torch.arange(num_rows)[:, None] * width
            else:
                at = run.wanted.flatten().nonzero()[:, 0]
                counts, places = run.wanted.sum(1).tolist(), torch.arange(len(at))
            positions.append(at.flatten() + first)
            self.places.append(places + asked)
            for row in range(num_rows):
                begin = first + row * width
                reads = run.columns is not None
                start = part.stretch + row * part.room if reads else None
                self.spans.append(
                    Span(slice(begin, begin + width), slice(asked, asked + counts[row]), start, part.length)
                )
                asked += counts[row]
            if part.stretch is not None:
                columns = torch.arange(width).expand(num_rows, -1) if run.columns is None else run.columns
                copies = part.copies if run.columns is None else 1
                rows = torch.arange(num_rows * copies)[:, None]
                slots.append((part.stretch + rows * part.room + columns.repeat(copies, 1)).flatten())
                kept.append((torch.arange(num_rows * width) + first).repeat(copies))
            first += num_rows * width
        self.device = device
        self.embeds = torch.cat([part.run.embeds.flatten(0, 1) for part in parts])[None]
        self.position_ids = torch.cat([part.run.position_ids.flatten() for part in parts])[None]
        self.positions = self.put(torch.cat(positions)[None])
        self.slots, self.kept = (self.put(torch.cat(each)) if each else None for each in (slots, kept))

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """On the device, without waiting for it."""
        return tensor.to(self.device, non_blocking=True)

    def bundles(self, is_last: bool) -> list[Bundle]:
        """The sequences for fused calls; those of all layers but the last are alike, and made once."""
        if is_last not in self.made:
            groups = ([span for span in self.spans if (span.start is not None) == reads] for reads in (False, True))
            self.made[is_last] = [self.bundle(spans, is_last) for spans in groups if spans]
        return self.made[is_last]

    def bundle(self, spans: list[Span], is_last: bool) -> Bundle:
        """Sequences whose keys stand in the same place."""
        reads = spans[0].start is not None
        asked = [span.asked if is_last else span.at for span in spans]
        widths = [at.stop - at.start for at in asked]
        starts = [span.at.start if span.start is None else span.start for span in spans]
        lengths = [span.length if reads else span.at.stop - span.at.start for span in spans]
        return Bundle(
            reads,
            self.put(torch.cat([torch.arange(at.start, at.stop) for at in asked])),
            self.put(torch.cat([torch.arange(at, at + count) for at, count in zip(starts, lengths, strict=True)])),
            self.put(torch.tensor([0, *accumulate(widths)], dtype=torch.int32)),
            self.put(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)),
            max(widths),
            max(lengths),
        )


class PackedLayer:
    """A layer's keys and values in the pool, and how a pack's queries meet them."""

    def __init__(self, pack: Pack, pair: tuple[torch.Tensor, torch.Tensor], is_last: bool, mixer):
        self.pack, self.pair, self.is_last, self.mixer = pack, pair, is_last, mixer

    def select(self, value):
        """All positions are computed."""
        return None

    def fill(self, name, added, fresh):
        """All of it was computed."""
        return added

    def store(self, key, value, fresh):
        """Write keys and values (1, H, T, K) into the pool; what attends finds them there or here."""
        if self.pack.slots is not None:
            for buffer, new in zip(self.pair, (key, value), strict=True):
                buffer[self.pack.slots] = new[0].transpose(0, 1)[self.pack.kept]
        return key, value

    def mix(self, attention, query, key, value):
        """(1, Q or T, H, K): each sequence's queries over its own keys."""
        return self.mixer(self, attention, query, key, value)


def one_by_one(layer: PackedLayer, attention, query, key, value):
    """Sequence by sequence, through the model's own back end: as each would be alone, without padding."""
    mixed = query.new_zeros(1, query.shape[2], query.shape[1], query.shape[3])
    for span in layer.pack.spans:
        asked = span.asked if layer.is_last else span.at
        if span.start is None:
            own = key[:, :, span.at], value[:, :, span.at]
        else:
            at = slice(span.start, span.start + span.length)
            kept_keys, kept_values = layer.pair
            own = kept_keys[at].transpose(0, 1)[None], kept_values[at].transpose(0, 1)[None]
        mixed[:, asked] = attention.attend(query[:, :, asked], *own)[0]
    return mixed


def fused(layer: PackedLayer, attention, query, key, value):
    """Two calls for all sequences: one over keys of the pack itself, one over those in the pool."""
    mixed = query.new_empty(query.shape[2], query.shape[1], query.shape[3])
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))
    for bundle in layer.pack.bundles(layer.is_last):
        keys, values = layer.pair if bundle.reads else (key, value)
        mixed[bundle.rows] = varlen_attn(
            query[bundle.rows],
            keys[bundle.columns],
            values[bundle.columns],
            bundle.query_ends,
            bundle.key_ends,
            bundle.most_queries,
            bundle.most_keys,
            scale=attention.scaling,
            enable_gqa=True,
        )
    return mixed[None]


def mixer_of(device: torch.device, dtype: torch.dtype):
    """How attention runs here: fused on a GPU with 16-bit numbers, else sequence by sequence."""
    return fused if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16) else one_by_one


@torch.no_grad()
def run_packed(trunk, head, parts: list[Part], pool: Pool, is_exact: bool) -> list[torch.Tensor]:
    """Logits (M, V) of each part at what it wants, rows one after the other.

    is_exact: to the bit those of the part alone, which takes a CPU; else they may be rounded otherwise.
    """
    device = parts[0].run.embeds.device
    groups = [parts]
    if is_exact:
        few = [part for part in parts if part.num_positions < FEW]
        groups = [[part for part in parts if part.num_positions >= FEW], *([part] for part in few)]
    states: dict[int, torch.Tensor] = {}
    for group in filter(None, groups):
        pack = Pack(trunk, group, device, is_exact)
        mixer = mixer_of(device, pack.embeds.dtype)
        last = len(pool.layers) - 1
        layers = [PackedLayer(pack, pair, index == last, mixer) for index, pair in enumerate(pool.layers)]
        rotary = trunk.rotary(pack.put(pack.position_ids), pack.embeds.dtype)
        hidden = trunk.run(pack.embeds, rotary, None, pack.positions, layers)[0]
        for part, places in zip(group, pack.places, strict=True):
            states[id(part)] = hidden[pack.put(places)]
    wanted = [states[id(part)] for part in parts]
    together = [place for place, state in enumerate(wanted) if not is_exact or len(state) >= FEW]
    logits: list[torch.Tensor | None] = [None] * len(parts)
    if together:
        found = head(torch.cat([wanted[place] for place in together]))
        for place, part in zip(together, found.split([len(wanted[place]) for place in together]), strict=True):
            logits[place] = part
    return [head(state) if made is None else made for state, made in zip(wanted, logits, strict=True)]
