"""Lossless self-speculation: the next steps are drafted from the last candidates and verified in one model call.

One call scores every candidate, so it also says what the next steps would reveal if nothing changed. The canvases that
these steps would leave are drafted and looked at together with the true one:

    true canvas -> first draft -> second draft -> ...      each the expected outcome of a step from the one before

The true canvas gives the true step. If that leaves the first draft, then the first draft was the true canvas of the
next step, and its own candidates give that step; and so on up to the first draft that is missed. Every step taken is
thus the one that the sampler without lookahead takes (after arXiv 2510.04147 and 2510.00294).
"""

from collections.abc import Callable

import torch


def drafts_of(canvas: torch.Tensor, copies: int, step_of: Callable[[torch.Tensor, int], torch.Tensor]) -> torch.Tensor:
    """(R, copies, G): each canvas (R, G), and the `copies` - 1 canvases that the steps after it are expected to leave.

    step_of: the sampler's own step: canvases (R, G) and how many steps they are ahead -> what it leaves of them.
    """
    drafts = [canvas]
    for ahead in range(copies - 1):
        drafts.append(step_of(drafts[-1], ahead))
    return torch.stack(drafts, dim=1)


def num_verified(drafts: torch.Tensor, after: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """(R,) how many steps may be taken: the true one, and one for each draft in a row that was met.

    after: (R, copies, G) what a step leaves of each of the `drafts`. counted: (R, copies) bool, drafts that were
    looked at.
    """
    met = (after[:, :-1] == drafts[:, 1:]).all(2) & counted[:, 1:]
    return 1 + met.cumprod(1).sum(1)
