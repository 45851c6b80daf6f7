"""A model that gives NaN or infinite logits ends every door with one error, and no loop runs for ever."""

import math

import pytest
import torch

from llada_v import LladaVForConditionalGeneration, SamplerConfig
from llada_v.evaluation.likelihood import are_greedy, log_likelihoods
from llada_v.generation.config import CACHES, RULES
from llada_v.generation.sampler import sample
from llada_v.toyworld.judge import judge

MASK, VOCABULARY = 0, 32
BROKEN = {"NaN": math.nan, "inf": math.inf, "-inf": -math.inf}


def breaking(value: float, after: int = 0, row: int | None = None):
    """Logits of which one token, or all where it is -inf, is `value` after so many calls; in one row or in all."""
    calls = 0

    def logits_of(call):
        nonlocal calls
        calls += 1
        places = call.is_open.nonzero()[:, 0]
        logits = torch.rand(len(places), VOCABULARY, generator=torch.Generator().manual_seed(calls))
        logits[:, MASK] = -math.inf
        if calls > after:
            hit = torch.ones(len(places), dtype=torch.bool) if row is None else call.rows[places] == row
            logits[hit, slice(None) if value == -math.inf else 3] = value
        return logits

    return logits_of


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("rule", RULES)
def test_a_broken_logit_ends_every_rule_with_one_error(rule, kind):
    config = SamplerConfig(gen_length=8, rule=rule)
    with pytest.raises(ValueError, match=rf"{kind} .*in 2 of 2 rows, after 0 steps.*float16"):
        sample(breaking(BROKEN[kind]), 2, config, MASK, [])


@pytest.mark.parametrize(
    "settings",
    [
        {"remasking": "random"},
        {"temperature": 1.0},
        {"temperature": 0.7, "rule": "margin"},
        {"lookahead": 2},
        {"block_length": 4},
        {"gen_length": "auto", "max_gen_length": 16, "block_length": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", BROKEN)
def test_and_so_it_is_however_tokens_are_chosen(settings, kind):
    config = SamplerConfig(**{"gen_length": 8} | settings)
    with pytest.raises(ValueError, match=f"{kind} "):
        sample(breaking(BROKEN[kind]), 2, config, MASK, [[1]], torch.Generator())


def test_the_error_counts_rows_and_steps():
    with pytest.raises(ValueError, match="in 1 of 3 rows, after 2 steps"):
        sample(breaking(math.nan, after=2, row=1), 3, SamplerConfig(gen_length=8), MASK, [])


def test_a_draft_that_is_never_taken_breaks_nothing():
    """Only what the sampler without lookahead would have seen counts."""

    def logits_of(call):
        """The token at every position is the number of masks, so a draft, made of the call before, holds it twice."""
        rows = call.is_open.nonzero()[:, 0]
        logits = torch.zeros(len(rows), VOCABULARY)
        logits[torch.arange(len(rows)), (call.canvas == MASK).sum(1)[rows]] = 5.0
        held = [[token for token in row if token != MASK] for row in call.canvas.tolist()]
        is_draft = torch.tensor([len(set(tokens)) < len(tokens) for tokens in held])
        drafts.append(int(is_draft.sum()))
        logits[is_draft[rows]] = math.nan
        return logits

    drafts = []
    plain, ahead = (sample(logits_of, 1, SamplerConfig(gen_length=6, lookahead=n), MASK, []) for n in (0, 2))
    assert torch.equal(plain.canvas, ahead.canvas) and sum(drafts) > 0


def test_looking_for_it_costs_no_second_transfer(monkeypatch):
    transfers = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: transfers.append(1) or cpu(self))
    found = sample(breaking(0.0), 2, SamplerConfig(gen_length=8, steps=4), MASK, [])
    assert len(transfers) == found.num_forwards == 4


# With a model


@pytest.fixture(scope="module")
def broken_model(tiny_folder):
    """The tiny model with one NaN in its last norm, as a run that diverged leaves it."""
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder).requires_grad_(False).eval()
    model.model.language_model.norm.weight[0] = math.nan
    return model


def inputs_of(processor, text="What?"):
    message = {"role": "user", "content": text}
    return processor.apply_chat_template(
        [message], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


@pytest.mark.parametrize("cache", CACHES)
def test_a_diverged_model_is_named_by_generate(broken_model, tiny_processor, cache):
    with pytest.raises(ValueError, match="NaN .*in 1 of 1 rows, after 0 steps"):
        broken_model.generate(**inputs_of(tiny_processor), sampler=SamplerConfig(gen_length=8, cache=cache))


def test_a_diverged_model_is_named_by_the_judge(broken_model, tiny_processor):
    with pytest.raises(ValueError, match="NaN .*rows, after 0 steps"):
        judge(broken_model, tiny_processor, 7)


def test_a_diverged_model_has_no_likelihoods(broken_model, tiny_processor):
    inputs = inputs_of(tiny_processor)
    with pytest.raises(ValueError, match="NaN .*log-likelihood.*float16"):
        log_likelihoods(broken_model, inputs, [[40, 41]])
    with pytest.raises(ValueError, match="NaN "):
        are_greedy(broken_model, inputs, [[40, 41]])


def test_a_head_of_nothing_is_named(tiny_model, tiny_processor, monkeypatch):
    head = tiny_model.lm_head.forward
    monkeypatch.setattr(tiny_model.lm_head, "forward", lambda hidden: torch.full_like(head(hidden), -math.inf))
    with pytest.raises(ValueError, match="-inf "):
        tiny_model.generate(**inputs_of(tiny_processor), sampler=SamplerConfig(gen_length=8))


def test_float16_that_overflows_is_named(tiny_folder, tiny_processor):
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float16).requires_grad_(False)
    model.model.language_model.layers[0].mlp.down_proj.weight *= 1e6
    with pytest.raises(ValueError, match="(NaN|inf) .*float16"):
        model.generate(**inputs_of(tiny_processor), sampler=SamplerConfig(gen_length=8))
