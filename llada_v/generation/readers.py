"""What answers the loop's calls: a `Call` of the canvases in, logits at their open positions out.

A reader knows the prompts and what is kept of them. It runs the trunk on what a call's scope names and the head on the
open positions, nowhere else. `reader_of` chooses: `Reader` has the rows of a batch side by side, `Together` rows of
different lengths one behind the other, `EachAlone` one at a time.
"""

from dataclasses import dataclass, replace

import torch
from torch.nn.functional import pad

from .cache import Cache, Scope, bucket_of, captures
from .config import SamplerConfig
from .packing import Part, Run, run_packed
from .pool import Pool
from .pruning import Gaze, most_important
from .sampler import Call
from .token_merging import Prompts


class Reader:
    """The loop's callable for one batch: a `Call` -> logits at its open positions.

    The sequence is prompt (P columns), canvas, suffix. Masks, positions and everything else that is only looked up
    stays on the CPU, so that a call makes no wait for the device.
    """

    def __init__(self, model, prompt, attention_mask, suffix, config: SamplerConfig, keeps: bool = True):
        """prompt: (B, P, D) embeddings. attention_mask: (B, P) or None. suffix: (S,) ids.

        keeps: hold what the config's cache keeps; False where the caller holds it.
        """
        self.config = config
        self.trunk, self.head = model.model.language_model, model.lm_head
        self.embed = model.get_input_embeddings()
        self.device, sizes = prompt.device, model.config.text_config
        self.prompt, self.suffix = prompt, self.embed(suffix)[None]
        self.unguided = self.embed(torch.tensor(model.config.mask_token_id, device=prompt.device)).expand_as(prompt[:1])
        self.never = torch.tensor(model.config.never_generated_ids(), device=self.device)
        num_rows, self.prompt_length = prompt.shape[:2]
        self.real = torch.ones(num_rows, self.prompt_length, dtype=torch.bool)
        if attention_mask is not None:
            self.real = attention_mask.cpu().bool()
        if config.compile and captures(self.device):
            self.fill_bucket(config.canvas_length + len(suffix))
        self.length = 0  # of the sequence that is kept
        self.place: Place | None = None
        self.cache = None
        if config.cache != "none" and keeps:
            self.cache = Cache(config, sizes, self.prompt_length, prompt.dtype, self.device, self.trunk)

    def fill_bucket(self, behind: int) -> None:
        """Put hidden filler in front of the prompts, so that with `behind` they have one of a few lengths."""
        filler = bucket_of(self.prompt_length + behind) - behind - self.prompt_length
        self.prompt_length += filler
        self.prompt = pad(self.prompt, (0, 0, filler, 0))
        self.unguided = self.unguided[:, :1].expand(-1, self.prompt_length, -1)
        self.real = pad(self.real, (filler, 0))

    def close(self) -> None:
        """The answer is finished."""
        if self.cache is not None:
            self.cache.close()

    def __call__(self, call: Call) -> torch.Tensor:
        """(M, V) float32, ids that are never generated at -inf."""
        run = self.prepare(call)
        if self.cache is not None:
            columns = None if run.columns is None else self.put(run.columns)
            self.cache.begin(call.scope, call.rows[:: call.copies].tolist(), self.length, columns)
        hidden = self.trunk(
            inputs_embeds=run.embeds,
            attention_mask=run.mask,
            position_ids=run.position_ids,
            wanted=run.wanted,
            cache=self.beside(),
            compiled=self.config.compile,
        ).last_hidden_state
        return self.finish(self.head(hidden))

    def beside(self):
        """What the trunk gets as its cache."""
        return self.cache

    def prepare(self, call: Call) -> Run:
        """What the trunk is to run for a call."""
        place = self.place
        if place is None or not place.serves(call, self.length):
            self.place = place = self.place_of(call)
            self.length = place.length
        embeds, wanted = self.inputs(call, place)
        if self.config.cfg_scale:
            unguided = self.unguided.expand(len(call.rows), -1, -1)
            embeds = torch.cat((embeds, torch.cat((unguided, embeds[:, self.prompt_length :]), dim=1)))
            wanted = wanted.repeat(2, 1)
        return Run(embeds, wanted, place.position_ids, place.columns, place.mask)

    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        """The head's output at all that is wanted of a `Run` -> (M, V) float32 as the loop wants it."""
        logits = logits.float()
        if self.config.cfg_scale:
            guided, free = logits.chunk(2)
            logits = free + (self.config.cfg_scale + 1) * (guided - free)
        return logits.index_fill_(1, self.never, -torch.inf)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """On the device, without waiting for what it is doing."""
        return tensor.to(self.device, non_blocking=True)

    def visible(self, call: Call) -> torch.Tensor:
        """(R, L) bool: the columns of the sequence that may be attended to."""
        num_canvases, width = call.canvas.shape
        canvas = torch.arange(width) < call.lengths[:, None]
        suffix = canvas.new_ones(num_canvases, self.suffix.shape[1])
        visible = torch.cat((self.real[call.rows], canvas, suffix), dim=1)
        if call.scope is Scope.BLOCK:  # what is kept may be longer: other rows' canvases, grown further, were in it
            visible = pad(visible, (0, self.length - visible.shape[1]))
        return visible

    def place_of(self, call: Call) -> "Place":
        """Where a call's positions stand; the next step's is mostly the same."""
        visible = self.visible(call)
        length, columns = visible.shape[1], None
        position_ids = (visible.long().cumsum(1) - 1).clamp_min(0)
        if call.scope is Scope.BLOCK:
            columns = self.prompt_length + call.columns
        elif call.scope in (Scope.ANSWER, Scope.CHANGED):
            columns = torch.arange(self.prompt_length, length).expand(len(call.rows), -1)
        if columns is not None:
            position_ids = position_ids.gather(1, columns)
        mask = None if visible.all() else visible  # on the CPU, where the trunk can look at it
        if self.config.cfg_scale:
            position_ids = position_ids.repeat(2, 1)
            mask = None if mask is None else mask.repeat(2, 1)
        is_whole = call.rows.tolist() == list(range(len(self.prompt)))
        return Place(call, is_whole, length, columns, position_ids, mask)

    def inputs(self, call: Call, place: "Place"):
        """What the trunk runs: embeddings (R, C, D), and which are wanted (R, C)."""
        if call.scope is Scope.BLOCK:
            embeds = self.embed(self.put(call.canvas.gather(1, call.columns)))
            wanted = call.is_open.gather(1, call.columns) & ~call.is_filler
            return embeds, wanted
        suffix = self.suffix.expand(len(call.rows), -1, -1)
        behind = torch.cat((self.embed(self.put(call.canvas)), suffix), dim=1)
        wanted = pad(call.is_open, (0, suffix.shape[1]))
        if call.scope in (Scope.ANSWER, Scope.CHANGED):
            return behind, wanted
        prompt = self.prompt if place.is_whole else self.prompt[self.put(call.rows)]
        embeds = torch.cat((prompt, behind), dim=1)
        return embeds, pad(wanted, (self.prompt_length, 0))


