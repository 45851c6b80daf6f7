"""The reveal of an answer: settings that fit together, the rules of a step, and rows that do not disturb each other."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sharp import sharpened

from llada_v import LladaVForConditionalGeneration, SamplerConfig
from llada_v.answering import PictureMemory, load
from llada_v.answering import answer as ask_one
from llada_v.generation.reveal import propose, reveal_counts
from llada_v.generation.sampler import SamplerState, proposals, sample, steps_of
from llada_v.toyworld import make_scene
from llada_v.toyworld.records import heldout_questions
from llada_v.toyworld.scenes import draw

MASK, STOP, NEWLINE, VOCABULARY = 0, 1, 2, 32


def scripted(tokens: list[int], sureness: list[float]):
    """Logits that always propose the same token at each position, the surer the higher; row by row the same."""

    def logits_of(call):
        positions = call.is_open.nonzero()[:, 1]
        logits = torch.zeros(len(positions), VOCABULARY)
        logits[torch.arange(len(positions)), torch.tensor(tokens)[positions]] = torch.tensor(
            sureness, dtype=torch.float
        )[positions]
        return logits

    return logits_of


def reveal(tokens, sureness, stops=((STOP,),), **settings):
    """One row: the tokens up to its stop, the order of reveal."""
    config = SamplerConfig(gen_length=len(tokens), **settings)
    found = sample(scripted(tokens, sureness), 1, config, MASK, stops)
    return found.canvas[0, : found.ends[0]].tolist(), [step[0] for step in found.order]


def test_loops_that_take_turns_reveal_what_each_reveals_alone():
    asked = [([5, 6, STOP, 7], [1.0, 4.0, 3.0, 2.0]), ([8, STOP, 9, 9, 9, 9], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0])]
    configs = [SamplerConfig(gen_length=len(tokens)) for tokens, _ in asked]
    loops = [steps_of(1, config, MASK, [[STOP]]) for config in configs]
    calls, ended = [next(loop) for loop in loops], {}
    while len(ended) < len(loops):
        for number in set(range(len(loops))) - ended.keys():
            logits = scripted(*asked[number])(calls[number])
            try:
                calls[number] = loops[number].send(proposals(logits, calls[number], configs[number]))
            except StopIteration as finished:
                ended[number] = finished.value
    for number, (tokens, sureness) in enumerate(asked):
        assert ended[number].canvas[0, : ended[number].ends[0]].tolist() == reveal(tokens, sureness)[0]


# Settings


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"gen_length": 0}, "gen_length is 0; it must be a whole number from 1 to 1,000,000, or 'auto'"),
        ({"gen_length": "long"}, "gen_length is 'long'; it must be a whole number from 1 to"),
        ({"steps": 0}, "steps is 0; it must be a whole number from 1 to"),
        ({"block_length": -4}, "block_length is -4; it must be a whole number from 1 to"),
        ({"gen_length": 2.5}, "gen_length is 2.5; it must be a whole number"),
        ({"steps": True}, "steps is True; it must be a whole number"),
        ({"gen_length": 100, "block_length": 32}, "100 is not a multiple of block_length 32; try gen_length=128"),
        ({"gen_length": 8, "block_length": 2, "steps": 6}, "steps 6 cannot be shared by 4 blocks; try steps=8"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be a number from 0 to"),
        ({"temperature": float("nan")}, "temperature is nan; it must be a number from 0 to"),
        ({"temperature": "hot"}, "temperature is 'hot'; it must be a number from 0 to"),
        ({"cfg_scale": -0.5}, "cfg_scale is -0.5; it must be a number from 0 to"),
        ({"cfg_scale": None}, "cfg_scale is None; it must be a number from 0 to"),
        ({"remasking": "entropy"}, "remasking is 'entropy'; choose one of low_confidence, random"),
        ({"stop_token_ids": [5]}, "stop_token_ids has 5; each stop is a non-empty list of ids, for example"),
        ({"stop_token_ids": [[]]}, "each stop is a non-empty list of ids"),
        ({"stop_token_ids": ["stop"]}, "stop_token_ids has 'stop'; each stop is a non-empty list of ids"),
        ({"stop_token_ids": 5}, "stop_token_ids is 5; it must be a list of lists of whole numbers"),
        ({"gen_length": 2, "stop_token_ids": [[1, 2, 3]]}, "longer than gen_length 2; raise gen_length"),
        ({"stop_token_ids": [[1, 2], [3], [1]]}, r"the stop \[1, 2\] starts with the stop \[1\] .*leave the longer"),
        ({"cache": "kv"}, "cache is 'kv'; choose one of none, prompt, dllm"),
        ({"refresh_interval": 4}, "refresh_interval is 4, but cache is 'none'; leave .* out or set cache='prompt'"),
        ({"cache": "dllm", "refresh_interval": 4}, "refresh_interval is 4, but cache is 'dllm'"),
        ({"cache": "prompt", "transfer_ratio": 0.5}, "transfer_ratio is 0.5, but cache is 'prompt'; .*cache='dllm'"),
        (
            {"cache": "prompt", "refresh_interval": -1},
            "refresh_interval is -1; it must be a whole number from 0 to",
        ),
        ({"cache": "dllm", "prompt_interval": 0}, "prompt_interval is 0; it must be a whole number from 1 to"),
        ({"cache": "dllm", "gen_interval": 1.5}, "gen_interval is 1.5; it must be a whole number"),
        ({"cache": "dllm", "transfer_ratio": 1.5}, "transfer_ratio is 1.5; it must be a number from 0 to 1"),
        ({"cache": "prompt", "cfg_scale": 1.0}, "cache 'prompt' does not hold .*cfg_scale 1.0 .*set cache='none' or"),
        ({"cache": "dllm", "cfg_scale": 1.0}, "cache 'dllm' does not hold .*cfg_scale"),
        (
            {"rule": "greedy"},
            "rule is 'greedy'; choose one of top_k, threshold, factor, frechet, entropy_bound, margin, klass",
        ),
        ({"threshold": 0.9}, "threshold is 0.9, but rule is 'top_k'; leave threshold out or set rule='threshold'"),
        ({"rule": "factor", "margin": 0.9}, "margin is 0.9, but rule is 'factor'"),
        ({"rule": "threshold", "threshold": 1.1}, "threshold is 1.1; it must be a number from 0 to 1"),
        ({"rule": "factor", "factor": -1.0}, "factor is -1.0; it must be a number from 0 to"),
        ({"rule": "factor", "factor": float("inf")}, "factor is inf; it must be a number from 0 to"),
        ({"rule": "entropy_bound", "entropy_bound": float("nan")}, "entropy_bound is nan; it must be a number"),
        ({"rule": "klass", "lookahead": 2}, "rule 'klass' compares with the step before.*set lookahead=0"),
        ({"rule": "factor", "divergence": 0.1}, "divergence is 0.1, but rule is 'factor'"),
        ({"rule": "margin", "margin": "wide"}, "margin is 'wide'; it must be a number from 0 to 1"),
        ({"rule": "threshold", "steps": 64}, "steps is 64, but rule 'threshold' decides itself .*leave steps out or"),
        ({"rule": "threshold", "remasking": "random"}, "remasking 'random' has no confidence for rule 'threshold'"),
        ({"schedule": "cosine"}, "schedule is 'cosine'; choose one of linear, convex"),
        ({"rule": "margin", "schedule": "convex"}, "schedule 'convex' shares .*set schedule='linear'"),
        ({"lookahead": -1}, "lookahead is -1; it must be a whole number from 0 to 64"),
        ({"lookahead": None}, "lookahead is None; it must be a whole number from 0 to 64"),
        ({"lookahead": 10**12}, "lookahead is 1000000000000; it must be a whole number from 0 to 64"),
        ({"gen_length": 10**12}, "gen_length is 1000000000000; it must be .* from 1 to 1,000,000"),
        ({"steps": 10**30}, "steps is 10+; it must be a whole number from 1 to 1,000,000"),
        ({"gen_length": "auto", "max_gen_length": 10**9}, "max_gen_length is 10+; it must be .* from 1 to 1,000,000"),
        ({"temperature": 1e30}, "temperature is 1e.30; it must be a number from 0 to 10,000"),
        ({"cfg_scale": 1e38}, "cfg_scale is 1e.38; it must be a number from 0 to 1,000"),
        ({"cfg_scale": 10**400}, "cfg_scale is a number of 1329 bits; it must be a number from 0 to"),
        ({"rule": "factor", "factor": 1e300}, "factor is 1e.300; it must be a number from 0 to 1,000,000"),
        ({"cache": "prompt", "refresh_interval": 10**30}, "refresh_interval is 10+; it must be a whole number"),
        ({"lookahead": 2, "temperature": 0.5}, "lookahead verifies the tokens of a sampler without chance"),
        ({"lookahead": 2, "remasking": "random"}, "lookahead verifies the tokens of a sampler without chance"),
        ({"lookahead": 2, "cache": "dllm"}, "cache 'dllm' changes with every step.*set cache='prompt' or lookahead=0"),
        ({"lookahead": 2, "cache": "prompt", "refresh_interval": 1}, "refresh_interval 1 computes everything"),
        ({"compile": 1}, "compile is 1; it must be true or false"),
        ({"compile": True, "cache": "dllm"}, "compile rounds differently.*set cache='prompt' or compile=False"),
        ({"keep_features": 0}, "keep_features is 0; it must be a number above 0, at most 1"),
        ({"merge_features": 1.5}, "merge_features is 1.5; it must be a number above 0, at most 1"),
        ({"keep_features": 0.5, "cache": "dllm"}, "keep_features makes .*, cache 'dllm', .*leave keep_features out"),
        ({"keep_features": 0.5, "cfg_scale": 1.0}, "keep_features makes .*which cfg_scale, .*leave keep_features out"),
        ({"keep_features": 0.5, "lookahead": 2}, "keep_features makes .*, lookahead .*leave keep_features out"),
        ({"keep_features": 0.5, "compile": True}, "keep_features makes .*compile .*leave keep_features out"),
        (
            {"keep_features": 0.5, "cache": "prompt", "refresh_interval": 0},
            "keep_features takes effect .* never is; set another refresh_interval",
        ),
        ({"max_gen_length": 64}, "max_gen_length is 64, but gen_length is 128; .*set gen_length='auto'"),
        ({"gen_length": "auto", "max_gen_length": 0}, "max_gen_length is 0; it must be a whole number from 1 to"),
        ({"gen_length": "auto", "max_gen_length": 16, "block_length": 32}, "is more than max_gen_length 16"),
        ({"gen_length": "auto", "steps": 16}, "steps is 16, but gen_length='auto' has no fixed canvas"),
        ({"gen_length": "auto", "stop_token_ids": []}, "gen_length='auto' needs a stop to look for"),
        ({"gen_length": "auto", "suffix_token_ids": [5]}, "suffix_token_ids stand behind a canvas of fixed length"),
        ({"gen_length": "auto", "cache": "dllm"}, "cache 'dllm' holds a canvas of fixed length; set cache='prompt'"),
        ({"gen_length": "auto", "schedule": "convex"}, "schedule 'convex' shares a fixed canvas"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_the_remedy(settings, told):
    with pytest.raises(ValueError, match=told):
        SamplerConfig(**settings)


def test_steps_and_blocks_follow_from_the_length():
    config = SamplerConfig(gen_length=12)
    found = config.resolved
    assert (found.block_length, found.steps, config.num_blocks, config.steps_per_block) == (12, 12, 1, 12)
    config = SamplerConfig(gen_length=12, block_length=4, steps=6)
    assert (config.num_blocks, config.steps_per_block) == (3, 2)


def test_a_setting_that_is_left_out_takes_its_value_from_the_cache_or_rule_it_belongs_to():
    assert SamplerConfig(cache="prompt").resolved.refresh_interval == 4
    dllm = SamplerConfig(cache="dllm").resolved
    assert (dllm.prompt_interval, dllm.gen_interval, dllm.transfer_ratio) == (25, 7, 0.25)
    assert [getattr(SamplerConfig(rule=rule).resolved, rule) for rule in ("threshold", "factor")] == [0.9, 1.0]
    auto = SamplerConfig(gen_length="auto").resolved
    assert (auto.block_length, auto.steps, auto.canvas_length) == (32, 512, 512)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"gen_length": "auto"},
        {"cache": "dllm"},
        {"rule": "factor"},
        {"gen_length": 64, "block_length": 32},
    ],
)
def test_settings_keep_what_was_given_so_that_they_can_be_changed(given):
    config = SamplerConfig(**given)
    assert {name: value for name, value in asdict(config).items() if value != getattr(SamplerConfig(), name)} == given
    assert SamplerConfig(**json.loads(json.dumps(asdict(config)))) == config
    longer = replace(config, gen_length=256)
    assert longer == SamplerConfig(**given | {"gen_length": 256})
    assert longer.canvas_length == 256 and config.resolved == SamplerConfig(**given).resolved


# The rules of a step


@pytest.mark.parametrize(
    "masked, steps, counts",
    [(7, 3, [3, 2, 2]), (4, 2, [2, 2]), (4, 8, [1, 1, 1, 1, 0, 0, 0, 0]), (2, 5, [1, 1, 0, 0, 0]), (4, 1, [4])],
)
def test_reveals_are_shared_evenly_the_remainder_first(masked, steps, counts):
    assert reveal_counts(masked, steps) == counts


def test_the_most_confident_position_is_revealed_first():
    tokens, order = reveal([10, 11, 12, 13], [5, 8, 6, 9])
    assert tokens == [10, 11, 12, 13]
    assert order == [[3], [1], [2], [0]]


def test_more_steps_than_tokens_end_when_nothing_is_masked():
    tokens, order = reveal([10, 11, 12, 13], [5, 8, 6, 9], steps=8)
    assert (tokens, len(order)) == ([10, 11, 12, 13], 4)


def test_fewer_steps_reveal_several_at_once():
    _, order = reveal([10, 11, 12, 13, 14, 15, 16], [1, 2, 3, 4, 5, 6, 7], steps=3)
    assert order == [[4, 5, 6], [2, 3], [0, 1]]


def test_blocks_are_revealed_from_left_to_right():
    _, order = reveal([10, 11, 12, 13], [5, 8, 6, 9], block_length=2)
    assert order == [[1], [0], [3], [2]]


def test_nothing_behind_a_stop_is_revealed():
    tokens, order = reveal([10, 11, STOP, 13], [5, 6, 9, 1])
    assert (tokens, order) == ([10, 11], [[2], [1], [0]])


def test_an_answer_can_be_complete_at_its_stop_at_once():
    tokens, order = reveal([10, STOP, 12, 13, 14, 15, 16, 17], [8, 9, 1, 1, 1, 1, 1, 1], steps=4)
    assert (tokens, order) == ([10], [[0, 1]])


def test_blocks_behind_a_stop_are_skipped():
    tokens, order = reveal([10, STOP, 12, 13], [5, 8, 6, 9], block_length=2)
    assert (tokens, order) == ([10], [[1], [0]])


def test_of_two_stops_the_one_further_left_ends_the_answer_whichever_was_found_first():
    # The original looks for the first of the list alone once anything was found, and returns [STOP, 11].
    tokens, order = reveal([STOP, 11, NEWLINE, 13], [8, 7, 9, 1], stops=((NEWLINE,), (STOP,)))
    assert (tokens, order) == ([], [[2], [0]])


def test_a_stop_of_several_tokens_ends_where_it_starts():
    tokens, _ = reveal([10, NEWLINE, STOP, 13], [6, 7, 8, 1], stops=((NEWLINE, STOP),))
    assert tokens == [10]
    tokens, _ = reveal([10, NEWLINE, 12, STOP], [6, 7, 8, 9], stops=((NEWLINE, STOP),))
    assert tokens == [10, NEWLINE, 12, STOP]


def test_no_stop_reveals_the_whole_canvas():
    assert reveal([10, STOP, 12, 13], [5, 8, 6, 9], stops=())[0] == [10, STOP, 12, 13]


def test_two_tokens_near_certainty_still_have_an_order():
    logits = torch.zeros(2, VOCABULARY)
    logits[0, 10], logits[1, 10] = 25.0, 26.0  # equal probabilities in float32
    confidence = propose(logits, SamplerConfig(), None)[1]
    assert confidence.dtype == torch.float64 and confidence[0] < confidence[1]


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 30.0, 1000.0])
def test_a_forbidden_token_has_no_chance_at_any_temperature(temperature):
    logits = torch.zeros(400, VOCABULARY)
    logits[:, 5] = -torch.inf
    config = SamplerConfig(temperature=temperature)
    tokens, confidence, _ = propose(logits, config, torch.Generator().manual_seed(0))
    assert 5 not in tokens and tokens.unique().numel() == VOCABULARY - 1
    assert torch.allclose(confidence, torch.tensor(1 / (VOCABULARY - 1), dtype=torch.float64))


def test_temperature_one_samples_the_models_own_probabilities():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(20_000, 3)
    tokens, _, _ = propose(logits, SamplerConfig(temperature=1.0), torch.Generator().manual_seed(0))
    shares = tokens.bincount(minlength=3) / len(tokens)
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.015)  # four standard deviations


def test_a_callback_sees_each_step():
    states = []

    def callback(state: SamplerState):
        states.append(
            (state.step, state.num_steps, state.revealed, state.canvas.tolist(), state.stop_positions.tolist())
        )
        assert torch.equal(state.is_masked, state.canvas == MASK)
        assert torch.equal(state.confidence > 0, ~state.is_masked)

    config = SamplerConfig(gen_length=3)
    sample(scripted([10, STOP, 12], [5, 6, 1]), 1, config, MASK, [[STOP]], callback=callback)
    assert states == [(1, 3, [[1]], [[0, STOP, 0]], [1]), (2, 3, [[0]], [[10, STOP, 0]], [1])]


# With a model


@pytest.fixture(scope="module")
def pictures():
    """Four pictures of different sizes."""
    import random

    scenes = [draw(make_scene(random.Random(seed))) for seed in range(4)]
    return [scene.resize(size) for scene, size in zip(scenes, [(100, 80), (40, 130), (72, 72), (150, 60)], strict=True)]


def prompt(processor, questions, side="left"):
    """Tensors of a batch; a question is (text, pictures)."""
    conversations = [
        [
            {
                "role": "user",
                "content": [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}],
            }
        ]
        for text, images in questions
    ]
    options = dict(add_generation_prompt=True, return_tensors="pt", padding_side=side)
    return processor.apply_chat_template(conversations, **options, tokenize=True, return_dict=True)


@pytest.fixture(scope="module")
def questions(pictures):
    texts = ["What?", "How many objects are there, and what are their colours?", "Is it red?", "Compare them, please."]
    images = [[pictures[0]], [pictures[1]], [], pictures[2:]]
    return list(zip(texts, images, strict=True))


def answer(model, inputs, **settings):
    """The whole output for settings of the sampler."""
    settings = {"gen_length": 8, "stop_token_ids": []} | settings
    return model.generate(**inputs, sampler=SamplerConfig(**settings), return_dict_in_generate=True)


@pytest.fixture(scope="module")
def sharp_model(tiny_folder):
    """The tiny model with weights so large that no two tokens are nearly as likely, and every word counts."""
    return sharpened(LladaVForConditionalGeneration.from_pretrained(tiny_folder))


def always(model, monkeypatch, *favourites):
    """Make the head favour these ids over all others, each less than the one before."""
    bonus = torch.zeros(model.config.text_config.vocab_size)
    bonus[list(favourites)] = torch.linspace(1000, 900, len(favourites))
    head = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: head(hidden) + bonus)


def test_the_mask_and_the_four_forbidden_ids_are_never_chosen(tiny_model, tiny_processor, questions, monkeypatch):
    config = tiny_model.config
    forbidden = [config.mask_token_id, config.eos_token_id, config.bos_token_id]
    forbidden += [config.start_header_id, config.end_header_id]
    always(tiny_model, monkeypatch, *forbidden, 40)
    inputs = prompt(tiny_processor, questions[:1])
    assert answer(tiny_model, inputs).answers[0].tolist() == [40] * 8
    assert answer(tiny_model, inputs, cfg_scale=1.0).answers[0].tolist() == [40] * 8


def test_the_end_of_the_turn_stops_an_answer_by_default(tiny_model, tiny_processor, questions, monkeypatch):
    always(tiny_model, monkeypatch, tiny_model.config.eot_token_id)
    inputs = prompt(tiny_processor, questions[:1])
    assert answer(tiny_model, inputs, stop_token_ids=None).answers[0].tolist() == []
    assert answer(tiny_model, inputs, stop_token_ids=[]).answers[0].tolist() == [tiny_model.config.eot_token_id] * 8


@pytest.mark.parametrize("stops, kept", [([], 4), ([[40]], 0)])
def test_a_suffix_is_returned_behind_the_answer(tiny_model, tiny_processor, questions, monkeypatch, stops, kept):
    always(tiny_model, monkeypatch, 40)
    inputs, config = prompt(tiny_processor, questions[:1]), tiny_model.config
    output = answer(tiny_model, inputs, gen_length=4, stop_token_ids=stops, suffix_token_ids=[50, 51])
    expected = [40] * kept + [50, 51]
    assert output.answers[0].tolist() == expected
    filler = [config.eos_token_id] * (6 - len(expected))
    assert output.sequences[0].tolist() == inputs["input_ids"][0].tolist() + expected + filler


def test_a_suffix_is_seen_from_the_first_step(tiny_model, tiny_processor, questions):
    inputs, seen = prompt(tiny_processor, questions[:1]), []
    for suffix in (None, [50, 51, 52, 53]):
        sampler = SamplerConfig(gen_length=4, steps=1, stop_token_ids=[], suffix_token_ids=suffix)
        tiny_model.generate(**inputs, sampler=sampler, callback=lambda state: seen.append(state.confidence.clone()))
    assert not torch.equal(*seen)


@pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"remasking": "random"}])
def test_chance_is_repeatable_with_a_generator_and_differs_across_seeds(
    tiny_model, tiny_processor, questions, settings
):
    inputs, sampler = prompt(tiny_processor, questions[:2]), SamplerConfig(gen_length=12, steps=4, **settings)

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        output = tiny_model.generate(**inputs, sampler=sampler, generator=generator, return_dict_in_generate=True)
        return output.sequences.tolist(), output.order

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize("cache", ["none", "prompt", "dllm"])
def test_a_batch_of_no_rows_is_answered_by_none(tiny_model, cache):
    sampler = SamplerConfig(gen_length=4, cache=cache)
    output = tiny_model.generate(torch.zeros(0, 9, dtype=torch.long), sampler=sampler, return_dict_in_generate=True)
    assert output.sequences.shape == (0, 13) and output.answers == [] and output.num_forwards == 0


def test_a_growing_answer_must_fit_behind_its_prompt(tiny_model):
    with pytest.raises(ValueError, match="prompt 1600 . answer 512 .* = 2112 tokens, more than .* 2048"):
        tiny_model.generate(torch.full((1, 1600), 40), sampler=SamplerConfig(gen_length="auto"))


def test_a_prompt_longer_than_the_model_is_refused(tiny_model):
    for length, raises in ((2040, False), (2041, True)):
        inputs = torch.full((1, length), 40)
        sampler = SamplerConfig(gen_length=6, steps=1, suffix_token_ids=[40, 41])
        if not raises:
            assert tiny_model.generate(inputs, sampler=sampler).shape == (1, 2048)
            continue
        with pytest.raises(ValueError, match="prompt 2041 . answer 6 . suffix 2 = 2049 tokens, more than .* 2048"):
            tiny_model.generate(inputs, sampler=sampler)


def test_image_features_answer_as_pixels_do(tiny_model, tiny_processor, questions):
    inputs = prompt(tiny_processor, questions)
    expected = answer(tiny_model, inputs)
    pixels = {key: inputs[key] for key in ("pixel_values", "image_sizes", "image_layouts")}
    text = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    found = answer(tiny_model, text | {"image_features": tiny_model.encode_pictures(**pixels)})
    assert torch.equal(found.sequences, expected.sequences) and found.order == expected.order


def test_pictures_asked_about_again_are_found_by_their_pixels(tiny_model, tiny_processor, questions):
    inputs = [prompt(tiny_processor, [question]) for question in questions[:2]]
    pixels = [{key: batch[key] for key in ("pixel_values", "image_sizes", "image_layouts")} for batch in inputs]
    calls, memory = [], PictureMemory(tiny_model, size=1)
    handle = tiny_model.model.vision_tower.encoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        first = memory(**pixels[0])
        assert memory(**{key: value.clone() for key, value in pixels[0].items()}) is first and len(calls) == 1
        memory(**pixels[1])  # takes the only place
        again = memory(**pixels[0])
    finally:
        handle.remove()
    assert len(calls) == 3
    assert torch.equal(again, first) and torch.equal(first, tiny_model.encode_pictures(**pixels[0]))


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.model.image_newline.add_(1),
        lambda model: model.model.multi_modal_projector.linear_1.weight.data.mul_(2),
        lambda model: model.model.vision_tower.load_state_dict(
            {name: weight + 1 for name, weight in model.model.vision_tower.state_dict().items()}
        ),
        lambda model: model.bfloat16(),
    ],
    ids=["in place", "behind autograd's back", "others loaded", "another dtype"],
)
def test_pictures_are_looked_at_again_when_the_weights_change(tiny_folder, tiny_processor, questions, change):
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder).requires_grad_(False)
    inputs = prompt(tiny_processor, questions[:1])
    pixels = {key: inputs[key] for key in ("pixel_values", "image_sizes", "image_layouts")}
    memory = PictureMemory(model)
    first = memory(**pixels)
    assert memory(**pixels) is first
    change(model)
    again = memory(**pixels)
    assert not torch.equal(again.float(), first) and torch.equal(again, model.encode_pictures(**pixels))


def test_a_memory_of_no_pictures_is_refused(tiny_model):
    with pytest.raises(ValueError, match="size is 0; a memory keeps at least 1"):
        PictureMemory(tiny_model, size=0)


def test_questions_about_one_picture_pass_the_tower_once_and_answer_the_same(tiny_model, tiny_processor, pictures):
    sampler = SamplerConfig(gen_length=4, steps=2)

    def ask(**memory):
        texts = ("What?", "Which colour?")
        return [ask_one(tiny_model, tiny_processor, text, pictures[:1], sampler=sampler, **memory) for text in texts]

    expected, calls = ask(), []
    handle = tiny_model.model.vision_tower.encoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        found = ask(memory=PictureMemory(tiny_model))
    finally:
        handle.remove()
    assert len(calls) == 1
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]


def test_pictures_that_do_not_fit_the_placeholders_are_refused(tiny_model, tiny_processor, questions):
    inputs = prompt(tiny_processor, questions[:1])
    with pytest.raises(ValueError, match="image placeholders .* but the pictures make 0 features"):
        tiny_model.generate(inputs["input_ids"])


def test_a_mask_token_in_the_prompt_stays_and_is_not_filled(tiny_model, tiny_processor):
    inputs = tiny_processor(text="A <|mdm_mask|> here?", return_tensors="pt")
    assert tiny_model.config.mask_token_id in inputs["input_ids"][0]
    output = answer(tiny_model, inputs, gen_length=2, steps=2)
    assert torch.equal(output.sequences[:, :-2], inputs["input_ids"])
    assert tiny_model.config.mask_token_id not in output.answers[0]


def test_a_length_alone_is_enough(tiny_model, tiny_processor, questions):
    inputs = prompt(tiny_processor, questions[:1])
    expected = tiny_model.generate(**inputs, sampler=SamplerConfig(gen_length=5))
    assert torch.equal(tiny_model.generate(**inputs, max_new_tokens=5), expected)
    configured = tiny_model.generate(**inputs, generation_config=SimpleNamespace(max_new_tokens=5))
    assert torch.equal(configured, expected)


def test_a_length_beside_a_sampler_is_refused(tiny_model):
    with pytest.raises(ValueError, match="give sampler or max_new_tokens, not both"):
        tiny_model.generate(torch.tensor([[40]]), sampler=SamplerConfig(), max_new_tokens=5)


@pytest.mark.parametrize("ids", [{"suffix_token_ids": [10**12]}, {"stop_token_ids": [[5, 126464]]}], ids=str)
def test_an_id_outside_the_vocabulary_is_refused(tiny_model, ids):
    with pytest.raises(ValueError, match="a suffix or stop has the id 1.*, outside the vocabulary of .* ids"):
        tiny_model.generate(torch.tensor([[40]]), sampler=SamplerConfig(gen_length=4, **ids))


def test_a_mask_of_another_shape_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 3\), input_ids \(1, 2\)"):
        tiny_model.generate(torch.tensor([[40, 41]]), attention_mask=torch.ones(1, 3))


def test_an_unknown_setting_is_not_ignored(tiny_model):
    with pytest.raises(TypeError, match="cfg"):
        tiny_model.generate(torch.tensor([[40]]), cfg=1.0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "settings", [{"gen_length": 4}, {"gen_length": 4, "cfg_scale": 1.5}, {"block_length": 4, "steps": 4}], ids=str
)
def test_a_row_of_a_batch_answers_as_it_does_alone(sharp_model, tiny_processor, questions, side, settings):
    batch = prompt(tiny_processor, questions, side)
    assert len(set(batch["attention_mask"].sum(1).tolist())) == 4
    found = answer(sharp_model, batch, **settings)
    assert len({tuple(tokens.tolist()) for tokens in found.answers}) == 4
    for row, asked in enumerate(questions):
        alone = answer(sharp_model, prompt(tiny_processor, [asked]), **settings)
        assert found.answers[row].tolist() == alone.answers[0].tolist()
        assert [step[row] for step in found.order] == [step[0] for step in alone.order]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
def test_rows_that_end_at_different_steps_do_not_disturb_the_others(
    sharp_model, tiny_processor, questions, side, cfg_scale
):
    batch, settings = prompt(tiny_processor, questions, side), {"gen_length": 8, "cfg_scale": cfg_scale}
    written = answer(sharp_model, batch, **settings).answers
    # Rows 1 and 2 end at tokens of their own.
    settings["stop_token_ids"] = [[int(written[1][2])], [int(written[2][5])]]
    found = answer(sharp_model, batch, **settings)
    assert len({sum(bool(step[row]) for step in found.order) for row in range(4)}) >= 2
    for row, asked in enumerate(questions):
        alone = answer(sharp_model, prompt(tiny_processor, [asked]), **settings)
        assert found.answers[row].tolist() == alone.answers[0].tolist()
        assert [step[row] for step in found.order if step[row]] == [step[0] for step in alone.order]


def test_the_head_sees_the_open_positions_alone(tiny_model, tiny_processor, questions):
    """So no tensor of length times vocabulary is ever made."""
    batch, rows = prompt(tiny_processor, questions), []
    handle = tiny_model.lm_head.register_forward_hook(lambda module, args, output: rows.append(output.shape))
    try:
        answer(tiny_model, batch, gen_length=8, block_length=4, steps=4)
    finally:
        handle.remove()
    vocabulary = tiny_model.config.text_config.vocab_size
    assert rows == [(4 * open_positions, vocabulary) for open_positions in (4, 2, 4, 2)]


def test_the_last_layer_computes_few_more_positions_than_are_open(tiny_model, tiny_processor, questions):
    batch, widths = prompt(tiny_processor, questions), []
    alone = prompt(tiny_processor, questions[-1:])
    layer = tiny_model.model.language_model.layers[-1]
    handle = layer.mlp.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    try:
        answer(tiny_model, batch, gen_length=8, steps=2)
        answer(tiny_model, alone, gen_length=8, steps=2)
    finally:
        handle.remove()
    assert alone["input_ids"].shape[1] > 100
    assert widths == [4 * 8, 4 * 4, 32, 32]  # rows of different lengths have no filler, one of 8 open positions has


def test_pictures_are_encoded_once_for_an_answer(tiny_model, tiny_processor, questions):
    calls = []
    handle = tiny_model.model.vision_tower.encoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        answer(tiny_model, prompt(tiny_processor, questions), steps=8)
    finally:
        handle.remove()
    assert len(calls) == 1


def test_a_grey_picture_and_a_video_are_answered(tiny_model, tiny_processor):
    frames = [Image.fromarray(np.full((40, 60, 3), level, np.uint8)) for level in (0, 120, 250)]
    messages = [{"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": "What?"}]}]
    inputs = tiny_processor.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", tokenize=True, return_dict=True
    )
    assert len(answer(tiny_model, inputs).answers[0]) == 8


@pytest.mark.slow
def test_lookahead_gives_the_plain_answers_to_500_heldout_questions():
    """With the model that ships, in batches."""
    model, processor = load()
    items = heldout_questions(500, seed=0)
    for start in range(0, len(items), 25):
        batch = prompt(processor, [(question.text, [picture]) for picture, question, _ in items[start : start + 25]])
        plain, ahead = (
            answer(model, batch, gen_length=32, stop_token_ids=None, lookahead=lookahead) for lookahead in (0, 4)
        )
        assert torch.equal(plain.sequences, ahead.sequences) and plain.order == ahead.order
