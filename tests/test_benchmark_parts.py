"""The parts of the benchmark: settings as data, questions, counted work, peak memory, intervals and the chart."""

import copy
import itertools
import json
import random
from dataclasses import replace

import pytest
import torch
from PIL import Image

from llada_v import SamplerConfig, charts
from llada_v.benchmark import memory
from llada_v.benchmark.accuracy import Estimate, difference, front, loses_nothing, share
from llada_v.benchmark.batches import question_batches, random_batches, read_items
from llada_v.benchmark.candidates import (
    Setting,
    compared,
    compared_without_confidence,
    expand,
    parse_setting,
    read_settings,
    searched,
    with_plain,
)
from llada_v.benchmark.floor import Machine, Work, count_work, measure_machine
from llada_v.benchmark.memory import PeakMemory, free_memory
from llada_v.benchmark.rounds import language_layers
from llada_v.benchmark.shapes import SHAPES
from llada_v.charts import Point
from llada_v.cli.bench import heldout_items
from llada_v.configuration_llada_v import LladaVConfig
from llada_v.generation import config
from llada_v.quantization import quantize

CPU = torch.device("cpu")


# Settings


def test_words_become_a_setting():
    assert parse_setting("fast: steps=8 temperature=0.5 remasking=random") == [
        Setting("fast", {"steps": 8, "temperature": 0.5, "remasking": "random"})
    ]


def test_a_list_is_one_setting_a_value():
    settings = parse_setting("s: block_length=[8,16] steps=[4,8] remasking=random")
    assert [setting.name for setting in settings] == [
        "s block_length=8 steps=4",
        "s block_length=8 steps=8",
        "s block_length=16 steps=4",
        "s block_length=16 steps=8",
    ]
    assert settings[1].fields == {"block_length": 8, "steps": 8, "remasking": "random"}


def test_a_setting_can_start_from_a_preset():
    balanced, fast = parse_setting("p: preset=[balanced,fast] refresh_interval=2")
    assert (balanced.name, fast.name) == ("p preset=balanced", "p preset=fast")
    assert fast.sampler() == SamplerConfig.preset("fast", refresh_interval=2)
    assert balanced.sampler() == SamplerConfig.preset("balanced", refresh_interval=2)


def test_a_name_that_is_what_varies_is_said_once():
    assert [each.name for each in parse_setting("rule: rule=[factor,margin] cache=prompt")] == [
        "rule=factor",
        "rule=margin",
    ]


def test_stops_are_a_list_themselves():
    (setting,) = expand("s", {"stop_token_ids": [[5], [7]]})
    assert setting.sampler().stop_token_ids == [[5], [7]]


def test_a_file_says_what_words_say(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("fast: {steps: [4, 8]}\nplain:\n")
    assert read_settings(file) == [*parse_setting("fast: steps=[4,8]"), Setting("plain", {})]


def test_a_setting_goes_before_what_all_share():
    setting = Setting("s", {"steps": 8}).over(gen_length=32, steps=4, stop_token_ids=[])
    assert setting.sampler() == SamplerConfig(gen_length=32, steps=8, stop_token_ids=[])


@pytest.mark.parametrize("fields", [{"rule": "threshold"}, {"gen_length": 8}, {"gen_length": "auto"}])
def test_shared_steps_are_for_the_shared_canvas_revealed_by_schedule(fields):
    setting = Setting("s", fields).over(gen_length=32, steps=4)
    assert setting.sampler() == SamplerConfig(**{"gen_length": 32} | fields)


def test_a_setting_reads_as_python():
    setting = Setting("s", {"gen_length": 8, "remasking": "random"})
    assert eval(str(setting)) == setting.sampler()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fast: stepz=8", "setting 'fast' has stepz; SamplerConfig knows gen_length, steps"),
        ("fast: steps", "write field=value"),
        ("steps=8", "write 'name: field=value ...'"),
        (": steps=8", "write 'name: field=value ...'"),
    ],
)
def test_words_that_are_no_setting(text, told):
    with pytest.raises(ValueError, match=told.replace("...", r"\.\.\.")):
        parse_setting(text)


