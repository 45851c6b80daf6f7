"""Pictures with fewer features from the first step: which become one, and answers beside a prompt merged by hand."""

import pytest
import torch
from test_cache import alone, answer, batch_of, model, name_of, steps_of  # noqa: F401  # the fixture
from test_pruning import rows_of

from llada_v.generation.token_merging import Prompts, merge, picture_of, with_fewer_features

SETTINGS = [
    {},
    {"cache": "prompt", "refresh_interval": 2, "lookahead": 2},
    {"cache": "dllm", "prompt_interval": 4, "gen_interval": 3, "transfer_ratio": 0.5},
    {"gen_length": "auto", "block_length": 4, "max_gen_length": 16, "stop_token_ids": [[50]]},
    {"cfg_scale": 0.7},
    {"keep_features": 0.5},
]


def merged_one_by_one(features, picture, share):
    """The same with lists: the pairs of a round are known before its first is merged."""
    groups = [[number] for number in range(len(features))]  # the place of a mean is that of its last member
    mean_of = {number: feature for number, feature in enumerate(features)}
    surplus = len(features) - max(int(share * len(features)), len(set(picture)))
    while surplus > 0:
        pairs = []
        for one in sorted(set(picture)):
            own = [group[-1] for group in groups if picture[group[-1]] == one]
            own = own if len(own) % 2 == 0 else own[:-1]
            for source in own[::2]:
                likeness = {
                    target: torch.cosine_similarity(mean_of[source], mean_of[target], dim=0).item()
                    for target in own[1::2]
                }
                target = max(likeness, key=likeness.get)
                pairs.append((likeness[target], source, target))
        for _, source, target in sorted(pairs, reverse=True)[:surplus]:
            gone = next(group for group in groups if group[-1] == source)
            groups.remove(gone)
            kept = next(group for group in groups if group[-1] == target)
            kept[:0] = gone
            surplus -= 1
        for group in groups:
            mean_of[group[-1]] = features[group].mean(0)
    return {group[-1]: mean_of[group[-1]] for group in groups}


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3, 0.01])
@pytest.mark.parametrize("sizes", [[9], [8], [5, 1, 7], [2, 2]], ids=str)
def test_the_most_alike_become_their_mean(sizes, share):
    torch.manual_seed(0)
    features = torch.randn(sum(sizes), 6)
    picture = [number for number, size in enumerate(sizes) for _ in range(size)]
    means, left = merge(features, torch.tensor(picture), share)
    expected = merged_one_by_one(features, picture, share)
    assert left.nonzero()[:, 0].tolist() == sorted(expected)
    assert len(expected) == max(len(sizes), int(share * len(features)))
    for place, mean in expected.items():
        torch.testing.assert_close(means[place], mean)


def test_features_that_are_equal_are_merged_first_and_stay_what_they_are():
    features = torch.eye(4)[[0, 0, 1, 2, 3, 3]]
    means, left = merge(features, torch.zeros(6, dtype=torch.long), 0.67)
    assert left.tolist() == [False, True, True, True, False, True] and torch.equal(means[left], torch.eye(4))


def test_text_and_newlines_stay_and_pictures_do_not_mix():
    newline, text = torch.tensor([9.0, 9.0]), torch.tensor([1.0, 0.0])
    row = torch.stack([text, text, newline, text, text, newline, text, text, text])
    is_picture = torch.tensor([0, 1, 1, 1, 1, 1, 0, 1, 1]).bool()
    assert picture_of(is_picture)[is_picture].tolist() == [1, 1, 1, 1, 1, 2, 2]
    found = with_fewer_features(Prompts(row[None], None, is_picture[None]), newline, 0.01)
    assert found.attention_mask is None
    assert found.embeds[0].tolist() == [[1, 0], [9, 9], [1, 0], [9, 9], [1, 0], [1, 0]]
    assert found.is_picture[0].tolist() == [False, True, True, True, False, True]


def by_hand(row, share):
    """A row's prompt with as many placeholders as features are left, and these."""
    (ids, features), picture = row, torch.zeros(len(row[1]), dtype=torch.long)
    means, left = merge(features, picture, share)
    place = (ids[0] == ids[0, 2]).nonzero()[:, 0]
    kept = torch.ones(ids.shape[1], dtype=torch.bool)
    kept[place[~left]] = False
    return ids[:, kept], means[left]


@pytest.mark.parametrize("settings", SETTINGS, ids=name_of)
def test_an_answer_is_that_to_the_shorter_prompt(model, settings):  # noqa: F811
    changed = 0
    for row in rows_of(model):
        found, expected = alone(model, row, merge_features=0.5, **settings), alone(model, by_hand(row, 0.5), **settings)
        assert found.answers[0].tolist() == expected.answers[0].tolist() and found.order == expected.order
        assert torch.equal(found.confidence[0], expected.confidence[0])
        assert found.sequences[0, : row[0].shape[1]].tolist() == row[0][0].tolist()
        changed += found.answers[0].tolist() != alone(model, row, **settings).answers[0].tolist()
    assert changed


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("settings", SETTINGS, ids=name_of)
def test_rows_of_a_batch_are_answered_as_alone(model, settings, side):  # noqa: F811
    rows = [*rows_of(model), (torch.tensor([[9, 10, 11]]), torch.zeros(0, 48))]  # the last without a picture
    together = answer(model, batch_of(model, rows, side), merge_features=0.4, **settings)
    for number, row in enumerate(rows):
        expected = alone(model, row, merge_features=0.4, **settings)
        assert together.answers[number].tolist() == expected.answers[0].tolist()
        assert steps_of(together, number) == steps_of(expected, 0)


def test_every_call_is_shorter(model, monkeypatch):  # noqa: F811
    (row, *_), widths = rows_of(model, [100]), []
    run = model.model.language_model.forward
    monkeypatch.setattr(
        model.model.language_model,
        "forward",
        lambda **inputs: widths.append(inputs["inputs_embeds"].shape[1]) or run(**inputs),
    )
    alone(model, row, merge_features=0.25, steps=3)
    assert widths == [106 - 75 + 12] * 3
