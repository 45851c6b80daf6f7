"""What a cache may change and what not: tokens, the work of a step, its memory, and rows that share a batch.

The model is small and sharp: random weights so large that no two tokens are nearly as likely, and every word counts.
Two heads share one of keys and values. Pictures are features of random numbers, as the tower would give them.
"""

import copy
import shutil
import weakref

import pytest
import torch
from sharp import sharpened
from torch.utils._python_dispatch import TorchDispatchMode

from llada_v import LladaVConfig, LladaVForConditionalGeneration, SamplerConfig, modeling_llada
from llada_v.benchmark.shapes import build
from llada_v.generation import readers
from llada_v.generation.cache import Cache, Scope, bucket_of, scope_of

PROMPT_CACHES = [{"cache": "prompt", "refresh_interval": interval} for interval in (0, 3)]
DLLM = {"cache": "dllm", "prompt_interval": 4, "gen_interval": 3, "transfer_ratio": 0.5}
CACHES = [{}, *PROMPT_CACHES, DLLM]
MORE = [{"cfg_scale": 1.0}, {"lookahead": 2}, {"gen_length": "auto"}]
RULES = [
    {"rule": "top_k", "steps": 4},
    {"rule": "threshold", "threshold": 0.3},
    {"rule": "factor", "factor": 3.0},
    {"rule": "entropy_bound", "entropy_bound": 3.0},
    {"rule": "margin", "margin": 0.2},
]
KLASS = {"rule": "klass", "klass": 0.05, "divergence": 0.5}


def name_of(settings):
    return ",".join(f"{name}={value}" for name, value in settings.items()) or "plain"


@pytest.fixture(scope="module")
def model():
    text = dict(
        vocab_size=200,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=20_000,
        rope_base=10_000.0,
    )
    names = ("image_token_id", "mask_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    names += ("start_header_id", "end_header_id", "eot_token_id")
    ids = {name: number for number, name in enumerate(names)}
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)
    return sharpened(LladaVForConditionalGeneration(LladaVConfig(text_config=text, vision_config=vision, **ids)))


def prompts(model, lengths, seed=0):
    """Prompts of these lengths, each around a picture of its own: [(ids (1, L), features (F, D))]."""
    generator, config = torch.Generator().manual_seed(seed), model.config
    found = []
    for number, length in enumerate(lengths):
        ids = torch.randint(8, 200, (1, length), generator=generator)
        num_features = min(length - 2, 3 + number % 5)
        ids[0, 1 : 1 + num_features] = config.image_token_id
        found.append((ids, torch.randn(num_features, config.text_config.hidden_size, generator=generator)))
    return found


def batch_of(model, rows, side):
    """The rows in one batch, padded on that side."""
    width = max(ids.shape[1] for ids, _ in rows)
    ids, mask = torch.full((len(rows), width), model.config.eos_token_id), torch.zeros(len(rows), width)
    for row, (own, _) in enumerate(rows):
        at = slice(width - own.shape[1], None) if side == "left" else slice(own.shape[1])
        ids[row, at], mask[row, at] = own[0], 1
    return dict(input_ids=ids, attention_mask=mask, image_features=torch.cat([features for _, features in rows]))


def answer(model, batch, **settings):
    settings = {"gen_length": 12, "stop_token_ids": []} | settings
    return model.generate(**batch, sampler=SamplerConfig(**settings), return_dict_in_generate=True)


def alone(model, row, **settings):
    return answer(model, dict(input_ids=row[0], image_features=row[1]), **settings)


def steps_of(output, row):
    return [step[row] for step in output.order if step[row]]


# What is computed when


def test_the_scopes_follow_the_intervals():
    assert [scope_of(SamplerConfig(), step, step) for step in range(8)] == [Scope.WHOLE] * 8
    prompt = SamplerConfig(cache="prompt", refresh_interval=3)
    whole, block = Scope.WHOLE, Scope.BLOCK
    assert [scope_of(prompt, step, step % 4) for step in range(8)] == [whole, block, block, whole] * 2
    never = SamplerConfig(cache="prompt", refresh_interval=0)
    assert [scope_of(never, step, step % 4) for step in range(8)] == [whole, block, block, block] * 2