@pytest.mark.parametrize("text", ["- a\n", "fast: 8\n", "fast: {steps: 8\n"])
def test_a_file_that_holds_no_settings(tmp_path, text):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"settings\.yaml (is not valid YAML|must be a mapping)"):
        read_settings(file)


def test_a_missing_file_of_settings(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_settings(tmp_path / "nothing.yaml")


def test_contradicting_fields_name_their_setting():
    with pytest.raises(ValueError, match="setting 'odd': .*not a multiple of block_length"):
        Setting("odd", {"gen_length": 7, "block_length": 2}).sampler()


def test_the_plain_sampler_is_always_first():
    fast = Setting("fast", {"steps": 8})
    assert with_plain([fast]) == with_plain([fast, Setting("plain", {})]) == [Setting("plain", {}), fast]


@pytest.mark.parametrize("names", [("a", "a"), ("plain",)])
def test_two_settings_of_one_name(names):
    with pytest.raises(ValueError, match="names more than one setting"):
        with_plain([Setting(name, {"steps": 8}) for name in names])


@pytest.mark.parametrize("settings", [compared(31), compared_without_confidence(), searched(31)])
def test_every_setting_that_is_compared_by_default_exists(settings):
    for setting in with_plain(settings):
        setting.over(gen_length=31).sampler()


def test_every_cache_is_compared_with_every_rule():
    fields = [setting.fields for setting in with_plain(compared(32))]
    pairs = {(field.get("cache", "none"), field.get("rule", "top_k")) for field in fields}
    assert pairs == set(itertools.product(config.CACHES, config.RULES))


# Questions


@pytest.fixture
def questions(tmp_path):
    """Write records to a file beside a picture; returns the file."""
    Image.new("RGB", (30, 20), (200, 30, 30)).save(tmp_path / "a.png")

    def write(text, suffix=".json"):
        file = tmp_path / f"questions{suffix}"
        file.write_text(text if isinstance(text, str) else json.dumps(text))
        return file

    return write


RECORD = {"image": "a.png", "question": "How many?", "answer": "3", "source": "mine"}


def test_a_list_and_lines_hold_the_same_questions(questions):
    records = [RECORD, {"image": ["a.png", "a.png"], "question": "What differs?", "answer": "nothing"}]
    as_list = read_items(questions(records))
    as_lines = read_items(questions("\n\n".join(json.dumps(record) for record in records), ".jsonl"))
    assert [replace(item, id="") for item in as_list] == [replace(item, id="") for item in as_lines]
    assert [len(item.images) for item in as_list] == [1, 2]
    assert (as_list[0].question, as_list[0].answer) == ("How many?", "3")


def test_a_question_may_have_no_picture(questions, tiny_processor):
    items = read_items(questions([{"question": "Why?", "answer": "so"}]))
    (batch,) = question_batches(tiny_processor, items, 4, CPU)
    assert not batch.pictures and len(batch) == 1


@pytest.mark.parametrize(
    ("records", "error", "told"),
    [
        ([], ValueError, "holds no record"),
        ("", ValueError, "it is empty"),
        ("nothing", ValueError, "must hold an array of records"),
        ("[3]", ValueError, "number 0 is 3"),
        ([RECORD, {"image": "a.png", "question": "?"}], ValueError, "record 2 has answer None"),
        ([RECORD | {"question": " "}], ValueError, "record 1 has question ' '"),
        ([RECORD | {"image": 3}], ValueError, "record 1 has image 3"),
        ([RECORD | {"image": "b.png"}], FileNotFoundError, r"record 1: no picture at .*b\.png"),
        ([RECORD | {"image": "questions.json"}], ValueError, "record 1: .*questions.json"),
    ],
)
def test_a_file_that_asks_nothing_answerable(questions, records, error, told):
    with pytest.raises(error, match=told):
        read_items(questions(records))


def test_a_missing_file_of_questions(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data file at"):
        read_items(tmp_path / "nothing.json")


def test_heldout_questions_mix_the_families():
    items = heldout_items(8, seed=0)
    assert len({item.family for item in items}) == 8


def test_batches_hold_every_question_once(tiny_processor):
    items = heldout_items(5, seed=0)
    batches = list(question_batches(tiny_processor, items, 2, CPU))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [item for batch in batches for item in batch.items] == items


def test_a_random_prompt_does_not_depend_on_its_batch():
    model = LladaVConfig(**SHAPES["mid"].config)
    alone = list(random_batches(model, 3687, (768, 1024), 2, 1, seed=3, device=CPU))
    (both,) = random_batches(model, 3687, (768, 1024), 2, 2, seed=3, device=CPU)
    for name, tensors in (("input_ids", both.prompts), ("pixel_values", both.pictures)):
        parts = [(part.prompts | part.pictures)[name] for part in alone]
        assert torch.equal(torch.cat(parts), tensors[name])
    assert not torch.equal(alone[0].prompts["input_ids"], alone[1].prompts["input_ids"])
    assert int((both.prompts["input_ids"][0] == model.image_token_id).sum()) == 3627


# The floor


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_counted_work_is_that_of_the_formula(tiny_model, attention):
    text, length, wanted = tiny_model.config.text_config, 64, 32
    inputs = dict(inputs_embeds=torch.zeros(1, length, text.hidden_size), logits_at=torch.arange(length)[None] < wanted)
    before = tiny_model.config.text_config._attn_implementation
    tiny_model.set_attn_implementation(attention)
    try:
        with torch.no_grad():
            work = count_work(language_layers(tiny_model), lambda: tiny_model(**inputs))
    finally:
        tiny_model.set_attn_implementation(before)
    width, inner, layers = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    positions = [length] * (layers - 1) + [wanted]  # the last layer computes what is asked for
    expected = sum(
        2 * (2 * length * width**2 + 2 * q * width**2 + 3 * q * width * inner + 2 * q * length * width)
        for q in positions
    )
    assert work.flops == expected + 2 * wanted * width * text.vocab_size
    trunk = sum(weight.nbytes for weight in tiny_model.model.language_model.layers.parameters() if weight.dim() == 2)
    assert work.weight_bytes == trunk + tiny_model.lm_head.weight.nbytes
    assert work.cache_bytes == (2 * layers * length * width * 4 if attention == "sdpa" else 0)


def test_quantised_weights_are_fewer_bytes_and_as_many_flops(tiny_model):
    pytest.importorskip("torchao")
    quantised = copy.deepcopy(tiny_model)
    quantize(quantised, "int8")
    embeds = torch.zeros(1, 32, tiny_model.config.text_config.hidden_size)
    with torch.no_grad():
        exact, fewer = (
            count_work(language_layers(model), lambda model=model: model(inputs_embeds=embeds))
            for model in (tiny_model, quantised)
        )
    assert fewer.flops == exact.flops
    head = tiny_model.lm_head.weight.nbytes
    assert 0.25 <= (fewer.weight_bytes - head) / (exact.weight_bytes - head) < 0.27


def test_the_floor_is_the_slower_of_reading_and_computing():
    machine = Machine(bandwidth=100.0, matrix_rate=1000.0)
    assert Work(weight_bytes=300, cache_bytes=100, flops=1000).floor(machine) == 4.0
    assert Work(weight_bytes=300, cache_bytes=100, flops=9000).floor(machine) == 9.0


def test_the_machine_is_measured():
    machine = measure_machine(CPU, torch.float32, 2**22)
    assert 1e7 < machine.bandwidth < 1e14
    assert 1e7 < machine.matrix_rate < 1e16


# Memory


def test_the_peak_is_seen_and_forgotten():
    peak = PeakMemory(CPU)
    if not peak.is_measured:
        pytest.skip("this machine does not tell the peak of a process")
    peak.reset()
    before = peak.read()
    torch.ones(2**26, dtype=torch.uint8).sum()  # 64 MiB, given back at once
    assert peak.read() - before > 2**25
    peak.reset()
    assert peak.read() - before < 2**25


def test_a_peak_that_cannot_be_measured_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PROC", tmp_path)
    peak = PeakMemory(CPU)
    peak.reset()
    assert peak.read() is None


def test_free_memory_is_what_the_container_leaves(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4000 kB\n")
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "none")
    assert free_memory(CPU) == 4000 * 1024
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert free_memory(CPU) == 2000000


# Accuracy


def test_a_share_has_wilsons_interval():
    found = share([True] * 10 + [False] * 10)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.29929, 0.70071), abs=1e-5)