@dataclass
class Place:
    """Where the positions of a call stand, for it and every call like it.

    is_whole: whether it has all prompts, each once, in order. length: of the sequence.
    columns, position_ids, mask: see `Run`.
    """

    call: Call
    is_whole: bool
    length: int
    columns: torch.Tensor | None
    position_ids: torch.Tensor
    mask: torch.Tensor | None

    def serves(self, call: Call, length: int) -> bool:
        """Whether another call stands in the same place. length: of the sequence that is kept."""
        own = self.call
        return (
            call.scope is own.scope
            and call.canvas.shape == own.canvas.shape
            and torch.equal(call.rows, own.rows)
            and torch.equal(call.lengths, own.lengths)
            and torch.equal(call.columns, own.columns)
            and (call.scope is not Scope.BLOCK or self.length == length)
        )


class PruningReader(Reader):
    """The same for one row without padding, whose picture loses features that hardly anything looks at (RedVTP).

    The first call computes the whole sequence and notes attention. From the next on that does so, the prompt has the
    config's share of the pictures' features. Every position keeps its number, so that what stays is as if the others
    were hidden; RedVTP counts anew.
    """

    def __init__(self, model, prompt, is_picture, suffix, config: SamplerConfig):
        """prompt: (1, P, D). is_picture: (P,) bool, where a feature stands. The others: see `Reader`."""
        super().__init__(model, prompt, None, suffix, config)
        self.is_picture, self.mask_id = is_picture.cpu(), model.config.mask_token_id
        self.gaze: Gaze | None = None  # of the first call, until the features are left out
        self.is_first = True
        self.skipped = torch.zeros(self.prompt_length, dtype=torch.long)  # features left out in front of each column
        self.num_skipped = 0

    def __call__(self, call: Call) -> torch.Tensor:
        """See `Reader`. The first call asks for the whole canvas, which is to be looked at in the last layer too."""
        if not self.is_first:
            return super().__call__(call)
        assert call.canvas.shape[1] == call.lengths[0], "canvases grow after their first call"
        self.gaze = Gaze(self.trunk, self.cache, self.prompt_length, call.canvas.shape[1])
        logits = super().__call__(replace(call, is_open=torch.ones_like(call.is_open)))
        self.is_first = False
        return logits[self.put(call.is_open[0])]

    def beside(self):
        return self.gaze if self.is_first else self.cache

    def prepare(self, call):
        if self.gaze is not None and not self.is_first and call.scope is Scope.WHOLE:
            importance = self.gaze.importance(call.canvas[0] == self.mask_id)
            self.leave_out(most_important(importance, self.is_picture, self.config.keep_features))
            self.gaze = None
        return super().prepare(call)

    def leave_out(self, kept: torch.Tensor) -> None:
        """Go on with these columns (P,) bool of the prompt alone."""
        skipped = (~kept).cumsum(0)
        self.skipped, self.num_skipped = skipped[kept], int(skipped[-1])
        self.prompt, self.real = self.prompt[:, self.put(kept.nonzero()[:, 0])], self.real[:, kept]
        self.prompt_length, self.place = self.prompt.shape[1], None

    def place_of(self, call):
        place = super().place_of(call)
        skipped = torch.full((place.length,), self.num_skipped)
        skipped[: self.prompt_length] = self.skipped
        place.position_ids += skipped if place.columns is None else self.num_skipped
        return place