def test_the_renewals_of_prompt_and_answer_are_those_of_the_original():
    config = SamplerConfig(cache="dllm", prompt_interval=3, gen_interval=2)
    scopes = [scope_of(config, step, step % 4) for step in range(16)]
    prompt = [number + 1 for number, scope in enumerate(scopes) if scope in (Scope.WHOLE, Scope.PROMPT)]
    answers = [number + 1 for number, scope in enumerate(scopes) if scope in (Scope.WHOLE, Scope.ANSWER)]
    assert prompt == [1, 4, 7, 10, 13, 16]
    assert answers == [1, 3, 5, 7, 9, 11, 13, 15]


# The same tokens


@pytest.mark.parametrize("blocks", [{}, {"block_length": 4, "steps": 6}, {"suffix_token_ids": [20, 21]}], ids=name_of)
def test_a_prompt_cache_renewed_at_every_step_is_the_plain_sampler_bit_for_bit(model, blocks):
    (row,) = prompts(model, [20])
    seen = []
    for cache in ({}, {"cache": "prompt", "refresh_interval": 1}):
        sampler = SamplerConfig(gen_length=12, stop_token_ids=[], **blocks, **cache)
        states = []
        model.generate(
            row[0],
            image_features=row[1],
            sampler=sampler,
            callback=lambda state, states=states: states.append((state.canvas.clone(), state.confidence.clone())),
        )
        seen.append(states)
    for plain, cached in zip(*seen, strict=True):
        assert torch.equal(plain[0], cached[0]) and torch.equal(plain[1], cached[1])


@pytest.mark.parametrize(
    "cache",
    [
        {"prompt_interval": 1, "gen_interval": 1, "transfer_ratio": 0.0},
        {"prompt_interval": 1, "gen_interval": 5, "transfer_ratio": 1.0},
    ],
    ids=name_of,
)
@pytest.mark.parametrize("blocks", [{}, {"block_length": 4, "steps": 6}, {"suffix_token_ids": [20, 21]}], ids=name_of)
def test_a_feature_cache_that_computes_everything_is_the_plain_sampler(model, cache, blocks):
    (row,) = prompts(model, [20])
    expected, found = alone(model, row, **blocks), alone(model, row, cache="dllm", **cache, **blocks)
    assert found.answers[0].tolist() == expected.answers[0].tolist() and found.order == expected.order


@pytest.mark.parametrize("cache", CACHES[1:], ids=name_of)
def test_a_cache_that_is_not_renewed_changes_what_is_found(model, cache):
    """So the tests of equality above could fail."""
    plain, cached = alone(model, prompts(model, [20])[0]), alone(model, prompts(model, [20])[0], **cache)
    assert plain.order != cached.order or plain.answers[0].tolist() != cached.answers[0].tolist()


def test_a_block_is_read_with_the_keys_and_values_of_the_last_whole_call(model):
    """Against the definition: a second pass in which every other position still stands on the first canvas."""
    (row,) = prompts(model, [20])
    trunk, config = model.model.language_model, model.config
    canvases, kept = [], {}
    sampler = SamplerConfig(gen_length=8, block_length=4, cache="prompt", refresh_interval=0, stop_token_ids=[])
    confidences = []

    def watch(state):
        canvases.append(state.canvas.clone())
        confidences.append(state.confidence.clone())

    model.generate(row[0], image_features=row[1], sampler=sampler, callback=watch)

    def embeds(canvas):
        return torch.cat((model.model.embed(row[0], row[1]), model.get_input_embeddings()(canvas)), dim=1)

    first, second = embeds(torch.full((1, 8), config.mask_token_id)), embeds(canvases[0])
    handles = []
    for number, layer in enumerate(trunk.layers):
        for name in ("k_proj", "v_proj"):

            def remember(module, args, output, key=(number, name)):
                kept.setdefault(key, output)
                return torch.cat((kept[key][:, :20], output[:, 20:24], kept[key][:, 24:]), dim=1)

            handles.append(getattr(layer.self_attn, name).register_forward_hook(remember))
    try:
        trunk(inputs_embeds=first)
        hidden = trunk(inputs_embeds=second).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    shares = model.lm_head(hidden[0, 20:24]).double()
    shares[:, config.never_generated_ids()] = -torch.inf
    shares = shares.softmax(-1)
    revealed = int((canvases[1] != canvases[0]).nonzero()[0, 1])
    token = int(canvases[1][0, revealed])
    assert int(shares[revealed].argmax()) == token
    assert torch.allclose(confidences[1][0, revealed], shares[revealed, token], atol=1e-6)


