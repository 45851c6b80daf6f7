"""The rules of a step: how many tokens each reveals, what it ranks them by, and that it always goes on."""

import math

import pytest
import torch

from llada_v import SamplerConfig
from llada_v.generation.reveal import Before, choose, divergence, propose, reveal_counts, steady_score
from llada_v.generation.sampler import sample

MASK, VOCABULARY = 0, 32
PARALLEL = ("threshold", "factor", "frechet", "entropy_bound", "margin")


def revealed(rule, scores, quota=1, **settings):
    """The positions that a rule reveals of one row."""
    scores = torch.tensor([scores], dtype=torch.float64)
    config = SamplerConfig(gen_length=scores.shape[1], rule=rule, **settings)
    return choose(scores, [quota], config)[0].nonzero()[:, 0].tolist()


def score_of(rule, shares, temperature=0.0, token=None, **settings):
    """The score that a rule gives to a position whose tokens have these probabilities."""
    logits = torch.tensor([shares]).log()
    config = SamplerConfig(gen_length=1, rule=rule, temperature=temperature, **settings)
    return propose(logits, config, torch.Generator().manual_seed(0))[2].item()


@pytest.mark.parametrize(
    "masked, steps, counts",
    [
        (32, 4, [3, 5, 8, 16]),
        (12, 3, [2, 3, 7]),
        (4, 4, [1, 1, 1, 1]),
        (4, 6, [1, 1, 1, 1, 0, 0]),
        (7, 1, [7]),
        (9, 8, [1, 1, 1, 1, 1, 1, 1, 2]),
    ],
)
def test_the_convex_schedule_reveals_few_first_and_more_later(masked, steps, counts):
    assert reveal_counts(masked, steps, "convex") == counts


def test_the_convex_schedule_reveals_everything_never_nothing_and_never_more_than_the_linear_one_so_far():
    for masked in range(1, 40):
        for steps in range(1, masked + 1):
            counts, linear = reveal_counts(masked, steps, "convex"), reveal_counts(masked, steps)
            assert sum(counts) == masked and min(counts) >= 1
            assert all(sum(counts[:step]) <= sum(linear[:step]) for step in range(steps))


def test_top_k_reveals_its_share():
    assert revealed("top_k", [0.1, 0.9, 0.5, 0.8], quota=2) == [1, 3]


def test_of_equals_the_one_further_left_is_revealed():
    assert revealed("top_k", [0.5, 0.9, 0.9, 0.9], quota=2) == [1, 2]


def test_threshold_reveals_all_that_are_surer():
    assert revealed("threshold", [0.95, 0.9, 0.2, 0.91], threshold=0.9) == [0, 3]


def test_factor_reveals_the_most_that_stay_under_the_bound():
    # (n + 1) (1 - p_n): 2 x 1/32, 3 x 1/8, 4 x 1/4, 5 x 1/2
    shares = [0.5, 31 / 32, 0.75, 0.875]
    assert revealed("factor", shares, factor=1.5) == [1, 2, 3]
    assert revealed("factor", shares, factor=1.0) == [1, 3]  # the bound itself is not under it


def test_frechet_reveals_the_most_whose_joint_probability_has_a_bound_above_the_rest():
    # L_n - (1 - p_n): 31/32 - 1/32, 27/32 - 1/8, 19/32 - 1/4, 3/32 - 1/2
    shares = [0.5, 31 / 32, 0.75, 0.875]
    assert revealed("frechet", shares, frechet=0.25) == [1, 2, 3]
    assert revealed("frechet", shares, frechet=11 / 32) == [1, 3]  # the bound itself is not above it


@pytest.mark.parametrize("sureness", [0.7, 0.91, 0.97, 0.99])
@pytest.mark.parametrize("delta", [0.0, 0.25, 0.6])
def test_frechet_is_the_factor_rule_where_all_are_equally_sure(sureness, delta):
    shares = [sureness] * 12
    assert revealed("frechet", shares, frechet=delta) == revealed("factor", shares, factor=1 - delta)


@pytest.mark.parametrize("seed", range(5))
def test_frechet_never_reveals_fewer_than_the_factor_rule(seed):
    shares = torch.rand(16, generator=torch.Generator().manual_seed(seed)).pow(0.05).tolist()
    more, fewer = revealed("frechet", shares, frechet=0.25), revealed("factor", shares, factor=0.75)
    assert set(fewer) <= set(more)


