"""The sampling loop: a canvas of masks behind each prompt, revealed in steps, most confident first.

The state is one integer tensor, the canvas (B, G). The loop knows ids, tensors and a callable that gives logits;
`SamplerMixin.generate` is where it meets the model: pictures are encoded and prompts embedded once for an answer,
and a step runs the head for the positions that may be revealed in it, nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from .config import SamplerConfig
from .reveal import first_stop, most_confident, propose, reveal_counts


@dataclass
class SamplerState:
    """What a callback sees after each step. Tensors are the loop's own: read them, do not write.

    canvas: (B, G) ids of the answers; masks where nothing is revealed yet.
    is_masked: (B, G) bool.
    confidence: (B, G) probability of each revealed token when it was revealed; 0 elsewhere.
    revealed: per row, the positions revealed in this step, sorted.
    stop_positions: (B,) where each answer ends so far (G: no stop yet).
    step, num_steps: steps taken, and the most that can be taken.
    """

    canvas: torch.Tensor
    is_masked: torch.Tensor
    confidence: torch.Tensor
    revealed: list[list[int]]
    stop_positions: torch.Tensor
    step: int
    num_steps: int


@dataclass
class SamplerOutput(ModelOutput):
    """The answers of a batch.

    sequences: (B, L + G + suffix) prompt and answer, the answer cut at its stop and padded with EOS.
    answers: per row the answer's ids (n,), up to the stop, any suffix appended.
    order: order[step][row] is the sorted list of answer positions revealed in that step.
    num_forwards: model calls.
    """

    sequences: torch.Tensor | None = None
    answers: list[torch.Tensor] | None = None
    order: list[list[list[int]]] | None = None
    num_forwards: int | None = None


def sample(
    logits_of: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    num_rows: int,
    config: SamplerConfig,
    mask_id: int,
    stops: list[torch.Tensor],
    device: torch.device,
    generator: torch.Generator | None = None,
    callback: Callable[[SamplerState], None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, list[list[list[int]]]]:
    """Reveal the answers of `num_rows` prompts.

    logits_of: (canvas (R, G), rows (R,), open (R, G) bool) -> logits (M, V) float32 at the open positions in order,
        where `rows` are the prompts that still take part.
    Returns the canvas (B, G), where each answer ends (B,), and the order of reveal. A row leaves the batch when its
    answer is complete, and each row's tokens depend on its own prompt only.
    """
    canvas = torch.full((num_rows, config.gen_length), mask_id, device=device)
    confidence = torch.zeros(canvas.shape, dtype=torch.float64, device=device)
    stop_at = torch.full((num_rows,), config.gen_length, device=device)
    is_masked = torch.ones_like(canvas, dtype=torch.bool)
    index = torch.arange(config.gen_length, device=device)
    counts = reveal_counts(config.block_length, config.steps_per_block)
    order: list[list[list[int]]] = []
    for block in range(config.num_blocks):
        block_end = (block + 1) * config.block_length
        for count in counts:
            # Later blocks are closed; so is everything behind a stop, and with it every later block of that row.
            is_open = is_masked & (index < block_end) & (index < stop_at[:, None])
            rows = is_open.any(1).nonzero()[:, 0]
            if not len(rows):
                break
            open_rows = is_open[rows]
            logits = logits_of(canvas[rows], rows, open_rows)
            tokens, sure = propose(logits, config.temperature, config.remasking, generator)
            scores = torch.full(open_rows.shape, -torch.inf, dtype=torch.float64, device=device)
            scores[open_rows] = sure
            chosen = torch.zeros_like(is_masked)
            chosen[rows] = most_confident(scores, count)
            kept = chosen[rows][open_rows]
            canvas[chosen], confidence[chosen] = tokens[kept], sure[kept]
            is_masked &= ~chosen
            stop_at = torch.minimum(stop_at, first_stop(canvas, stops))
            order.append(positions_by_row(chosen))
            if callback is not None:
                callback(SamplerState(canvas, is_masked, confidence, order[-1], stop_at, len(order), config.steps))
    return canvas, stop_at, order


def positions_by_row(chosen: torch.Tensor) -> list[list[int]]:
    """The true positions of each row of a bool tensor (B, G), sorted."""
    found: list[list[int]] = [[] for _ in range(chosen.shape[0])]
    for row, position in chosen.nonzero().tolist():
        found[row].append(position)
    return found


class SamplerMixin:
    """`generate` for a model with `model.embed`, `get_image_features`, `forward(logits_at=...)` and a config of ids."""

    def can_generate(self) -> bool:
        """True: transformers' pipelines ask."""
        return True

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
        return_dict_in_generate: bool = False,
        generation_config=None,
    ) -> torch.Tensor | SamplerOutput:
        """Answer a batch of prompts.

        input_ids: (B, L) prompts, padded on either side, with `attention_mask` (B, L) 1 where a token is real.
        pixel_values, image_sizes, image_layouts: the pictures, as the processor makes them; or `image_features`
            (F, D) from `get_image_features`, to ask many questions about the same pictures.
        sampler: a `SamplerConfig`; or `max_new_tokens` alone, which is its gen_length; or neither, for the length in
            the model's generation_config.json.
        generator: source of random numbers for temperature and random remasking; on the model's device.
        callback: called with a `SamplerState` after each step.
        generation_config: replaces the model's own; transformers' pipelines pass it. Only its max_new_tokens counts.
        Returns sequences (B, L + G), or a `SamplerOutput` with `return_dict_in_generate`.
        Raises ValueError for contradictory settings, a sequence longer than the model's positions, and prompts whose
        placeholders do not match the pictures.
        """
        if sampler is not None and max_new_tokens is not None:
            raise ValueError("give sampler or max_new_tokens, not both: gen_length is a field of the sampler")
        if sampler is None:
            default = (generation_config or self.generation_config).max_new_tokens
            sampler = SamplerConfig(gen_length=default if max_new_tokens is None else max_new_tokens)
        config, device = self.config, input_ids.device
        stops = [[config.eot_token_id]] if sampler.stop_token_ids is None else sampler.stop_token_ids
        suffix = torch.tensor(sampler.suffix_token_ids or [], dtype=torch.long, device=device)
        num_rows, prompt_length = input_ids.shape
        total = prompt_length + sampler.gen_length + len(suffix)
        if total > config.text_config.max_position_embeddings:
            raise ValueError(
                f"prompt {prompt_length} + answer {sampler.gen_length} + suffix {len(suffix)} = {total} tokens, more "
                f"than the model's {config.text_config.max_position_embeddings} positions; "
                "shorten the prompt, the pictures or gen_length"
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, input_ids {tuple(input_ids.shape)}; "
                "they must be equal"
            )

        if image_features is None and pixel_values is not None:
            image_features = self.get_image_features(pixel_values, image_sizes, image_layouts)
        prompt = self.model.embed(input_ids, image_features)  # (B, L, D)
        embed_tokens = self.get_input_embeddings()
        suffix_embeds = embed_tokens(suffix)[None]
        unguided = embed_tokens.weight[config.mask_token_id].expand_as(prompt[:1])
        if attention_mask is not None and not bool(attention_mask.all()):
            behind = attention_mask.new_ones(num_rows, total - prompt_length)
            attention_mask = torch.cat((attention_mask, behind), dim=1)
        else:
            attention_mask = None
        never = torch.tensor(config.never_generated_ids(), device=device)

        def logits_of(canvas, rows, is_open):
            answer = torch.cat((embed_tokens(canvas), suffix_embeds.expand(len(rows), -1, -1)), dim=1)
            embeds = torch.cat((prompt[rows], answer), dim=1)
            mask = None if attention_mask is None else attention_mask[rows]
            wanted = torch.zeros(embeds.shape[:2], dtype=torch.bool, device=device)
            wanted[:, prompt_length : prompt_length + sampler.gen_length] = is_open
            if sampler.cfg_scale:
                embeds = torch.cat((embeds, torch.cat((unguided.expand(len(rows), -1, -1), answer), dim=1)))
                wanted = wanted.repeat(2, 1)
                mask = None if mask is None else mask.repeat(2, 1)
            logits = self(inputs_embeds=embeds, attention_mask=mask, logits_at=wanted).logits.float()
            if sampler.cfg_scale:
                guided, free = logits.chunk(2)
                logits = free + (sampler.cfg_scale + 1) * (guided - free)
            return logits.index_fill_(1, never, -torch.inf)

        canvas, stop_at, order = sample(
            logits_of,
            num_rows,
            sampler,
            config.mask_token_id,
            [torch.tensor(stop, device=device) for stop in stops],
            device,
            generator,
            callback,
        )
        answers = [torch.cat((canvas[row, :end], suffix)) for row, end in enumerate(stop_at.tolist())]
        tails = torch.full((num_rows, total - prompt_length), config.eos_token_id, device=device)
        for row, answer in enumerate(answers):
            tails[row, : len(answer)] = answer
        sequences = torch.cat((input_ids, tails), dim=1)
        if not return_dict_in_generate:
            return sequences
        return SamplerOutput(sequences=sequences, answers=answers, order=order, num_forwards=len(order))