# Rows of a batch


ENDS = [[token] for token in range(30, 46)]  # tokens that come up now and then


@pytest.mark.parametrize("cache", CACHES, ids=name_of)
def test_tokens_of_a_row_do_not_depend_on_the_batch(model, cache):
    rows = prompts(model, [9 + 3 * number % 14 for number in range(16)])
    settings = {"gen_length": 8, "stop_token_ids": ENDS} | cache
    expected = [alone(model, row, **settings) for row in rows]
    assert len({len(output.answers[0]) for output in expected}) > 2
    for size, side in ((2, "left"), (7, "right"), (16, "left")):
        found = answer(model, batch_of(model, rows[:size], side), **settings)
        for row in range(size):
            assert found.answers[row].tolist() == expected[row].answers[0].tolist()
            assert steps_of(found, row) == steps_of(expected[row], 0)


@pytest.mark.parametrize("cache", CACHES, ids=name_of)
@pytest.mark.parametrize("rule", [*RULES, KLASS], ids=lambda rule: rule["rule"])
def test_rows_that_need_different_numbers_of_steps_do_not_disturb_each_other(model, cache, rule):
    rows = prompts(model, [9, 16, 23, 11], seed=1)
    settings = {"block_length": 6, "stop_token_ids": ENDS} | cache | rule
    found = answer(model, batch_of(model, rows, "left"), **settings)
    for number, row in enumerate(rows):
        expected = alone(model, row, **settings)
        assert found.answers[number].tolist() == expected.answers[0].tolist()
        assert steps_of(found, number) == steps_of(expected, 0)
    assert len({len(steps_of(found, number)) for number in range(4)}) > 1


# Lookahead


@pytest.mark.parametrize("cache", [{}, *PROMPT_CACHES], ids=name_of)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["rule"])
def test_lookahead_takes_the_very_steps_of_the_sampler_without_it(model, cache, rule):
    for row in prompts(model, [9, 16, 23], seed=2):
        settings = {"gen_length": 16, "block_length": 8} | cache | rule
        plain, ahead = alone(model, row, **settings), alone(model, row, lookahead=3, **settings)
        assert ahead.answers[0].tolist() == plain.answers[0].tolist() and ahead.order == plain.order
        assert ahead.num_forwards <= plain.num_forwards


def test_lookahead_in_a_batch_finds_what_each_row_finds_alone(model):
    rows = prompts(model, [9, 16, 23, 11], seed=3)
    stop = [[int(alone(model, rows[1]).answers[0][4])]]
    for cache in ({}, *PROMPT_CACHES):
        found = answer(model, batch_of(model, rows, "right"), lookahead=2, stop_token_ids=stop, **cache)
        for number, row in enumerate(rows):
            expected = alone(model, row, stop_token_ids=stop, **cache)
            assert found.answers[number].tolist() == expected.answers[0].tolist()
            assert steps_of(found, number) == expected_steps(expected)


def test_a_callback_sees_each_step_that_lookahead_takes(model):
    (row,) = prompts(model, [16], seed=2)
    seen = [], []
    for lookahead, states in zip((0, 3), seen, strict=True):

        def watch(state, states=states):
            states.append((state.step, state.revealed, state.canvas.tolist(), state.confidence.count_nonzero().item()))

        sampler = SamplerConfig(gen_length=12, stop_token_ids=[], lookahead=lookahead)
        model.generate(row[0], image_features=row[1], sampler=sampler, callback=watch)
    assert seen[0] == seen[1] and [step for step, *_ in seen[0]] == list(range(1, 13))


def expected_steps(output):
    return [step[0] for step in output.order]


