"""What a step reveals: a candidate for every open position, its confidence, and which candidates stay.

Plain functions over logits. Letters: B rows, G canvas positions, M open positions, V vocabulary.
"""

import torch

CHUNK = 16  # rows of logits turned to float64 at a time: the temporary stays CHUNK x V


def reveal_counts(masked: int, steps: int) -> list[int]:
    """How many of `masked` positions each of `steps` steps reveals: evenly, the remainder first (7 in 3: 3, 2, 2)."""
    return [masked // steps + (step < masked % steps) for step in range(steps)]


def propose(
    logits: torch.Tensor, temperature: float, remasking: str, generator: torch.Generator | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token for every open position and how sure the model is of it, both (M,).

    logits: (M, V) float32, ids that may not be generated already at -inf.
    temperature: 0 takes the argmax. Otherwise the Gumbel-max trick in the form of arXiv 2409.02908, in float64:
        argmax of exp(logits) / (-ln u)^temperature, u uniform; taken in logarithms, which cannot overflow.
    remasking: "low_confidence": the noise-free probability of the token, float64 as in the original, so that
        two tokens near certainty still have an order; "random": a uniform number.
    """
    tokens, confidence = [], []
    for rows in logits.split(CHUNK):
        exact = rows.double()
        if temperature == 0:
            chosen = rows.argmax(-1)
        else:
            noise = torch.rand(exact.shape, dtype=torch.float64, device=exact.device, generator=generator)
            chosen = (exact - temperature * (-noise.log()).log()).argmax(-1)
        tokens.append(chosen)
        if remasking == "low_confidence":
            confidence.append((exact.gather(1, chosen[:, None])[:, 0] - exact.logsumexp(-1)).exp())
        else:
            confidence.append(torch.rand(chosen.shape, device=exact.device, generator=generator).double())
    return torch.cat(tokens), torch.cat(confidence)


def most_confident(confidence: torch.Tensor, count: int) -> torch.Tensor:
    """(B, G) bool: the `count` most confident positions of each row; closed positions are -inf and never chosen."""
    top = confidence.topk(min(count, confidence.shape[1]), dim=1).indices
    chosen = torch.zeros_like(confidence, dtype=torch.bool).scatter(1, top, True)
    return chosen & (confidence > -torch.inf)


def first_stop(canvas: torch.Tensor, stops: list[torch.Tensor]) -> torch.Tensor:
    """(B,) where the earliest stop sequence starts in each row of the canvas (B, G); G where there is none."""
    length = canvas.shape[1]
    first = torch.full((canvas.shape[0],), length, device=canvas.device)
    index = torch.arange(length, device=canvas.device)
    for stop in stops:
        found = (canvas.unfold(1, len(stop), 1) == stop).all(-1)  # (B, G - len + 1)
        starts = torch.where(found, index[: found.shape[1]], length)
        first = torch.minimum(first, starts.amin(1))
    return first
