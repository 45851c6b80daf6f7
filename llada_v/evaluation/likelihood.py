"""How likely an answer is: LLaDA's estimate from exact-count masks, its Monte-Carlo error, and the exact value.

For an answer r of l tokens behind a prompt p (arXiv 2502.09992, eq. 6; a lower bound of log p(r | p)):

    log-likelihood = E over k ~ U{1..l} and S ~ U(sets of k positions) of
                     (l / k) * sum over i in S of log p(r_i | p, r with S masked)

Masks depend on the answer's length, their number and the seed, and on nothing else: not on the batch, the order of
requests or the process, and answers of one length are compared under the same masks. Knows tensors and a model, no
tokenizer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch

from ..errors import WrongValue
from ..generation.config import SamplerConfig
from ..generation.sampler import broken_model
from ..sequence import picture_inputs

LEAST_ROUNDS = 8  # independent rounds an error is estimated from


@dataclass(frozen=True)
class Likelihood:
    """One answer's log-likelihood in nats.

    standard_error: of the Monte-Carlo estimate; 0 where every mask was counted.
    num_masks: model rows it took.
    """

    log_likelihood: float
    standard_error: float
    num_masks: int


def all_masks(length: int) -> torch.Tensor:
    """(2^length - 1, length) bool: every mask that hides something."""
    masks = torch.zeros(2**length - 1, length, dtype=torch.bool)
    chosen = (positions for count in range(1, length + 1) for positions in combinations(range(length), count))
    for row, positions in enumerate(chosen):
        masks[row, list(positions)] = True
    return masks


def random_masks(length: int, num_masks: int, seed: int) -> torch.Tensor:
    """(rounds, per round, length) bool: at least `num_masks` masks of exact counts, in independent rounds.

    A round is stratified: its counts stand evenly apart in 1..length from a uniform start, so a round of `length`
    masks has every count once. Each count alone is uniform: half counts round up, where rounding them to even, as
    LLaDA's code does, would prefer even counts.
    """
    per_round = max(1, min(length, num_masks // LEAST_ROUNDS))
    rounds = max(2, -(-num_masks // per_round))
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, length, (rounds, 1), generator=generator)
    apart = torch.arange(per_round, dtype=torch.float64) * length / per_round
    counts = (start + (apart + 0.5).floor().long()) % length + 1  # (rounds, per round)
    ranks = torch.rand(rounds, per_round, length, generator=generator).argsort(-1).argsort(-1)
    return ranks < counts[..., None]


def log_likelihoods(
    model,
    inputs: Mapping[str, torch.Tensor],
    answers: list[list[int]],
    prompt_of: list[int] | None = None,
    num_masks: int = 128,
    batch_size: int = 32,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[Likelihood]:
    """The log-likelihood of each answer.

    inputs: input_ids (B, L) padded on the left, attention_mask and pictures, as the processor makes them.
    answers: lists of ids. prompt_of: the prompt of each, an index into B; None: one answer a prompt, in order.
    num_masks: model rows for an answer; where that is enough for all 2^l - 1 masks, they are counted instead and the
        value is exact. batch_size: rows in one forward pass, of any answers.
    progress: called with the number of rows just computed.
    Raises ValueError for an empty answer, fewer than two masks, or a model that gives NaN or inf.
    """
    if num_masks < 2:
        raise WrongValue(f"num_masks is {num_masks}; an error can be estimated from at least 2 masks")
    for row, answer in enumerate(answers):
        if not answer:
            raise WrongValue(f"answer {row} has no tokens; its likelihood is not defined")
    plans = []
    for answer in answers:
        is_few = 2 ** len(answer) - 1 <= num_masks
        plans.append(all_masks(len(answer)) if is_few else random_masks(len(answer), num_masks, seed))
    flat = [plan.reshape(-1, plan.shape[-1]) for plan in plans]
    prompt_of = list(range(len(answers))) if prompt_of is None else prompt_of
    sums = masked_log_probabilities(model, inputs, answers, prompt_of, flat, batch_size, progress)
    sums = sums.split([len(masks) for masks in flat])
    return [estimate(plan, found) for plan, found in zip(plans, sums, strict=True)]


def exact_log_likelihood(model, inputs: Mapping[str, torch.Tensor], answer: list[int], batch_size: int = 32) -> float:
    """The value that the estimate of one answer converges to, from all 2^l - 1 masks."""
    return log_likelihoods(model, inputs, [answer], num_masks=2 ** max(1, len(answer)), batch_size=batch_size)[
        0
    ].log_likelihood


def estimate(masks: torch.Tensor, sums: torch.Tensor) -> Likelihood:
    """From the masks of one answer, all of them (n, l) or random (rounds, per round, l), and each one's summed
    log-probabilities (n,)."""
    length = masks.shape[-1]
    counts = masks.sum(-1)
    values = sums.view(counts.shape) * length / counts
    if masks.dim() == 2:
        sizes = torch.tensor([comb(length, count) for count in counts.tolist()], dtype=torch.float64)
        return Likelihood((values / (length * sizes)).sum().item(), 0.0, len(masks))
    rounds = values.mean(1)
    return Likelihood(rounds.mean().item(), (rounds.std() / len(rounds) ** 0.5).item(), values.numel())


@torch.no_grad()
def masked_log_probabilities(
    model,
    inputs: Mapping[str, torch.Tensor],
    answers: list[list[int]],
    prompt_of: list[int],
    masks: list[torch.Tensor],
    batch_size: int,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """(N,) float64 on the CPU: for every mask of every answer, in order, the summed log-probability of what it hides.

    masks: per answer (n, l) bool. The softmax is over the whole vocabulary, as in training.
    """
    device, mask_id = model.device, model.config.mask_token_id
    prompts = model.model.embed(inputs["input_ids"], features_of(model, inputs))  # (B, L, D)
    embed_tokens = model.get_input_embeddings()
    width = max(map(len, answers))
    ids = torch.full((len(answers), width), model.config.pad_token_id, device=device)
    is_real = torch.zeros(len(answers), width, dtype=torch.bool, device=device)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = torch.tensor(answer, device=device)
        is_real[row, : len(answer)] = True
    owner = torch.repeat_interleave(torch.arange(len(answers)), torch.tensor([len(plan) for plan in masks])).to(device)
    hidden = torch.cat([torch.nn.functional.pad(plan, (0, width - plan.shape[1])) for plan in masks]).to(device)
    prompt_at = torch.tensor(prompt_of, device=device)
    sums = []
    for rows, is_masked in zip(owner.split(batch_size), hidden.split(batch_size), strict=True):
        behind = embed_tokens(ids[rows].masked_fill(is_masked, mask_id))
        in_front = inputs["attention_mask"][prompt_at[rows]].bool()
        logits = model(
            inputs_embeds=torch.cat((prompts[prompt_at[rows]], behind), dim=1),
            attention_mask=torch.cat((in_front, is_real[rows]), dim=1),
            logits_at=torch.cat((torch.zeros_like(in_front), is_masked), dim=1),
        ).logits.float()  # (M, V)
        losses = torch.nn.functional.cross_entropy(logits, ids[rows][is_masked], reduction="none").double()
        found = losses.new_zeros(len(rows)).index_add_(0, is_masked.nonzero()[:, 0], -losses).cpu()
        if not found.isfinite().all():
            num_broken = int((~found.isfinite()).sum())
            where = f"in {num_broken} of {len(found)} rows, where the log-likelihood of answers is taken"
            raise WrongValue(broken_model(found, where))
        sums.append(found)
        if progress is not None:
            progress(len(rows))
    return torch.cat(sums)


@torch.no_grad()
def are_greedy(
    model,
    inputs: Mapping[str, torch.Tensor],
    answers: list[list[int]],
    prompt_of: list[int] | None = None,
    batch_size: int = 32,
) -> list[bool]:
    """Whether each answer is what the sampler writes on a canvas of just its length, one token a step.

    The arguments are those of `log_likelihoods`. Answers of one length to one prompt are compared with one text.
    """
    prompt_of = list(range(len(answers))) if prompt_of is None else prompt_of
    features = features_of(model, inputs)
    if features is not None:
        counts = (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist()
        features = features.split(counts)
    written: dict[tuple[int, int], list[int]] = {}
    wanted = sorted({(len(answer), prompt) for answer, prompt in zip(answers, prompt_of, strict=True)})
    for length in sorted({length for length, _ in wanted}):
        prompts = [prompt for other, prompt in wanted if other == length]
        for start in range(0, len(prompts), batch_size):
            rows = prompts[start : start + batch_size]
            output = model.generate(
                inputs["input_ids"][rows],
                attention_mask=inputs["attention_mask"][rows],
                image_features=None if features is None else torch.cat([features[row] for row in rows]),
                sampler=SamplerConfig(gen_length=length, stop_token_ids=[]),
                return_dict_in_generate=True,
            )
            written |= {(length, row): found.tolist() for row, found in zip(rows, output.answers, strict=True)}
    return [written[len(answer), prompt] == answer for answer, prompt in zip(answers, prompt_of, strict=True)]


def features_of(model, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """The features (F, D) of the pictures of a batch; None where there are none."""
    pictures = picture_inputs(inputs)
    return model.encode_pictures(**pictures) if pictures else None