@pytest.mark.slow
@pytest.mark.parametrize("lookahead", [1, 4])
def test_lookahead_equals_the_plain_tokens_of_200_prompts(model, lookahead):
    rows = prompts(model, [9 + number % 23 for number in range(200)], seed=4)
    batch = batch_of(model, rows, "left")
    plain, ahead = answer(model, batch, gen_length=32), answer(model, batch, gen_length=32, lookahead=lookahead)
    assert torch.equal(plain.sequences, ahead.sequences) and plain.order == ahead.order


# An answer that grows


def test_the_canvas_grows_until_the_end_is_in_sight_or_the_most_is_reached(model, monkeypatch):
    """The head favours the stop at the canvas positions from 40 on, an ordinary token in front."""
    row, config = prompts(model, [20])[0], model.config
    trunk, head, places = model.model.language_model, model.lm_head.forward, []
    run = trunk.run

    def note(hidden, rotary, mask, positions, caches):
        places.append(positions)
        return run(hidden, rotary, mask, positions, caches)

    end = 40

    def favour(hidden):
        bonus = torch.zeros(len(hidden), config.text_config.vocab_size)
        at = places[-1][0, : len(hidden)] - 20
        bonus[at < end, 30] = bonus[at >= end, config.eot_token_id] = 1000.0
        return head(hidden) + bonus

    monkeypatch.setattr(trunk, "run", note)
    monkeypatch.setattr(model.lm_head, "forward", favour)
    sampler = SamplerConfig(gen_length="auto", block_length=8, max_gen_length=128, rule="threshold")
    found = model.generate(row[0], image_features=row[1], sampler=sampler, return_dict_in_generate=True)
    assert found.answers[0].tolist() == [30] * 40
    assert found.sequences.shape[1] == 20 + 64  # 8, 16, 32, 64
    end = 1000
    found = model.generate(row[0], image_features=row[1], sampler=sampler, return_dict_in_generate=True)
    assert found.answers[0].tolist() == [30] * 128


@pytest.mark.parametrize("cache", [{}, *PROMPT_CACHES], ids=name_of)
@pytest.mark.parametrize("lookahead", [0, 2])
def test_rows_that_grow_to_different_lengths_do_not_disturb_each_other(model, cache, lookahead):
    rows = prompts(model, [9, 16, 23, 11], seed=5)
    settings = dict(gen_length="auto", block_length=4, max_gen_length=32, lookahead=lookahead, **cache)
    settings["stop_token_ids"] = ENDS
    found = answer(model, batch_of(model, rows, "left"), **settings)
    lengths = set()
    for number, row in enumerate(rows):
        expected = alone(model, row, **settings)
        lengths.add(expected.sequences.shape[1] - row[0].shape[1])
        assert found.answers[number].tolist() == expected.answers[0].tolist()
        assert steps_of(found, number) == expected_steps(expected)
    assert len(lengths) > 1


# The work of a step