def test_entropy_bound_reveals_the_set_whose_sum_without_its_largest_stays_within():
    # Ascending 1/8, 1/4, 1/2, 2; sums before each: 0, 1/8, 3/8, 7/8.
    scores = [-0.5, -2.0, -0.125, -0.25]
    assert revealed("entropy_bound", scores, entropy_bound=0.375) == [0, 2, 3]
    assert revealed("entropy_bound", scores, entropy_bound=0.875) == [0, 1, 2, 3]


def test_margin_reveals_all_that_stand_out():
    assert revealed("margin", [0.3, 0.6, -0.1, 0.51], margin=0.5) == [1, 3]


@pytest.mark.parametrize("rule", PARALLEL)
def test_a_rule_that_none_satisfies_reveals_the_surest(rule):
    unsure = {"entropy_bound": [-5.0, -4.0, -4.5]}.get(rule, [0.1, 0.3, 0.2])
    strict = {"threshold": 1.0, "factor": 0.0, "frechet": 1.0, "entropy_bound": 0.0, "margin": 1.0}[rule]
    assert revealed(rule, unsure, **{rule: strict}) == [1]


@pytest.mark.parametrize("rule", ("top_k", *PARALLEL))
def test_closed_positions_are_never_revealed(rule):
    lenient = {"threshold": 0.0, "factor": 1e6, "frechet": 0.0, "entropy_bound": 1e6, "margin": 0.0}
    settings = {rule: lenient[rule]} if rule in lenient else {}
    assert revealed(rule, [-math.inf, 0.5, -math.inf], quota=3, **settings) == [1]
    assert revealed(rule, [-math.inf] * 3, quota=3, **settings) == []


def test_each_row_has_its_own_count():
    scores = torch.tensor([[0.1, 0.3, 0.2], [0.1, 0.3, 0.2], [-math.inf, 0.3, -math.inf]])
    chosen = choose(scores, [1, 2, 3], SamplerConfig(gen_length=3))
    assert chosen.tolist() == [[False, True, False], [False, True, True], [False, True, False]]


SHARES = [0.5, 0.3, 0.2]


@pytest.mark.parametrize(
    "rule, score",
    [
        ("top_k", 0.5),
        ("threshold", 0.5),
        ("factor", 0.5),
        ("frechet", 0.5),
        ("margin", 0.2),
        ("entropy_bound", sum(p * math.log(p) for p in SHARES)),
    ],
)
def test_a_rule_ranks_by_its_own_score(rule, score):
    assert score_of(rule, SHARES) == pytest.approx(score, abs=1e-6)
    # A forbidden token changes neither margin nor entropy.
    assert score_of(rule, [*SHARES, 0.0]) == pytest.approx(score, abs=1e-6)


def test_the_margin_of_a_sampled_token_is_its_lead_over_the_best_other():
    logits = torch.tensor(SHARES).log().expand(200, 3)
    config = SamplerConfig(gen_length=1, rule="margin", temperature=1.0)
    tokens, probability, score = propose(logits, config, torch.Generator().manual_seed(0))
    assert set(tokens.tolist()) == {0, 1, 2}
    lead = torch.tensor([0.2, -0.2, -0.3], dtype=torch.float64)
    assert torch.allclose(score, lead[tokens], atol=1e-6)
    assert torch.allclose(probability, torch.tensor(SHARES, dtype=torch.float64)[tokens], atol=1e-6)


def test_confidence_stays_a_probability_whatever_ranks_the_tokens():
    for settings in ({"rule": "entropy_bound"}, {"rule": "margin"}, {"remasking": "random"}):
        config = SamplerConfig(gen_length=1, **settings)
        probability = propose(torch.tensor([SHARES]).log(), config, None)[1]
        assert probability.item() == pytest.approx(0.5)


@pytest.mark.parametrize("rule", PARALLEL)
def test_an_answer_is_complete_under_every_rule(rule):
    """Logits that differ from call to call: sometimes all are sure, sometimes none."""
    generator = torch.Generator().manual_seed(0)

    def logits_of(call):
        sharpness = 30 * torch.rand((), generator=generator)
        logits = sharpness * torch.rand(int(call.is_open.sum()), VOCABULARY, generator=generator)
        logits[:, MASK] = -math.inf
        return logits

    found = sample(logits_of, 3, SamplerConfig(gen_length=20, block_length=5, rule=rule), MASK, [])
    assert MASK not in found.canvas
    assert all(sorted(sum((step[row] for step in found.order), [])) == list(range(20)) for row in range(3))
    assert found.num_forwards <= 20


