"""Log-likelihoods: the estimate converges to the exact value of all masks, and its stated error is honest."""

import pytest
import torch

from llada_v import SamplerConfig
from llada_v.answering import DEMO_MODEL, load
from llada_v.evaluation.likelihood import (
    all_masks,
    are_greedy,
    estimate,
    exact_log_likelihood,
    log_likelihoods,
    masked_log_probabilities,
    random_masks,
)
from llada_v.toyworld import heldout_questions


@pytest.fixture(scope="module")
def shipped():
    """The model that ships, and its processor."""
    return load(DEMO_MODEL, "cpu")


def inputs_of(processor, *questions):
    """Prompts of (text, picture or None)."""
    prompts = []
    for text, image in questions:
        content = [{"type": "image", "image": image}] * (image is not None) + [{"type": "text", "text": text}]
        prompts.append([{"role": "user", "content": content}])
    return processor.apply_chat_template(
        prompts, add_generation_prompt=True, return_tensors="pt", tokenize=True, return_dict=True
    )


@pytest.fixture(scope="module")
def asked(tiny_processor):
    """A prompt without a picture, for the model of random weights."""
    return inputs_of(tiny_processor, ("How many objects are there?", None))


def by_hand(model, inputs, answer):
    """The exact value by its definition, one mask at a time: mean over k of the mean over sets of (l / k) sum log p."""
    length, prompt = len(answer), inputs["input_ids"][0]
    by_count = {count: [] for count in range(1, length + 1)}
    for mask in range(1, 2**length):
        hidden = [i for i in range(length) if mask >> i & 1]
        ids = [model.config.mask_token_id if i in hidden else token for i, token in enumerate(answer)]
        logits = model(input_ids=torch.cat((prompt, torch.tensor(ids)))[None]).logits[0, len(prompt) :]
        chances = logits.double().log_softmax(-1)
        by_count[len(hidden)].append(length / len(hidden) * sum(chances[i, answer[i]].item() for i in hidden))
    return sum(sum(values) / len(values) for values in by_count.values()) / length


@torch.no_grad()
def test_all_masks_give_the_value_of_the_definition(tiny_model, asked):
    answer = [40, 300, 41, 1]
    assert exact_log_likelihood(tiny_model, asked, answer) == pytest.approx(
        by_hand(tiny_model, asked, answer), abs=1e-4
    )


def test_a_single_token_has_the_log_probability_of_the_sampler(tiny_model, asked):
    found = log_likelihoods(tiny_model, asked, [[77]])[0]
    canvas = torch.tensor([[*asked["input_ids"][0].tolist(), tiny_model.config.mask_token_id]])
    expected = tiny_model(input_ids=canvas).logits[0, -1].log_softmax(-1)[77].item()
    assert found.log_likelihood == pytest.approx(expected, abs=1e-5)
    assert (found.standard_error, found.num_masks) == (0.0, 1)


def test_short_answers_are_exact_and_cost_no_more_masks_than_allowed(tiny_model, asked):
    short, long = log_likelihoods(tiny_model, asked, [[7, 8, 9], [7, 8, 9, 10, 11]], prompt_of=[0, 0], num_masks=16)
    assert (short.standard_error, short.num_masks) == (0.0, 7)
    assert long.standard_error > 0 and long.num_masks >= 16


@pytest.fixture(scope="module", params=["random weights", "shipped"])
def enumerated(request):
    """(masks, their summed log-probabilities, exact value) of an answer of 8 tokens."""
    if request.param == "shipped":
        model, processor = request.getfixturevalue("shipped")
        image, question, _ = heldout_questions(8, 0)[7]
        inputs = inputs_of(processor, ("Describe the picture.", image))
        answer = [*processor.encode(question.answer), processor.config.eot_token_id][:8]
    else:
        model, inputs = request.getfixturevalue("tiny_model"), request.getfixturevalue("asked")
        answer = [40, 300, 41, 7, 500, 12, 9, 1]
    assert len(answer) == 8
    masks = all_masks(8)
    sums = masked_log_probabilities(model, inputs, [answer], [0], [masks], batch_size=64)
    return masks, sums, estimate(masks, sums).log_likelihood


