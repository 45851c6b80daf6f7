"""What a step reveals: a candidate for every open position, how sure the model is of it, and which candidates stay.

Plain functions over logits and scores. Letters: R rows, G canvas positions, M open positions, V vocabulary.

A rule ranks the open positions by a score and says how many of the first are revealed; at least one always is:

    rule            score    how many
    top_k           p        the share of this step in the schedule
    threshold       p        all with p > threshold
    factor          p        the largest n with (n + 1) (1 - p_n) < factor
    frechet         p        the largest n with p_1 + .. + p_n - (n - 1) - (1 - p_n) > frechet
    entropy_bound   -h       the largest n with h_1 + .. + h_(n-1) <= entropy_bound
    margin          p - q    all with p - q > margin
    klass           p        all with p > klass and KL < divergence; p - 1 is the score of the others

p: probability of the candidate; q: of the best other token; h: entropy of the position in nats; KL: divergence of its
distribution from that of the step before.
"""

import torch

from .config import SamplerConfig

# Numbers of logits turned to probabilities at a time: temporaries stay a few times as large. 530 positions of LLaDA's
# vocabulary on a device; on a CPU 16 of them, what its caches can hold.
AT_ONCE, AT_ONCE_ON_CPU = 2**26, 2**21
CONVEX_SHIFT = 1 / 3