@pytest.mark.parametrize("rule", PARALLEL)
def test_a_sure_model_answers_in_one_step_a_block(rule):
    def logits_of(call):
        logits = torch.zeros(int(call.is_open.sum()), VOCABULARY)
        logits[:, 7] = 30.0
        return logits

    found = sample(logits_of, 1, SamplerConfig(gen_length=12, block_length=4, rule=rule), MASK, [])
    assert [step[0] for step in found.order] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


# KLASS


def table_of(seed, length=10, vocabulary=12):
    """Logits of a row by canvas and position: they drift as more is revealed, some quickly and some hardly."""
    chance = torch.Generator().manual_seed(seed)
    base, drift = (torch.randn(length, vocabulary, generator=chance) for _ in range(2))
    base, pace = 6 * base, torch.rand(length, 1, generator=chance) ** 3

    def logits_at(canvas):
        logits = base + pace * drift * (canvas != MASK).sum()
        logits[:, MASK] = -torch.inf
        return logits

    return logits_at


def plain_klass(logits_at, length, tau, epsilon, block=None):
    """The rule as it is written, for one row: the positions of each step."""
    canvas, before, order = torch.full((length,), MASK), {}, []
    while (canvas == MASK).any():
        first = int((canvas == MASK).nonzero()[0]) // (block or length) * (block or length)
        places = [i for i in range(first, min(length, first + (block or length))) if canvas[i] == MASK]
        now = {i: logits_at(canvas)[i].double().softmax(0) for i in places}
        steady = []
        for i, p in now.items():
            kept = p > 0
            changed = sum(p[kept] * (p[kept] / before[i][kept]).log()) if i in before else math.inf
            steady += [i] * bool(p.max() > tau and changed < epsilon)
        chosen = steady or [max(places, key=lambda i: now[i].max())]
        for i in chosen:
            canvas[i] = now[i].argmax()
        before = now
        order.append(chosen)
    return order


@pytest.mark.parametrize("settings", [{}, {"block_length": 5}, {"cache": "prompt"}], ids=str)
def test_klass_reveals_what_its_equation_says_in_every_row_of_a_batch(settings):
    tables = [table_of(seed) for seed in range(6)]

    def logits_of(call):
        parts = zip(call.rows.tolist(), call.canvas, call.is_open, strict=True)
        return torch.cat([tables[row](canvas)[is_open] for row, canvas, is_open in parts])

    config = SamplerConfig(gen_length=10, rule="klass", klass=0.7, divergence=0.05, **settings)
    found = sample(logits_of, len(tables), config, MASK, [])
    expected = [plain_klass(table, 10, 0.7, 0.05, settings.get("block_length")) for table in tables]
    order = [[step[row] for step in found.order if step[row]] for row in range(len(tables))]
    assert order == expected
    assert len(set(map(len, expected))) > 1 and any(len(step) > 1 for steps in expected for step in steps)


def test_klass_never_reveals_several_at_once_before_there_is_a_step_to_compare_with():
    logits = torch.eye(8)[None, :, :].mul(40)[0]
    rows, is_open = torch.tensor([0]), torch.ones(1, 8, dtype=torch.bool)
    config, before = SamplerConfig(gen_length=8, rule="klass"), Before()
    probability = propose(logits, config, None)[1]
    first = steady_score(probability, before.divergence(logits, rows, is_open), config)
    second = steady_score(probability, before.divergence(logits, rows, is_open), config)
    assert choose(first[None], [1], config).sum() == 1 and choose(second[None], [1], config).sum() == 8


def test_klass_holds_the_logits_of_the_open_positions_and_no_others():
    before = Before()
    for left in (8, 5, 2):
        is_open = torch.arange(8)[None] < left
        before.divergence(torch.randn(2 * left, 4), torch.tensor([0, 1]), is_open.expand(2, -1))
        assert before.logits.shape == (2 * left, 4)
    before.divergence(torch.randn(3, 4), torch.tensor([1]), torch.arange(8)[None] < 3)
    assert before.logits.shape == (5, 4) and before.places.tolist() == sorted(before.places.tolist())


def test_a_divergence_counts_no_token_that_has_become_impossible_and_all_that_have_become_possible():
    now, then = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()
    assert divergence(now, then).item() == pytest.approx(math.log(2))
    assert divergence(then, now).item() == math.inf