def watched(model, run):
    """The number of positions that each MLP of the first and last layer saw in each call of `run`."""
    layers = model.model.language_model.layers
    seen = [], []
    handles = [
        layer.mlp.register_forward_hook(lambda module, args, output, widths=widths: widths.append(output.shape[1]))
        for layer, widths in zip((layers[0], layers[-1]), seen, strict=True)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def test_between_renewals_a_step_runs_the_positions_of_the_block_alone(model):
    (row,) = prompts(model, [50])
    settings = dict(gen_length=12, block_length=4, cache="prompt", refresh_interval=3)
    first, last = watched(model, lambda: alone(model, row, **settings))
    assert first == [62, 4, 4, 62] * 3
    assert last == [32, 4, 4, 32] * 3  # the positions that are wanted, rounded up


def test_between_renewals_a_feature_cache_runs_the_share_that_changed(model):
    (row,) = prompts(model, [50])
    settings = dict(gen_length=12, cache="dllm", prompt_interval=6, gen_interval=3, transfer_ratio=0.25, steps=9)
    first, _ = watched(model, lambda: alone(model, row, **settings))
    assert first == [62, 3, 3, 12, 3, 3, 62, 3, 3]


class Allocations(TorchDispatchMode):
    """Notes how many bytes each operation's results hold, views counted as what they look into, and their peak.

    peak: the most bytes that all results made so far held together.
    """

    def __init__(self):
        super().__init__()
        self.sizes, self.peak = [], 0
        self.live = {}  # address -> [bytes, tensors that look into it]
        self.noted = set()  # ids of these tensors

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        given = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        for tensor in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.sizes.append(tensor.untyped_storage().nbytes())
            if isinstance(tensor, torch.Tensor):
                self.hold(tensor)
        self.peak = max(self.peak, sum(size for size, _ in self.live.values()))
        return found

    def hold(self, tensor):
        """Count a result for as long as something can look into it."""
        storage = tensor.untyped_storage()
        if id(tensor) not in self.noted:
            self.noted.add(id(tensor))
            self.live.setdefault(storage.data_ptr(), [storage.nbytes(), 0])[1] += 1
            weakref.finalize(tensor, self.release, id(tensor), storage.data_ptr())

    def release(self, tensor, address):
        """A tensor less looks there."""
        self.noted.remove(tensor)
        self.live[address][1] -= 1
        if self.live[address][1] == 0:
            del self.live[address]


def test_a_step_of_the_block_copies_no_kept_key_or_value(model):
    """Between renewals nothing as large as one layer's keys is made."""
    (row,) = prompts(model, [400])
    largest = []

    def note(state):
        largest.append(max(watch.sizes))
        watch.sizes.clear()

    sampler = SamplerConfig(gen_length=8, cache="prompt", refresh_interval=0, steps=4, stop_token_ids=[])
    with Allocations() as watch:
        model.generate(row[0], image_features=row[1], sampler=sampler, callback=note)
    keys = 408 * 24 * 4  # positions x width of two heads of keys, float32
    assert largest[0] >= keys  # the watch works
    assert max(largest[1:]) < keys / 2


@pytest.mark.parametrize(
    "settings",
    [
        {},
        PROMPT_CACHES[1],
        DLLM,
        *(pytest.param(more, marks=pytest.mark.slow) for more in MORE),
    ],
    ids=name_of,
)
def test_memory_grows_with_the_length_and_never_with_its_square(model, settings):
    """Nothing of L x L or L x V: from 4,096 to 8,192 positions the largest tensor and the peak double at most."""
    largest, peaks = [], []
    settings = {"gen_length": 8, "stop_token_ids": [[9]]} | settings
    if settings["gen_length"] == "auto":
        settings |= {"max_gen_length": 8, "block_length": 4, "rule": "threshold", "threshold": 0.0}
    else:
        settings["steps"] = 4 if "cache" in settings else 2
    for length in (4096, 8192):
        (row,) = prompts(model, [length])
        with Allocations() as watch:
            model.generate(row[0], image_features=row[1], sampler=SamplerConfig(**settings))
        largest.append(max(watch.sizes))
        peaks.append(watch.peak)
    assert largest[0] <= peaks[0]
    assert largest[1] <= 2.1 * largest[0] and peaks[1] <= 2.1 * peaks[0]
    assert largest[1] < 8192 * model.config.text_config.vocab_size * 4


@pytest.mark.parametrize("cache", [{}, PROMPT_CACHES[1]], ids=name_of)
def test_padding_makes_no_tensor_of_the_length_squared_either(model, cache):
    largest = []
    for length in (2048, 4096):
        batch = batch_of(model, prompts(model, [length, length - 100]), "left")
        sampler = SamplerConfig(gen_length=8, stop_token_ids=[], steps=2, **cache)
        with Allocations() as watch:
            model.generate(**batch, sampler=sampler)
        largest.append(max(watch.sizes))
    assert largest[1] <= 2.1 * largest[0]


# Other numbers, other machines


def test_caches_keep_the_models_own_dtype(model):
    """In bfloat16 too a cache that is renewed at every step is the plain sampler bit for bit."""
    half = copy.deepcopy(model).bfloat16()
    ids, features = prompts(model, [20])[0]
    row = ids, features.bfloat16()
    plain = alone(half, row)
    for cache in ({"cache": "prompt", "refresh_interval": 1}, DLLM | {"prompt_interval": 1, "gen_interval": 1}):
        found = alone(half, row, **cache)
        assert found.answers[0].tolist() == plain.answers[0].tolist() and found.order == plain.order
    assert len(alone(half, row, cache="prompt", refresh_interval=0).answers[0]) == 12


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler on a CPU; there is no c++ here")
@pytest.mark.parametrize("cache", [{}, PROMPT_CACHES[1]], ids=name_of)
def test_a_compiled_trunk_finds_the_same(model, cache):
    for row in prompts(model, [20, 33]):
        plain, compiled = alone(model, row, **cache), alone(model, row, compile=True, **cache)
        assert compiled.answers[0].tolist() == plain.answers[0].tolist() and compiled.order == plain.order


# Compiled


@pytest.fixture
def graphs(monkeypatch):
    """What torch.compile builds, noted and run as it is; compiled answers are filled up to buckets."""
    found = []

    def note(graph, inputs):
        found.append(graph)
        return graph.forward

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, mode, dynamic: compile(run, backend=note, dynamic=dynamic))
    modeling_llada.compiled_run.cache_clear()
    yield found
    modeling_llada.compiled_run.cache_clear()
    torch._dynamo.reset()