def reveal_counts(masked: int, steps: int, schedule: str = "linear") -> list[int]:
    """How many of `masked` positions each of `steps` steps reveals.

    "linear": evenly, the remainder first (7 in 3: 3, 2, 2).
    "convex" (arXiv 2505.16839): after the share x of the steps, a x / (1 + (a - 1) x) of the positions is revealed,
        a = 1/3, so that few are revealed while little is known (32 in 4: 3, 5, 8, 16); never less than one a step.
    """
    if schedule == "linear":
        return [masked // steps + (step < masked % steps) for step in range(steps)]
    shares = (CONVEX_SHIFT * step / (steps + (CONVEX_SHIFT - 1) * step) for step in range(1, steps + 1))
    totals = [0, *(max(round(masked * share), min(step, masked)) for step, share in enumerate(shares, start=1))]
    return [after - before for before, after in zip(totals, totals[1:], strict=False)]


def propose(
    logits: torch.Tensor, config: SamplerConfig, generator: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A token for every open position, its probability, and the score by which the rule ranks it, each (M,).

    logits: (M, V) float32, ids that may not be generated already at -inf.
    With temperature 0 the token is the argmax. Otherwise the Gumbel-max trick in the form of arXiv 2409.02908, in
        float64: argmax of exp(logits) / (-ln u)^temperature, u uniform; taken in logarithms, which cannot overflow.
    Probabilities are free of that noise and sums over the vocabulary are in float64, so that two tokens near certainty
        still have an order, as in the original. With remasking "random" the score is a uniform number.
    A score is finite; where the logits are broken it says how: nan, inf, or -inf where no token is left.
    """
    rows = rows_at_once(logits)
    if len(logits) <= rows:
        return propose_chunk(logits, config, generator)
    found = [propose_chunk(part, config, generator) for part in logits.split(rows)]
    tokens, probability, score = (torch.cat(parts) for parts in zip(*found, strict=True))
    return tokens, probability, score


def rows_at_once(logits: torch.Tensor) -> int:
    """How many rows of logits (M, V) are turned to probabilities at a time."""
    return max(1, (AT_ONCE_ON_CPU if logits.is_cpu else AT_ONCE) // logits.shape[1])


def propose_chunk(rows, config, generator):
    """`propose` for a few rows."""
    largest = rows.amax(-1, keepdim=True)
    tokens, probability, score = propose_from(rows, largest, config, generator)
    largest = largest[:, 0].double()
    return tokens, probability, torch.where(largest - largest == 0, score, largest)  # 0 where it is finite


def propose_from(rows, largest, config, generator):
    """Tokens, probabilities and scores, whatever the logits hold. largest: (R, 1) of each row."""
    if config.temperature == 0:
        tokens = rows.argmax(-1)
    else:
        noise = torch.rand(rows.shape, dtype=torch.float64, device=rows.device, generator=generator)
        tokens = (rows.double() - config.temperature * (-noise.log()).log()).argmax(-1)
    # Below the largest, so that the largest counts exactly 1; float32 is as exact here as the logits themselves.
    below = rows - largest
    weights = below.exp()
    total = weights.sum(-1, dtype=torch.float64)
    chosen = below.gather(1, tokens[:, None])[:, 0]
    probability = chosen.double().exp() / total
    if config.remasking == "random":
        return tokens, probability, torch.rand(tokens.shape, device=rows.device, generator=generator).double()
    if config.rule == "entropy_bound":
        mean = (weights * below.clamp_min(torch.finfo(rows.dtype).min)).sum(-1, dtype=torch.float64) / total
        return tokens, probability, mean - total.log()
    if config.rule == "margin":
        best, second = below.topk(2).values.unbind(1)
        other = torch.where(chosen == best, second, best)
        return tokens, probability, probability - other.double().exp() / total
    return tokens, probability, probability


def choose(scores: torch.Tensor, quota: list[int], config: SamplerConfig) -> torch.Tensor:
    """(R, G) bool: the positions that the rule reveals, at least one in every row that has an open one.

    scores: (R, G) float64 from `propose`, -inf where a position is closed.
    quota: R, how many "top_k" reveals.
    """
    ranked, order = scores.sort(dim=1, descending=True, stable=True)
    if config.rule == "top_k":
        return first_of(scores, order, torch.tensor(quota).clamp_min_(1))
    if config.rule == "threshold":
        count = over_threshold(ranked, config.resolved.threshold)
    elif config.rule == "factor":
        count = within_factor(ranked, config.resolved.factor)
    elif config.rule == "frechet":
        count = within_frechet(ranked, config.resolved.frechet)
    elif config.rule == "klass":
        count = over_threshold(ranked, 0.0)  # the scores of the others are not above 0
    elif config.rule == "entropy_bound":
        count = within_entropy(-ranked, config.resolved.entropy_bound)
    else:
        count = over_threshold(ranked, config.resolved.margin)
    return first_of(scores, order, count.clamp_min_(1))


class Before:
    """The distributions of the step before, of every position that was open then: what rule "klass" compares with.

    It holds one copy of a call's logits, (M, V) float32, of each row those of its last call, and nothing older.
    """

    def __init__(self) -> None:
        self.places = torch.zeros(0, dtype=torch.long)  # row and position of each, as one number, ascending
        self.logits: torch.Tensor | None = None

    def divergence(self, logits: torch.Tensor, rows: torch.Tensor, is_open: torch.Tensor) -> torch.Tensor:
        """KL(p_now || p_before) of every open position, (M,) float64 in nats; inf where it was not open before.

        logits: (M, V) float32 at the open positions of the rows (R,), `is_open` (R, G), which are kept from here on.
        Sums are over the tokens that are possible now.
        """
        places = (rows[:, None] * 2**32 + torch.arange(is_open.shape[1]))[is_open]
        found = torch.full(places.shape, torch.inf, dtype=torch.float64, device=logits.device)
        at = torch.searchsorted(self.places, places).clamp_max(len(self.places) - 1)
        was_open = (self.places[at] == places if len(self.places) else torch.zeros_like(places)).bool()
        if self.logits is not None and was_open.any():
            known, earlier = was_open.nonzero()[:, 0].to(logits.device), at[was_open].to(logits.device)
            size = rows_at_once(logits)
            parts = zip(known.split(size), earlier.split(size), strict=True)
            found[known] = torch.cat([divergence(logits[now], self.logits[then]) for now, then in parts])
        self.keep(logits, places, rows)
        return found

    def keep(self, logits: torch.Tensor, places: torch.Tensor, rows: torch.Tensor) -> None:
        """Put these rows' distributions in the place of those that they had."""
        others = ~torch.isin(self.places >> 32, rows)
        if self.logits is not None and others.any():
            places = torch.cat((self.places[others], places))
            logits = torch.cat((self.logits[others.to(logits.device)], logits))
            order = places.argsort()
            places, logits = places[order], logits[order.to(logits.device)]
        self.places, self.logits = places, logits


def divergence(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """sum_v p_v (log p_v - log q_v) of two distributions given as logits (M, V), float64; tokens with p_v = 0 add 0."""
    now, before = now.log_softmax(-1), before.log_softmax(-1)
    shares = now.exp()
    return torch.where(shares > 0, shares * (now - before), 0.0).sum(-1, dtype=torch.float64)


def steady_score(probability: torch.Tensor, changed: torch.Tensor, config: SamplerConfig) -> torch.Tensor:
    """The score of rule "klass" (arXiv 2511.05664, with the last step as the whole history): a token may be revealed if

        p > tau  and  KL(p_now || p_before) < epsilon

    tau: `klass`; epsilon: `divergence`; changed: (M,) the divergences. Those that may score p, the others p - 1, which
    is not above 0 and still ranks them by p: where none may be revealed, the surest one is.
    """
    settings = config.resolved
    is_steady = (probability > settings.klass) & (changed < settings.divergence)
    return torch.where(is_steady, probability, probability - 1)


def over_threshold(ranked: torch.Tensor, threshold: float) -> torch.Tensor:
    """How many are surer than the threshold: p as in arXiv 2505.22618, or the margin p - q of arXiv 2502.06768."""
    return (ranked > threshold).sum(1)


def within_factor(probability: torch.Tensor, factor: float) -> torch.Tensor:
    """The largest n with (n + 1) (1 - p_n) < factor, p descending (arXiv 2505.22618).

    With factor 1, tokens that are all that sure one by one are also the most probable ones together.
    """
    n = torch.arange(1, probability.shape[1] + 1, device=probability.device)
    return ((n + 1) * (1 - probability) < factor).sum(1)


def within_frechet(probability: torch.Tensor, delta: float) -> torch.Tensor:
    """The largest n with L_n - (1 - p_n) > delta, L_n = p_1 + .. + p_n - (n - 1), p descending (arXiv 2606.02955).

    L_n is Frechet's lower bound of the probability that all n tokens are right together, whatever they have to do with
    each other. Where all are equally sure this is the rule `factor` with factor 1 - delta; where the first are surer it
    counts what they leave over, so it reveals more.
    """
    n = torch.arange(1, probability.shape[1] + 1, device=probability.device)
    return (probability.cumsum(1) - (n - 1) - (1 - probability) > delta).sum(1)


def within_entropy(entropy: torch.Tensor, bound: float) -> torch.Tensor:
    """The largest n with sum(h_1 .. h_n) - max(h_1 .. h_n) <= bound, h ascending (arXiv 2505.24857).

    That difference bounds what n tokens can tell about each other. Closed positions have h = inf and never count.
    """
    return (entropy.cumsum(1) - entropy <= bound).sum(1)


def first_of(scores: torch.Tensor, order: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """(R, G) bool: the first `count` (R,) positions of each row in its `order` (R, G), the closed ones left out."""
    is_first = torch.arange(scores.shape[1], device=scores.device) < count[:, None]
    return torch.empty_like(is_first).scatter_(1, order, is_first).logical_and_(scores > -torch.inf)
