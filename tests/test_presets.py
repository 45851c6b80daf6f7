"""Presets: a name for each purpose, what a caller sets in their place, and which of them a model asks for."""

from dataclasses import asdict

import pytest
from transformers import GenerationConfig

from llada_v import SamplerConfig, cli
from llada_v.answering import DEMO_MODEL, load
from llada_v.generation.presets import EXACT, KEY, PRESETS, preset_of


def test_exact_is_the_sampler_that_nobody_changed():
    assert SamplerConfig.preset(EXACT, gen_length=32) == SamplerConfig(gen_length=32)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    "changes",
    [
        {"gen_length": "auto"},
        {"gen_length": 64, "block_length": 32},
        {"steps": 32},
        {"steps": 32, "schedule": "convex"},
        {"remasking": "random"},
        {"cfg_scale": 1.5},
        {"cache": "dllm", "transfer_ratio": 0.5},
        {"rule": "margin", "margin": 0.5},
        {"cache": "none", "rule": "top_k"},
        {"lookahead": 3},
        {"compile": True},
        {"temperature": 1.0},
        {"constraint": {"regex": "a+"}},
    ],
    ids=str,
)
def test_what_a_caller_sets_goes_with_every_preset_and_is_kept(name, changes):
    found = asdict(SamplerConfig.preset(name, **changes))
    assert changes.items() <= found.items()


def test_only_the_part_of_a_preset_gives_way_that_does_not_go_with_a_change():
    fast, stepped = SamplerConfig.preset("fast"), SamplerConfig.preset("fast", steps=64)
    assert stepped.rule == "top_k" and (stepped.cache, stepped.refresh_interval) == (fast.cache, fast.refresh_interval)
    guided = SamplerConfig.preset("fast", cfg_scale=1)
    assert guided.cache == "none" and guided.rule == fast.rule
    kept = SamplerConfig.preset("fast", refresh_interval=0)
    assert kept.cache == "prompt" and kept.refresh_interval == 0 and kept.rule == fast.rule


def test_defaults_that_are_spelled_out_change_nothing():
    assert SamplerConfig.preset("fast", steps=None, cfg_scale=0.0, schedule="linear") == SamplerConfig.preset("fast")


def test_an_unknown_preset_is_refused_with_the_names():
    with pytest.raises(ValueError, match="'quick'; choose one of exact, balanced, fast"):
        SamplerConfig.preset("quick")
    with pytest.raises(ValueError, match=f"{KEY} in the model's generation_config.json is 'quick'; choose"):
        preset_of(GenerationConfig(**{KEY: "quick"}))


def test_a_model_is_answered_with_the_preset_that_it_asks_for(tmp_path):
    assert preset_of(GenerationConfig()) == EXACT
    GenerationConfig(**{KEY: "balanced"}).save_pretrained(tmp_path)
    read = GenerationConfig.from_pretrained(tmp_path)
    assert preset_of(read) == "balanced"
    assert preset_of(read, reproduce_original=True) == EXACT


def test_the_shipped_model_asks_for_fast_and_keeps_it_when_it_is_saved(tmp_path):
    model, _ = load(DEMO_MODEL, "cpu")
    assert preset_of(model.generation_config) == "fast"
    model.generation_config.save_pretrained(tmp_path)
    assert preset_of(GenerationConfig.from_pretrained(tmp_path)) == "fast"


@pytest.mark.parametrize(
    "words, told, forwards",
    [([], "preset fast (rule", 2), (["--preset", "exact"], "", 4), (["--reproduce-original"], "", 4)],
)
def test_the_command_line_takes_the_models_own_preset_and_says_so(words, told, forwards, capsys):
    import json

    question = ["--image", "data/demo.png", "--question", "What colour is the circle?"]
    assert cli.main(["generate", "--json", "--device", "cpu", *question, *words]) == 0
    written = capsys.readouterr()
    answer = json.loads(written.out)
    assert answer["preset"] == ("fast" if told else EXACT)
    assert told in written.err and ("preset" in written.err) == bool(told)
    assert answer["num_forwards"] <= forwards