def test_a_share_of_nothing_or_everything_stays_within_its_interval():
    for is_right, value in (([False] * 7, 0.0), ([True] * 7, 1.0)):
        found = share(is_right)
        assert 0 <= found.low <= found.value == value <= found.high <= 1


def test_a_difference_is_paired():
    reference = [True] * 50 + [False] * 50
    swapped = reference[::-1]
    same, other = difference(reference, reference), difference(swapped, reference)
    assert same.value == other.value == 0
    assert other.high > 4 * same.high  # the same shares, but on other questions


def test_a_difference_has_the_interval_of_agresti_and_min():
    # 3 gained, 10 lost, 100 asked: d = -7/102, half = 1.96 sqrt((14/102 - d^2)/102)
    reference = [True] * 60 + [False] * 40
    is_right = [False] * 10 + [True] * 53 + [False] * 37
    found = difference(is_right, reference)
    assert (found.value, found.low, found.high) == pytest.approx((-0.07, -0.13928, 0.00203), abs=1e-5)


def test_intervals_of_differences_hold_the_truth_19_times_in_20():
    rng, held, trials = random.Random(0), 0, 2000
    for _ in range(trials):
        pairs = [(rng.random() < 0.5) for _ in range(60)]
        # A tenth of the right ones is lost, a twentieth of the wrong ones gained: the truth is -0.05 + 0.025.
        is_right = [rng.random() < (0.9 if there else 0.05) for there in pairs]
        found = difference(is_right, pairs)
        held += found.low <= -0.025 <= found.high
    assert 0.93 < held / trials < 0.99


