"""`generate`: where the sampling loop meets the model.

Pictures are encoded and prompts embedded once for an answer; a reader (`readers`) answers the loop's calls.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ..errors import WrongValue
from .config import SamplerConfig
from .keywords import read_keywords
from .readers import reader_of
from .sampler import Sampled, SamplerOutput, SamplerState, Shape, sample
from .shape import shape_of
from .stops import by_kind
from .template import EachRow
from .token_merging import Prompts, shortened


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
        whole = Prompts(prompt, attention_mask, input_ids == config.image_token_id)
        reader = reader_of(self, shortened(self.model, whole, sampler.merge_features), suffix, sampler)
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
