"""The head's loss in chunks: the same loss and gradients as a literal loop, and never all logits at once."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llada_v import head as head_module
from llada_v.head import LladaHead

POSITIONS, WIDTH, VOCABULARY = 37, 24, 101


@pytest.fixture(params=[1, 5 * VOCABULARY, 2**26], ids=["one position", "five positions", "one chunk"])
def chunk(request, monkeypatch):
    """The number of logits that may be there at once; the last of the chunks of five has two positions."""
    monkeypatch.setattr(head_module, "LOGITS_AT_ONCE", request.param)


def example(dtype=torch.float32):
    """A head, hidden states, targets and weights."""
    torch.manual_seed(0)
    head = LladaHead(WIDTH, VOCABULARY).to(dtype)
    hidden = (3 * torch.randn(POSITIONS, WIDTH)).to(dtype).requires_grad_()
    return head, hidden, torch.randint(VOCABULARY, (POSITIONS,)), torch.rand(POSITIONS)


def literal_loss(head, hidden, targets, weights):
    """One position after the other, in float64."""
    total = 0.0
    for position in range(POSITIONS):
        logits = head.weight.double() @ hidden[position].double()
        total = total - weights[position].double() * logits.log_softmax(-1)[targets[position]]
    return total


def gradients(loss, hidden, head):
    return torch.autograd.grad(loss, (hidden, head.weight))


def difference(found, expected) -> float:
    """The largest difference, relative to the largest value."""
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


def test_loss_and_gradients_are_those_of_a_literal_loop(chunk):
    head, hidden, targets, weights = example()
    expected, found = literal_loss(head, hidden, targets, weights), head(hidden, targets, weights)
    assert difference(found, expected) < 1e-6
    for ours, reference in zip(gradients(3 * found, hidden, head), gradients(3 * expected, hidden, head), strict=True):
        assert ours.dtype == torch.float32
        assert difference(ours, reference) < 1e-6


@pytest.mark.parametrize("kind", ["bfloat16 weights", "autocast"])
def test_bfloat16_costs_no_more_than_a_linear_in_bfloat16_would(chunk, kind):
    head, hidden, targets, weights = example(torch.bfloat16 if kind == "bfloat16 weights" else torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        found, logits = head(hidden, targets, weights), head(hidden)
        plain = (torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none") * weights).sum()
    expected = literal_loss(head, hidden, targets, weights)
    assert found.dtype == torch.float32 and difference(found, plain) < 1e-6
    exact = gradients(expected, hidden, head)
    for ours, usual, true in zip(gradients(found, hidden, head), gradients(plain, hidden, head), exact, strict=True):
        assert ours.dtype == usual.dtype
        assert difference(ours, true) <= 1.5 * difference(usual, true)


def test_frozen_inputs_get_no_gradient():
    head, hidden, targets, weights = example()
    head.weight.requires_grad = False
    assert torch.autograd.grad(head(hidden, targets, weights), hidden)[0].abs().max() > 0
    head.weight.requires_grad = True
    head(hidden.detach(), targets, weights).backward()
    assert head.weight.grad.abs().max() > 0
    with torch.no_grad():
        assert torch.isfinite(head(hidden, targets, weights))


def test_without_positions_the_loss_is_nought_and_still_reaches_the_weights():
    head, hidden, targets, weights = example()
    loss = head(hidden[:0], targets[:0], weights[:0])
    loss.backward()
    assert loss == 0 and hidden.grad.abs().max() == 0 and head.weight.grad.abs().max() == 0


def test_a_second_backward_pass_is_refused():
    head, hidden, targets, weights = example()
    loss = head(hidden, targets, weights)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="used up by an earlier backward pass"):
        loss.backward()


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor that anything makes has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


def test_all_logits_are_never_there_at_once(monkeypatch):
    monkeypatch.setattr(head_module, "LOGITS_AT_ONCE", 5 * VOCABULARY)
    head, hidden, targets, weights = example()
    with LargestTensor() as largest:
        gradients(head(hidden, targets, weights), hidden, head)
    assert largest.numbers == WIDTH * VOCABULARY  # the head's own gradient
    with LargestTensor() as largest:
        head(hidden)
    assert largest.numbers == POSITIONS * VOCABULARY