def test_a_loss_counts_once_its_interval_leaves_zero():
    assert loses_nothing(Estimate(-0.01, -0.02, 0.0))
    assert not loses_nothing(Estimate(-0.02, -0.03, -0.001))


def test_no_answers_are_not_judged():
    for judged in (lambda: share([]), lambda: difference([], [])):
        with pytest.raises(ValueError, match="at least one question"):
            judged()
    with pytest.raises(ValueError, match="the same questions"):
        difference([True], [True, False])


def test_the_front_is_what_none_beats():
    points = [(1.0, 0.9), (2.0, 0.8), (2.0, 0.7), (3.0, 0.8), (4.0, 0.1), (3.0, 0.8), (0.5, 0.9)]
    assert front(points) == [0, 3, 4]


# The chart


def test_the_chart_shows_every_setting():
    points = [Point("plain", 1.0, 0.5, 0.4, 0.6), Point("slow", 0.9, 0.3, 0.2, 0.4), Point("fast", 9.0, 0.4, 0.3, 0.5)]
    chart = charts.points(points, [0, 2], "answers a second", "right answers", "somewhere")
    assert chart.size == (charts.POINTS_WIDTH, charts.POINTS_HEIGHT)
    colours = {colour: count for count, colour in chart.getcolors(1 << 16)}
    assert colours[charts.BLUE] > 2 * 70 and colours[charts.GREY] > 70  # discs; those on the front are joined by a line


def test_a_name_that_had_to_move_is_joined_to_its_point(monkeypatch):
    joined = []
    line = charts.Sheet.line
    monkeypatch.setattr(
        charts.Sheet, "line", lambda sheet, *at, **how: (joined.append(how.get("colour")), line(sheet, *at, **how))
    )
    far = [Point("plain", 1.0, 0.5, 0.4, 0.6), Point("fast", 9.0, 0.5, 0.4, 0.6)]
    charts.points(far, [0], "speed", "share", "title")
    assert charts.GREY not in joined
    charts.points([*far, *(Point("another", 9.0, 0.5, 0.4, 0.6),) * 3], [0], "speed", "share", "title")
    assert joined.count(charts.GREY) == 2  # one more has room on the other side


def test_a_chart_of_equal_points_with_long_names_can_be_drawn():
    points = [Point("a very long name " * 20, 1.0, 1.0, 1.0, 1.0)] * 20
    assert charts.points(points, [0], "speed", "share", "title").getbbox()