def test_the_estimate_is_unbiased_and_its_error_honest(enumerated):
    """400 estimates from the table of all masks: their mean is the exact value, their distances from it are as large as
    the errors say. With 8 rounds the ratio follows Student's t with 7 degrees, whose root mean square is 1.18."""
    masks, sums, exact = enumerated
    place = {tuple(mask.tolist()): row for row, mask in enumerate(masks)}
    found, ratios = [], []
    for seed in range(400):
        drawn = random_masks(8, 64, seed)
        rows = [place[tuple(mask.tolist())] for mask in drawn.flatten(0, 1)]
        likelihood = estimate(drawn, sums[rows])
        found.append(likelihood.log_likelihood)
        ratios.append((likelihood.log_likelihood - exact) / likelihood.standard_error)
    found, ratios = torch.tensor(found), torch.tensor(ratios)
    assert abs(found.mean() - exact) < 4 * found.std() / 20
    assert 0.9 < ratios.square().mean().sqrt() < 1.5


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_estimates_lie_within_their_stated_error_of_the_exact_value(tiny_model, asked, length):
    answer = list(range(40, 40 + length))
    found = log_likelihoods(tiny_model, asked, [answer], num_masks=32, seed=3)[0]
    assert (
        abs(found.log_likelihood - exact_log_likelihood(tiny_model, asked, answer)) <= 4 * found.standard_error + 1e-6
    )


def test_each_count_of_masks_is_equally_likely():
    """Two masks a round of three tokens stand 1.5 apart; counts rounded half to even would prefer 2."""
    counts = torch.cat([random_masks(3, 16, seed).sum(-1).flatten() for seed in range(500)])
    shares = torch.bincount(counts, minlength=4)[1:] / len(counts)
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.02)


def test_a_round_of_as_many_masks_as_tokens_has_every_count_once():
    assert random_masks(6, 48, 0).sum(-1).sort(1).values.tolist() == [[1, 2, 3, 4, 5, 6]] * 8


def test_masks_depend_on_length_number_and_seed_alone():
    assert torch.equal(random_masks(9, 64, 5), random_masks(9, 64, 5))
    assert not torch.equal(random_masks(9, 64, 5), random_masks(9, 64, 6))


def test_values_do_not_depend_on_batch_or_neighbours(shipped):
    model, processor = shipped
    (image, question, _), (other, longer, _) = heldout_questions(2, 0)
    together = inputs_of(processor, (question.text, image), ("Is it so? " * 20 + longer.text, other), ("Hello?", None))
    answers = [processor.encode(text) for text in ("red", "a large green star and more", "no", "blue")]
    batched = log_likelihoods(model, together, answers, prompt_of=[0, 1, 2, 0], num_masks=16, batch_size=7)
    for index, (text, picture) in enumerate(((question.text, image), ("Is it so? " * 20 + longer.text, other))):
        alone = log_likelihoods(
            model, inputs_of(processor, (text, picture)), [answers[index]], num_masks=16, batch_size=1
        )
        assert batched[index].log_likelihood == pytest.approx(alone[0].log_likelihood, abs=2e-4)


def test_the_greedy_answer_is_recognised(shipped):
    model, processor = shipped
    image, question, _ = heldout_questions(1, 0)[0]
    inputs = inputs_of(processor, (question.text, image), ("How many objects are there?", None))
    sampler = SamplerConfig(gen_length=3, stop_token_ids=[])
    greedy = [ids.tolist() for ids in model.generate(**inputs, sampler=sampler, return_dict_in_generate=True).answers]
    other = [token + 1 for token in greedy[1]]
    answers = [greedy[0], greedy[1], other, processor.encode("a star")]
    assert are_greedy(model, inputs, answers, prompt_of=[0, 1, 1, 0]) == [True, True, False, False]


def test_progress_counts_model_rows(tiny_model, asked):
    seen = []
    found = log_likelihoods(tiny_model, asked, [[7, 8], [9]], prompt_of=[0, 0], batch_size=2, progress=seen.append)
    assert seen == [2, 2] and sum(likelihood.num_masks for likelihood in found) == 4


@pytest.mark.parametrize(
    ("answers", "options", "told"),
    [([[]], {}, "answer 0 has no tokens"), ([[5]], {"num_masks": 1}, "num_masks is 1; an error can be estimated")],
)
def test_what_has_no_likelihood_says_so(tiny_model, asked, answers, options, told):
    with pytest.raises(ValueError, match=told):
        log_likelihoods(tiny_model, asked, answers, **options)
