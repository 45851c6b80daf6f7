"""`generate`: where the sampling loop meets the model.

Pictures are encoded and prompts embedded once for an answer. A call of the loop runs the trunk on what its scope names
and the head on the open positions, nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.nn.functional import pad

from ..errors import WrongValue
from .cache import Cache, Scope, bucket_of, captures
from .config import SamplerConfig
from .keywords import read_keywords
from .pruning import Gaze, most_important
from .sampler import Call, Sampled, SamplerOutput, SamplerState, Shape, sample
from .shape import shape_of
from .stops import by_kind
from .template import EachRow
from .token_merging import Prompts, shortened


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

    def __init__(self, model, prompt, attention_mask, suffix, config: SamplerConfig, is_picture):
        """is_picture: (B, P) bool, where features stand. The others: see `Reader`."""
        kept = torch.ones(prompt.shape[:2], dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        self.readers: list[Reader] = []
        for row in range(len(prompt)):
            own, pictures = prompt[row, kept[row]][None], is_picture[row, kept[row]]
            if (config.keep_features or 1) < 1 and pictures.any():
                self.readers.append(PruningReader(model, own, pictures, suffix, config))
            else:
                self.readers.append(Reader(model, own, None, suffix, config))

    def __call__(self, call: Call) -> torch.Tensor:
        """See `Reader`."""
        return torch.cat([self.readers[row](call.only(place)) for place, row in enumerate(call.rows.tolist())])

    def close(self) -> None:
        """See `Reader`."""
        for reader in self.readers:
            reader.close()


@dataclass(frozen=True)
class Plan:
    """What the loop needs beside the prompt.

    sampler: the settings, their stop_strings all texts. stops: id sequences that end an answer.
    decode: ids -> text, special tokens left out; None without a tokenizer. suffix: ids behind the canvas.
    length: of the whole sequence at most.
    """

    sampler: SamplerConfig
    stops: list[list[int]]
    decode: Callable[[list[int]], str] | None
    constraint: Shape | None
    suffix: list[int]
    length: int

    def is_said(self, found: Sampled) -> torch.Tensor:
        """(B, G) bool: what of the canvases belongs to the answers."""
        is_said = torch.arange(found.canvas.shape[1]) < found.ends[:, None]
        return is_said if self.constraint is None else is_said & self.constraint.is_said(found.canvas)


def plan_of(config, sampler: SamplerConfig, prompt_length: int, tokenizer) -> Plan:
    """How a model with this config answers a prompt of that many tokens.

    Raises ValueError for a sequence longer than the model's positions, for ids outside its vocabulary, and for settings
    that need the tokenizer without one.
    """
    stops = [[config.eot_token_id]] if sampler.stop_token_ids is None else sampler.stop_token_ids
    if sampler.stop_strings:
        if tokenizer is None:
            raise WrongValue("stop_strings are looked for in decoded answers; give tokenizer=processor.tokenizer")
        special, texts = by_kind(sampler.stop_strings, tokenizer)
        stops, sampler = [*stops, *special], replace(sampler, stop_strings=texts)
    constraint = None
    if sampler.constraint is not None:
        if tokenizer is None:
            raise WrongValue("a constraint is spelled by tokens; give tokenizer=processor.tokenizer")
        constraint, sampler = shape_of(sampler, tokenizer, config)
    suffix = sampler.suffix_token_ids or []
    total = prompt_length + sampler.canvas_length + len(suffix)
    if total > config.text_config.max_position_embeddings:
        raise WrongValue(
            f"prompt {prompt_length} + answer {sampler.canvas_length} + suffix {len(suffix)} = {total} tokens, "
            f"more than the model's {config.text_config.max_position_embeddings} positions; "
            "shorten the prompt, the pictures or gen_length"
        )
    vocabulary = config.text_config.vocab_size
    largest = max((token for ids in (*stops, suffix) for token in ids), default=0)
    if largest >= vocabulary:
        raise WrongValue(f"a suffix or stop has the id {largest}, outside the vocabulary of {vocabulary} ids")
    decode = None if tokenizer is None else partial(tokenizer.decode, skip_special_tokens=True)
    return Plan(sampler, stops, decode, constraint, suffix, total)


class SamplerMixin:
    """`generate` for a model with `model.embed`, `model.language_model`, `encode_pictures`, a head and ids."""

    config: Any
    generation_config: Any
    model: Any
    encode_pictures: Callable[..., torch.Tensor]

    @classmethod
    def can_generate(cls) -> bool:
        """True: transformers' pipelines ask."""
        return True

    def prepare_inputs_for_generation(self, input_ids, **inputs) -> dict:
        """The arguments of a forward call for a prompt: all of them, since nothing is read from left to right."""
        return {"input_ids": input_ids} | inputs

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_sizes: torch.Tensor | None = None,
        image_layouts: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        sampler: SamplerConfig | None = None,
        max_new_tokens: int | None = None,
        generator: torch.Generator | None = None,
        callback: Callable[[SamplerState], None] | None = None,
        tokenizer=None,
        streamer=None,
        return_dict_in_generate: bool | None = None,
        generation_config=None,
        **keywords,
    ) -> torch.Tensor | SamplerOutput:
        """Answer a batch of prompts.

        input_ids: (B, L) prompts, padded on either side, with `attention_mask` (B, L) 1 where a token is real.
        pixel_values, image_sizes, image_layouts: the pictures, as the processor makes them; or `image_features`
            (F, D) from `encode_pictures`, to ask many questions about the same pictures.
        sampler: a `SamplerConfig`; or `max_new_tokens` alone, which is its gen_length; or neither, for the length in
            the model's generation_config.json.
        generator: source of random numbers for temperature and random remasking; on the model's device.
        callback: called with a `SamplerState` after each step.
        tokenizer: the processor's, or the processor; makes `texts`, and the sampler's stop_strings need it.
        streamer: transformers' own; it gets the prompt and the finished answer. Steps are what a callback sees.
        generation_config: stands before the model's own; transformers' pipelines pass it.
        keywords: transformers' words max_length (prompt and answer), do_sample, temperature, stop_strings,
            eos_token_id (what ends an answer), pad_token_id and num_return_sequences; the others are refused by name
            unless they ask for nothing. See `generation.keywords`.
        Returns sequences (B, L + G), or without a `sampler`, as transformers' own, no longer than the longest answer;
        or a `SamplerOutput` with `return_dict_in_generate`. A prompt's num_return_sequences answers are neighbours.
        Raises ValueError for contradictory settings, a sequence longer than the model's positions, and prompts whose
        placeholders do not match the pictures; TypeError for an unknown keyword.
        """
        config, device = self.config, input_ids.device
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        keywords["max_new_tokens"] = max_new_tokens
        own, prompt_length, is_whole = self.generation_config, input_ids.shape[1], sampler is not None
        asked = read_keywords(keywords, sampler, generation_config, own, prompt_length, config)
        sampler, copies = asked.sampler, asked.num_return_sequences
        if streamer is not None and len(input_ids) * copies != 1:
            raise WrongValue(f"a streamer shows one answer, and there are {len(input_ids) * copies}; use a callback")
        plan = plan_of(config, sampler, prompt_length, tokenizer)
        sampler, decode = plan.sampler, plan.decode
        suffix = torch.tensor(plan.suffix, dtype=torch.long, device=device)
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise WrongValue(
                f"attention_mask has shape {tuple(attention_mask.shape)}, input_ids {tuple(input_ids.shape)}; "
                "they must be equal"
            )

        if image_features is None and pixel_values is not None:
            image_features = self.encode_pictures(pixel_values, image_sizes, image_layouts)
        prompt = self.model.embed(input_ids, image_features)  # (B, L, D)
        if copies > 1:
            prompt, input_ids = (part.repeat_interleave(copies, 0) for part in (prompt, input_ids))
            attention_mask = None if attention_mask is None else attention_mask.repeat_interleave(copies, 0)
        num_rows = len(input_ids)
        if isinstance(plan.constraint, EachRow) and len(plan.constraint.shapes) != num_rows:
            raise WrongValue(
                f"the schema asks for {len(plan.constraint.shapes)} fields apart, and there are {num_rows} prompts; "
                "`llada_v.answer` writes a prompt for each"
            )
        is_picture = input_ids == config.image_token_id
        whole = Prompts(prompt, attention_mask, is_picture)
        prompt, attention_mask, is_picture = shortened(self.model, whole, sampler.merge_features)
        reader: Reader | EachAlone
        if sampler.cache == "dllm" or sampler.keep_features is not None:
            reader = EachAlone(self, prompt, attention_mask, suffix, sampler, is_picture)
        else:
            reader = Reader(self, prompt, attention_mask, suffix, sampler)
        try:
            found = sample(
                reader,
                num_rows,
                sampler,
                config.mask_token_id,
                plan.stops,
                generator,
                callback,
                decode,
                plan.constraint,
            )
        finally:
            reader.close()

        is_said = plan.is_said(found)
        said = [canvas[kept].to(device) for canvas, kept in zip(found.canvas, is_said, strict=True)]
        answers = [torch.cat((ids, suffix)) for ids in said]
        confidence = [
            torch.cat((row[kept], torch.ones(len(suffix), dtype=torch.float64)))
            for row, kept in zip(found.confidence, is_said, strict=True)
        ]
        lengths = [length + len(suffix) for length in found.lengths.tolist()] if is_whole else map(len, answers)
        width = max(lengths, default=sampler.canvas_length + len(suffix))
        tails = torch.full((num_rows, width), asked.pad_token_id, device=device)
        for row, answer in enumerate(answers):
            tails[row, : len(answer)] = answer
        sequences = torch.cat((input_ids, tails), dim=1)
        if streamer is not None:
            streamer.put(input_ids.cpu())
            streamer.put(answers[0].cpu())
            streamer.end()
        if not return_dict_in_generate:
            return sequences
        texts = found.texts
        if texts is not None and len(suffix):
            texts = [text + decode(suffix.tolist()) for text in texts]
        return SamplerOutput(
            sequences=sequences,
            answers=answers,
            confidence=confidence,
            texts=texts,
            order=found.order,
            num_forwards=found.num_forwards,
        )