class EachAlone:
    """The same for a batch whose rows are run one by one, without their padding.

    "dllm" fills its share of changed positions with some that did not change, and rounding alone decides which; it can
    decide too which of two features is looked at more. So that a row's tokens do not depend on the batch, neither may
    its rounding.
    """

    def __init__(self, model, prompts: Prompts, suffix, config: SamplerConfig):
        """See `Reader`."""
        self.readers: list[Reader] = []
        for prompt, is_picture in without_padding(prompts):
            if (config.keep_features or 1) < 1 and is_picture.any():
                self.readers.append(PruningReader(model, prompt, is_picture, suffix, config))
            else:
                self.readers.append(Reader(model, prompt, None, suffix, config))

    def __call__(self, call: Call) -> torch.Tensor:
        """See `Reader`."""
        rows = call.rows.tolist()
        return torch.cat([self.readers[row](call.only(slice(place, place + 1))) for place, row in enumerate(rows)])

    def close(self) -> None:
        """See `Reader`."""
        for reader in self.readers:
            reader.close()


class Together:
    """The same for prompts of different lengths: one behind the other in one run of the trunk (`packing`).

    There is no padding to compute, and no mask to keep fused attention away.
    """

    def __init__(self, model, prompts: Prompts, suffix, config: SamplerConfig):
        """See `Reader`."""
        self.trunk, self.head, self.copies = model.model.language_model, model.lm_head, 1 + config.lookahead
        alone = without_padding(prompts)
        self.readers = [Reader(model, prompt, None, suffix, config, keeps=False) for prompt, _ in alone]
        behind = config.canvas_length + len(suffix)
        keeps = config.cache != "none"
        self.rooms = [reader.prompt_length + behind if keeps else 0 for reader in self.readers]
        size, embeds = sum(self.rooms) * self.copies, prompts.embeds
        self.pool = Pool(model.config.text_config, size, embeds.dtype, embeds.device)
        self.stretches = [self.pool.take(room * self.copies) if keeps else None for room in self.rooms]

    def __call__(self, call: Call) -> torch.Tensor:
        """See `Reader`."""
        asked, counts = call.rows.unique_consecutive(return_counts=True)
        rows, place, parts = asked.tolist(), 0, []
        for row, count in zip(rows, counts.tolist(), strict=True):
            reader = self.readers[row]
            run = reader.prepare(call.only(slice(place, place + count)))
            parts.append(Part(run, self.stretches[row], reader.length, self.rooms[row], self.copies))
            place += count
        made = run_packed(self.trunk, self.head, parts, self.pool, is_exact=False)
        return torch.cat([self.readers[row].finish(logits) for row, logits in zip(rows, made, strict=True)])

    def close(self) -> None:
        """See `Reader`."""


def without_padding(prompts: Prompts) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each row's embeddings (1, P, D), and where features of pictures stand in it, (P,) bool."""
    if prompts.attention_mask is None:
        return [(row[None], is_picture) for row, is_picture in zip(prompts.embeds, prompts.is_picture, strict=True)]
    kept = prompts.attention_mask.bool()
    return [(prompts.embeds[row, own][None], prompts.is_picture[row, own]) for row, own in enumerate(kept)]


def reader_of(model, prompts: Prompts, suffix: torch.Tensor, config: SamplerConfig) -> Reader | EachAlone | Together:
    """What reads these prompts under these settings. suffix: (S,) ids behind each canvas."""
    if config.cache == "dllm" or config.keep_features is not None:
        return EachAlone(model, prompts, suffix, config)
    is_padded = prompts.attention_mask is not None and not prompts.attention_mask.all()
    # What is compiled, or spread over devices, goes through the trunk's own door.
    is_spread = len(set(getattr(model, "hf_device_map", {}).values())) > 1
    if is_padded and not config.compile and not is_spread:
        return Together(model, prompts, suffix, config)
    return Reader(model, prompts.embeds, prompts.attention_mask, suffix, config)
