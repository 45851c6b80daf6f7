"""The head: logits where asked, or their weighted cross entropy without ever holding all of them.

    loss = sum_i  w_i (log sum_v exp(h_i . W_v) - h_i . W_{target_i})

The gradient of each chunk of positions is taken while its logits are there, so nothing is computed twice and no tensor
of M x V is made. Letters: M positions, D width, V vocabulary.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 2**26  # numbers in one chunk of logits: 256 MiB in float32, 530 positions of LLaDA's vocabulary


class LladaHead(nn.Linear):
    """(..., D) -> logits (..., V). With `targets` and `weights`: the scalar loss above, float32."""

    def __init__(self, hidden_size: int, vocab_size: int):
        super().__init__(hidden_size, vocab_size, bias=False)

    def forward(self, hidden, targets=None, weights=None):
        """hidden: (M, D) where there are targets (M,), ids, with weights (M,); otherwise of any leading shape."""
        if targets is None:
            return super().forward(hidden)
        return WeightedCrossEntropy.apply(hidden, self.weight, targets, weights)


def adapted_loss(head, hidden, targets, weights) -> torch.Tensor:
    """The same loss of a head inside a layer of peft's, which takes states alone: chunks of logits, made twice."""

    def loss_of(states, target, share):
        return (cross_entropy(head(states).float(), target, reduction="none") * share.float()).sum()

    rows = max(1, LOGITS_AT_ONCE // head.get_base_layer().out_features)
    parts = zip(hidden.split(rows), targets.split(rows), weights.split(rows), strict=True)
    return torch.stack([checkpoint(loss_of, *part, use_reentrant=False) for part in parts]).sum()


class WeightedCrossEntropy(torch.autograd.Function):
    """hidden (M, D), weight (V, D), targets (M,), weights (M,) -> scalar, with gradients of the first two.

    Products are in the dtype that a Linear would use (autocast's, else that of `hidden`), softmax and sums in float32.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, weights):
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        rows = max(1, LOGITS_AT_ONCE // weight.shape[0])
        is_one_chunk = hidden.shape[0] <= rows
        grad_hidden = torch.zeros_like(hidden) if wants_hidden else None
        # Several chunks are summed in float32: in bfloat16 each sum would round what the ones before it gave.
        sum_dtype = weight.dtype if is_one_chunk else torch.float32
        grad_weight = torch.zeros_like(weight, dtype=sum_dtype) if wants_weight else None
        loss = torch.zeros((), device=hidden.device)
        with torch.autocast(device, enabled=False):
            head = weight.to(dtype)
            for start in range(0, hidden.shape[0], rows):
                at = slice(start, start + rows)
                states, target, share = hidden[at].to(dtype), targets[at, None], weights[at, None].float()
                logits = (states @ head.T).float()  # (rows, V)
                normalizer = logits.logsumexp(-1, keepdim=True)
                loss += ((normalizer - logits.gather(1, target)) * share).sum()
                if not (wants_hidden or wants_weight):
                    continue
                slope = logits.sub_(normalizer).exp_().mul_(share).scatter_add_(1, target, -share).to(dtype)
                if wants_hidden:
                    grad_hidden[at] = slope @ head
                if wants_weight:
                    grad_weight += slope.T @ states
        ctx.gradients = grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss):
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss were used up by an earlier backward pass")
        gradients, ctx.gradients = ctx.gradients, None
        # In place: the head's gradient is the largest tensor of the whole step.
        grad_hidden, grad_weight = (None if grad is None else grad.mul_(grad_loss) for grad in gradients)
        return grad_hidden, grad_weight, None, None