@pytest.fixture
def filled(monkeypatch):
    """Compiled answers are filled up to buckets, and run as they are: building takes long."""
    monkeypatch.setattr(readers, "captures", lambda device: True)
    monkeypatch.setattr(modeling_llada, "compiled_run", lambda kind: modeling_llada.LladaModel.run)


@pytest.mark.slow
@pytest.mark.parametrize("fills", [False, True], ids=["as they are", "filled"])
def test_another_prompt_length_builds_nothing_and_finds_the_plain_tokens(graphs, monkeypatch, fills):
    monkeypatch.setattr(readers, "captures", lambda device: fills)
    model = sharpened(build("small", torch.device("cpu"), torch.float32))
    settings, built = {"gen_length": 8, "cache": "prompt", "refresh_interval": 0}, []
    for length in (70, 71, 90, 120):  # with the canvas none is a width of the model: those are known numbers
        row = torch.randint(8, 200, (1, length), generator=torch.Generator().manual_seed(length)), None
        plain, compiled = alone(model, row, **settings), alone(model, row, compile=True, **settings)
        assert compiled.answers[0].tolist() == plain.answers[0].tolist() and compiled.order == plain.order
        built.append(len(graphs))
    assert built == [2] * 4  # the whole sequence and the block


def test_lengths_of_a_bucket_share_their_buffers_and_answers_at_once_do_not(model, filled, monkeypatch):
    caches, make = [], Cache.__init__
    monkeypatch.setattr(Cache, "__init__", lambda self, *given: (make(self, *given), caches.append(self))[0])
    settings = {"gen_length": 8, "cache": "prompt", "compile": True}
    for length in (20, 21, 60):
        alone(model, prompts(model, [length])[0], **settings)
    buffers = [cache.layers[0].key for cache in caches]
    assert buffers[0] is buffers[1] and buffers[2] is not buffers[0]
    inner = []

    def answer_within(state):
        if not inner:
            inner.append(alone(model, prompts(model, [22])[0], **settings))

    ids, features = prompts(model, [21])[0]
    expected = alone(model, (ids, features), **settings)
    found = model.generate(
        ids,
        image_features=features,
        sampler=SamplerConfig(stop_token_ids=[], **settings),
        callback=answer_within,
        return_dict_in_generate=True,
    )
    assert found.answers[0].tolist() == expected.answers[0].tolist() and inner


GROWS = {"gen_length": "auto", "max_gen_length": 16, "block_length": 4, "stop_token_ids": ENDS}


@pytest.mark.parametrize("settings", [{"cfg_scale": 0.7}, GROWS, *PROMPT_CACHES], ids=name_of)
def test_filler_of_a_bucket_is_seen_by_nobody(model, filled, settings):
    rows = prompts(model, [20, 13])
    plain = answer(model, batch_of(model, rows, "left"), **settings)
    filled = answer(model, batch_of(model, rows, "left"), compile=True, **settings)
    assert [ids.tolist() for ids in filled.answers] == [ids.tolist() for ids in plain.answers]
    assert filled.order == plain.order


def test_buckets_are_few_and_add_an_eighth_at_most():
    lengths = {length: bucket_of(length) for length in range(1, 20_000)}
    assert all(length < bucket <= max(length * 9 / 8, length + 16) for length, bucket in lengths.items())
    assert len(set(lengths.values())) < 80
