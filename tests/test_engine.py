"""The engine: a request's tokens are those that `generate` gives it alone, whatever runs beside it; nothing leaks."""

import queue
import random
import threading

import pytest
import torch

from llada_v import SamplerConfig
from llada_v.answering import load
from llada_v.conversation import user_message
from llada_v.errors import WrongValue
from llada_v.generation import packing
from llada_v.generation.pool import Pool
from llada_v.serving.engine import Engine, EngineConfig, Failed, Finished, Full, Request, Step, Stopping, TooLarge
from llada_v.toyworld import make_scene
from llada_v.toyworld.scenes import draw

QUESTIONS = ("How many objects are there?", "List everything.", "What colour is the circle?", "Is there a red star?")


@pytest.fixture(scope="module")
def trained():
    """The model that ships, and its processor."""
    return load(device="cpu")


def picture(seed):
    """A drawn picture of the small world."""
    return draw(make_scene(random.Random(seed)))


def inputs_of(processor, question, images=()):
    """What the processor makes of a question."""
    return dict(
        processor.apply_chat_template(
            [user_message(question, images)],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    )


def alone(model, processor, inputs, sampler, seed=0):
    """The ids that `generate` finds."""
    found = model.generate(
        **inputs,
        sampler=sampler,
        generator=torch.Generator().manual_seed(seed),
        tokenizer=processor.tokenizer,
        return_dict_in_generate=True,
    )
    return found.answers[0].tolist(), found.texts[0]


class Listener:
    """Collects a request's events."""

    def __init__(self):
        self.events = queue.Queue()

    def __call__(self, event):
        self.events.put(event)

    def result(self, timeout=120):
        """The last event, and the steps before it."""
        steps = []
        while isinstance(event := self.events.get(timeout=timeout), Step):
            steps.append(event)
        return event, steps


@pytest.fixture
def engine(trained):
    made = Engine(*trained, EngineConfig(pool_tokens=4096, tick_tokens=1024, max_running=8)).start()
    yield made
    made.close()


SAMPLERS = (
    SamplerConfig(gen_length=32),
    SamplerConfig(gen_length=16, steps=4),
    SamplerConfig(gen_length=32, block_length=8, cache="prompt", refresh_interval=3),
    SamplerConfig(gen_length=32, cache="prompt", refresh_interval=0, rule="factor"),
    SamplerConfig(gen_length=32, block_length=16, rule="threshold", cache="prompt"),
    SamplerConfig(gen_length=24, rule="entropy_bound", cache="prompt", lookahead=2),
    SamplerConfig(gen_length=16, lookahead=3, rule="margin"),
    SamplerConfig(gen_length="auto", cache="prompt", rule="frechet", max_gen_length=64),
    SamplerConfig(gen_length="auto", block_length=8, max_gen_length=64, lookahead=1),
    SamplerConfig(gen_length=16, cfg_scale=0.7, rule="threshold"),
    SamplerConfig(gen_length=16, cache="dllm", steps=8),
    SamplerConfig(gen_length=16, temperature=0.8, cache="prompt"),
    SamplerConfig(gen_length=16, merge_features=0.5, cache="prompt"),
    SamplerConfig(gen_length=16, remasking="random", temperature=0.3),
    SamplerConfig(gen_length=16, block_length=2, cache="prompt"),
    SamplerConfig(gen_length=16, stop_strings=["e"], suffix_token_ids=[40, 41], cache="prompt"),
    SamplerConfig(gen_length=16, constraint={"choices": ["red", "blue", "green"]}, rule="factor"),
    SamplerConfig(gen_length=24, constraint={"template": "There are {integer}, {choice:yes|no}."}, rule="factor"),
)

FURTHER = (
    SamplerConfig(gen_length=8, rule="threshold"),
    SamplerConfig(gen_length=128, block_length=32, steps=32, cache="prompt", refresh_interval=8),
    SamplerConfig(gen_length=128, rule="factor"),
)


def test_every_kind_of_request_gets_beside_others_what_generate_gives_it_alone(trained, engine):
    model, processor = trained
    asked = []
    for number, sampler in enumerate(SAMPLERS):
        images = [picture(number + place) for place in range(number % 3)]
        asked.append((inputs_of(processor, QUESTIONS[number % len(QUESTIONS)], images), sampler))
    expected = [alone(model, processor, inputs, sampler, seed=7) for inputs, sampler in asked]
    listeners = [Listener() for _ in asked]
    for (inputs, sampler), listener in zip(asked, listeners, strict=True):
        engine.submit(Request(inputs, sampler, listener, seed=7))
    for number, (listener, (ids, text)) in enumerate(zip(listeners, expected, strict=True)):
        event, _ = listener.result()
        assert isinstance(event, Finished), (number, event)
        assert (event.token_ids, event.text) == (ids, text), number
    assert engine.pool.used == 0 and not engine.running


def test_fused_attention_reads_the_same_keys_as_sequence_by_sequence(trained, monkeypatch):
    """The kernel itself needs a GPU; what it is told is checked with a plain one."""
    model, processor = trained
    calls = []

    def plain(query, key, value, query_ends, key_ends, most_queries, most_keys, scale, enable_gqa):
        calls.append(len(query_ends) - 1)
        found = []
        for place in range(len(query_ends) - 1):
            asked, seen = (slice(ends[place], ends[place + 1]) for ends in (query_ends, key_ends))
            parts = (part.transpose(0, 1)[None] for part in (query[asked], key[seen], value[seen]))
            found.append(torch.nn.functional.scaled_dot_product_attention(*parts, scale=scale)[0].transpose(0, 1))
        assert most_queries == query_ends.diff().max() and most_keys == key_ends.diff().max()
        return torch.cat(found)

    monkeypatch.setattr(packing, "varlen_attn", plain)
    monkeypatch.setattr(packing, "mixer_of", lambda device, dtype: packing.fused)
    samplers = [sampler for sampler in SAMPLERS if sampler.cache != "dllm"]
    asked = [
        (inputs_of(processor, QUESTIONS[number % 4], [picture(number)]), each) for number, each in enumerate(samplers)
    ]
    expected = [alone(model, processor, inputs, sampler, seed=7) for inputs, sampler in asked]
    engine, listeners = Engine(model, processor), [Listener() for _ in asked]
    for (inputs, sampler), listener in zip(asked, listeners, strict=True):
        engine.submit(Request(inputs, sampler, listener, seed=7))
    while engine.queue or engine.running:
        engine.tick()
    assert [listener.result()[0].token_ids for listener in listeners] == [ids for ids, _ in expected]
    assert max(calls) > 1


def test_steps_tell_what_each_revealed_and_how_sure_it_was(trained, engine):
    model, processor = trained
    listener = Listener()
    sampler = SamplerConfig(gen_length=16, rule="factor", cache="prompt", lookahead=1)
    inputs = inputs_of(processor, QUESTIONS[1], [picture(3)])
    engine.submit(Request(inputs, sampler, listener, watches=True, runners_up=3))
    event, steps = listener.result()
    assert [step.revealed for step in steps] == event.order
    for step in steps:
        assert step.runners_up.keys() == set(step.revealed)
        for position in step.revealed:
            (best, logprob), *_ = step.runners_up[position]
            assert best == step.canvas[position]
            assert torch.tensor(logprob).exp().item() == pytest.approx(step.confidence[position], abs=1e-5)


def test_a_cancelled_request_is_gone_within_a_tick_and_the_others_go_on(trained):
    model, processor = trained
    engine = Engine(model, processor, EngineConfig(pool_tokens=2048))
    sampler = SamplerConfig(gen_length=32, cache="prompt", stop_token_ids=[])
    listeners = [Listener(), Listener()]
    jobs = [
        engine.submit(Request(inputs_of(processor, question), sampler, listener))
        for question, listener in zip(QUESTIONS, listeners, strict=False)
    ]
    for _ in range(3):
        engine.tick()
    used = engine.pool.used
    engine.cancel(jobs[0])
    engine.tick()
    assert engine.running == [jobs[1]] and engine.pool.used == used - jobs[0].stretch
    while engine.running:
        engine.tick()
    assert listeners[0].events.empty() and isinstance(listeners[1].events.get(), Finished)
    assert engine.pool.used == 0 and engine.counts["cancelled"] == 1


def test_what_can_never_be_let_in_is_refused_with_both_numbers(trained):
    model, processor = trained
    inputs = inputs_of(processor, QUESTIONS[0])
    length = inputs["input_ids"].shape[1]

    def refused(config, sampler):
        with pytest.raises(TooLarge) as told:
            Engine(model, processor, EngineConfig(**config)).submit(Request(inputs, sampler, print))
        return str(told.value)

    kept = SamplerConfig(gen_length=32, cache="prompt", lookahead=1)
    assert f"{2 * (length + 32)} positions in the pool, which has 64" in refused({"pool_tokens": 64}, kept)
    plain = SamplerConfig(gen_length=32)
    assert f"{length + 32} positions in one call, and a tick computes 50" in refused({"tick_tokens": 50}, plain)
    assert "logits in one call" in refused({"tick_logits": 1000}, plain)
    with pytest.raises(WrongValue, match="rule 'klass' holds"):
        Engine(model, processor).submit(Request(inputs, SamplerConfig(rule="klass"), print))
    with pytest.raises(WrongValue, match="keep_features makes a prompt shorter"):
        Engine(model, processor).submit(Request(inputs, SamplerConfig(keep_features=0.5), print))
    with pytest.raises(WrongValue, match="compile"):
        Engine(model, processor).submit(Request(inputs, SamplerConfig(compile=True), print))


def test_a_full_queue_turns_away_and_says_when_to_come_back(trained):
    model, processor = trained
    engine = Engine(model, processor, EngineConfig(max_running=1, queue_length=1))
    inputs = inputs_of(processor, QUESTIONS[0])
    for _ in range(2):
        engine.submit(Request(inputs, SamplerConfig(), print))
    with pytest.raises(Full) as told:
        engine.submit(Request(inputs, SamplerConfig(), print))
    assert told.value.retry_after >= 1 and "queue_length 1" in str(told.value)


def test_requests_wait_for_room_in_the_pool_and_come_in_in_order(trained):
    model, processor = trained
    inputs, sampler = (
        inputs_of(processor, QUESTIONS[0]),
        SamplerConfig(gen_length=16, steps=2, cache="prompt", stop_token_ids=[]),
    )
    room = inputs["input_ids"].shape[1] + 16
    engine = Engine(model, processor, EngineConfig(pool_tokens=2 * room))
    order = []
    for number in range(5):
        engine.submit(Request(inputs, sampler, lambda event, number=number: order.append(number)))
    most = 0
    while engine.queue or engine.running:
        engine.tick()
        most = max(most, len(engine.running))
    assert order == [0, 1, 2, 3, 4] and most == 2


def test_renewals_that_do_not_fit_one_tick_are_spread_and_none_waits_for_ever(trained):
    model, processor = trained
    inputs = inputs_of(processor, QUESTIONS[0])
    sampler = SamplerConfig(gen_length=32, cache="prompt", refresh_interval=2, stop_token_ids=[])
    length = inputs["input_ids"].shape[1] + 32
    engine = Engine(model, processor, EngineConfig(tick_tokens=length + 40, max_running=4))
    done = []
    for _ in range(4):
        engine.submit(Request(inputs, sampler, done.append))
    while engine.queue or engine.running:
        engine.tick()
    assert len({tuple(event.token_ids) for event in done}) == 1 and len(done) == 4
    assert 0 < max(engine.waits) < 4


def test_an_engine_that_closes_finishes_what_it_has_and_takes_nothing_new(trained):
    model, processor = trained
    engine, listener = Engine(model, processor).start(), Listener()
    inputs = inputs_of(processor, QUESTIONS[0])
    engine.submit(Request(inputs, SamplerConfig(gen_length=32), listener))
    assert engine.close(60)
    assert isinstance(listener.result()[0], Finished)
    with pytest.raises(Stopping):
        engine.submit(Request(inputs, SamplerConfig(), print))


def test_a_request_out_of_time_fails_alone(trained):
    model, processor = trained
    engine, listener = Engine(model, processor), Listener()
    engine.submit(Request(inputs_of(processor, QUESTIONS[0]), SamplerConfig(), listener, seconds=1e-9))
    engine.tick()
    event, _ = listener.result()
    assert isinstance(event, Failed) and "more than 1e-09 seconds" in str(event.error)
    assert not engine.running and not engine.queue


def test_features_of_pictures_are_kept_for_the_next_request(trained):
    model, processor = trained
    engine = Engine(model, processor)
    inputs = inputs_of(processor, QUESTIONS[0], [picture(5)])
    for _ in range(2):
        engine.submit(Request(inputs, SamplerConfig(gen_length=8), print))
        while engine.queue or engine.running:
            engine.tick()
    assert (engine.memory.num_made, engine.memory.num_found) == (1, 1)


def test_the_pool_joins_what_comes_back():
    sizes = type("Sizes", (), {"num_key_value_heads": 1, "head_dim": 2, "num_hidden_layers": 1})
    pool = Pool(sizes, 10, torch.float32, torch.device("cpu"))
    starts = [pool.take(length) for length in (3, 4, 3)]
    assert starts == [0, 3, 7] and pool.take(1) is None
    for start, length in ((0, 3), (7, 3), (3, 4)):
        pool.give_back(start, length)
    assert pool.gaps == [(0, 10)] and pool.used == 0
    assert pool.num_bytes == 2 * 10 * 2 * 4


@pytest.mark.slow
def test_a_thousand_mixed_requests_arriving_at_random_get_what_generate_gives_each_alone(trained):
    """One and several pictures and text of 50 to 1,500 tokens, canvases of 8 to 128, every rule and cache, a tenth
    cancelled, up to 32 at once."""
    model, processor = trained
    chance = random.Random(0)
    engine = Engine(model, processor, EngineConfig(max_running=32, queue_length=2000)).start()
    asked, known = [], {}
    for _ in range(1000):
        sampler, question = chance.choice((*SAMPLERS, *FURTHER)), chance.choice(QUESTIONS)
        more = chance.choice((0, 0, 140, 700, 1200)) // len(processor.encode(f" {question}"))
        question = " ".join([question] * (1 + more))
        images = [picture(chance.randrange(40)) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
        asked.append((inputs_of(processor, question, images), sampler, chance.randrange(3)))
    listeners, cancelled, jobs = [Listener() for _ in asked], set(), []
    stop = threading.Event()
    for number, (inputs, sampler, seed) in enumerate(asked):
        jobs.append(engine.submit(Request(inputs, sampler, listeners[number], seed=seed)))
        stop.wait(chance.random() * 0.02)
        if chance.random() < 0.1:
            victim = chance.randrange(max(0, number - 40), number + 1)
            engine.cancel(jobs[victim])
            cancelled.add(victim)
    lengths = [inputs["input_ids"].shape[1] for inputs, _, _ in asked]
    assert min(lengths) <= 60 and 1400 <= max(lengths)
    differences = 0
    for number, (inputs, sampler, seed) in enumerate(asked):
        if number in cancelled:
            continue
        event, _ = listeners[number].result(timeout=3600)
        pixels = inputs.get("pixel_values", torch.zeros(1)).double().sum().item()
        key = (tuple(inputs["input_ids"][0].tolist()), id(sampler), seed, pixels)
        if key not in known:
            known[key] = alone(model, processor, inputs, sampler, seed)
        differences += (event.token_ids, event.text) != known[key]
    engine.close()
    waits = sorted(engine.waits)
    print(f"{differences} differences; ticks waited: p50 {waits[len(waits) // 2]}, p99 {waits[len(waits) * 99 // 100]}")
    assert differences == 0
