"""The command line: options reach the sampler, answers come out as lines or JSON, and errors say what is wrong."""

import dataclasses
import errno
import importlib.util
import json
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature

import llada_v.answering
from llada_v import SamplerConfig, cli, errors, quantization
from llada_v import convert as conversion
from llada_v.cli import options
from llada_v.generation.sampler import SamplerOutput, sample
from llada_v.shipped import ROOT
from llada_v.training import train as training
from llada_v.training.recipe import load_recipe

EOT, MASK = 1, 0
RECIPE = ROOT / "scripts" / "recipes" / "sft.yaml"
ANSWER = "two stars"


class ScriptedProcessor:
    """Ids are code points; remembers the messages it was given."""

    config = SimpleNamespace(eot_token_id=EOT)
    reproduce_original = False

    def __init__(self):
        self.messages = []
        self.tokenizer = self

    def get_added_vocab(self):
        return {"<eot>": EOT}

    def encode(self, text):
        return [ord(letter) for letter in text]

    def convert_ids_to_tokens(self, token):
        return chr(token).replace(" ", "\u0120")

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(token) for token in ids if token > 1 or not skip_special_tokens)

    def apply_chat_template(self, messages, **options):
        self.messages.append(messages)
        return BatchFeature({"input_ids": torch.ones(1, 4, dtype=torch.long)})


class ScriptedModel:
    """Answers ANSWER to everything, through the real sampling loop; remembers the sampler."""

    device = torch.device("cpu")
    generation_config = SimpleNamespace(max_new_tokens=64)

    def generate(self, input_ids, sampler, generator, callback, tokenizer, return_dict_in_generate):
        self.sampler, self.seed = sampler, generator.initial_seed()
        ids = torch.tensor([ord(letter) for letter in ANSWER] + [EOT] * (sampler.canvas_length - len(ANSWER)))

        def logits_of(call):
            positions = call.is_open.nonzero()[:, 1]
            logits = torch.zeros(len(positions), 128)
            # The front is surest, so the answer appears from left to right.
            logits[torch.arange(len(positions)), ids[positions]] = 20.0 - positions.float() / 10
            return logits

        def decode(ids):
            return tokenizer.decode(ids, skip_special_tokens=True)

        found = sample(logits_of, 1, sampler, MASK, [[EOT]], generator, callback, decode)
        suffix = torch.tensor(sampler.suffix_token_ids, dtype=torch.long)
        answer = torch.cat((found.canvas[0, : int(found.ends[0])], suffix))
        texts = [found.texts[0] + decode(suffix.tolist())]
        sure = torch.cat((found.confidence[0, : int(found.ends[0])], torch.ones(len(suffix))))
        return SamplerOutput(
            answers=[answer], confidence=[sure], texts=texts, order=found.order, num_forwards=found.num_forwards
        )


@pytest.fixture
def scripted(monkeypatch):
    """Model and processor that `load` hands out, and the arguments it was called with."""
    found = SimpleNamespace(model=ScriptedModel(), processor=ScriptedProcessor(), loaded=None)

    def load(*arguments):
        found.loaded = arguments
        return found.model, found.processor

    monkeypatch.setattr(llada_v.answering, "load", load)
    return found


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "picture.png"
    Image.new("RGB", (30, 20), (200, 30, 30)).save(file)
    return str(file)


def test_an_answer_is_one_line(scripted, picture, capsys):
    assert cli.main(["generate", "--image", picture, "--question", "How many?", "--question", "Which?"]) == 0
    assert capsys.readouterr().out == "How many? -> two stars\nWhich? -> two stars\n"


def test_json_is_one_object_a_question(scripted, picture, capsys):
    cli.main(
        ["generate", "--model", "m", "--image", picture, "--question", "How many?", "--question", "Which?", "--json"]
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["question"] for row in rows] == ["How many?", "Which?"]
    seconds = rows[0].pop("seconds")
    assert seconds > 0
    probabilities = rows[0].pop("probabilities")
    assert len(probabilities) == len(ANSWER) and all(0.9 < probability < 1 for probability in probabilities)
    assert rows[0] == {
        "question": "How many?",
        "answer": ANSWER,
        "token_ids": [ord(letter) for letter in ANSWER],
        "fields": None,
        "steps": 10,  # nine letters and the end of the turn
        "num_forwards": 10,
        "preset": "exact",
        "model": "m",
        "image": [picture],
        "video": None,
    }


def test_pictures_and_question_make_one_message(scripted, picture):
    cli.main(["generate", "--image", picture, "--image", picture, "--question", "What differs?"])
    (message,) = scripted.processor.messages[0]
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["image", "image", "text"]
    assert message["content"][-1]["text"] == "What differs?"


def test_video_and_question_make_one_message(scripted):
    cli.main(["generate", "--video", "clip.mp4", "--question", "What happens?"])
    (message,) = scripted.processor.messages[0]
    assert message["content"][0] == {"type": "video", "video": "clip.mp4"}


# Settings that go together in one command: name -> (words, value).
SETTINGS = [
    {
        "gen_length": (["--gen-length", "32"], 32),
        "steps": (["--steps", "16"], 16),
        "block_length": (["--block-length", "16"], 16),
        "temperature": (["--temperature", "0.01"], 0.01),
        "cfg_scale": (["--cfg-scale", "1.5"], 1.5),
        "remasking": (["--remasking", "random"], "random"),
        "schedule": (["--schedule", "convex"], "convex"),
        "stop_strings": (["--stop", "ab", "--stop", "\n"], ["ab", "\n"]),
        "suffix_token_ids": (["--suffix", "ok"], [111, 107]),
    },
    {"constraint": (["--regex", "[0-9]+"], {"regex": "[0-9]+"})},
    {"fields": (["--fields", "together"], "together")},
    {"constraint": (["--choices", "a,b"], {"choices": ["a", "b"]})},
    {"constraint": (["--template", "two {choice:stars|x}"], {"template": "two {choice:stars|x}"})},
    {
        "gen_length": (["--gen-length", "auto"], "auto"),
        "max_gen_length": (["--max-gen-length", "96"], 96),
        "cache": (["--cache", "prompt"], "prompt"),
        "refresh_interval": (["--refresh-interval", "0"], 0),
        "rule": (["--rule", "threshold"], "threshold"),
        "threshold": (["--threshold", "0.7"], 0.7),
        "lookahead": (["--lookahead", "3"], 3),
        "compile": (["--compile"], True),
    },
    {
        "cache": (["--cache", "dllm"], "dllm"),
        "prompt_interval": (["--prompt-interval", "9"], 9),
        "gen_interval": (["--gen-interval", "5"], 5),
        "transfer_ratio": (["--transfer-ratio", "0.5"], 0.5),
        "rule": (["--rule", "factor"], "factor"),
        "factor": (["--factor", "1.5"], 1.5),
    },
    {"rule": (["--rule", "frechet"], "frechet"), "frechet": (["--frechet", "0.3"], 0.3)},
    {"rule": (["--rule", "entropy_bound"], "entropy_bound"), "entropy_bound": (["--entropy-bound", "0.3"], 0.3)},
    {"keep_features": (["--keep-features", "0.5"], 0.5)},
    {"merge_features": (["--merge-features", "0.5"], 0.5)},
    {"rule": (["--rule", "margin"], "margin"), "margin": (["--margin", "0.6"], 0.6)},
    {
        "rule": (["--rule", "klass"], "klass"),
        "klass": (["--klass", "0.8"], 0.8),
        "divergence": (["--divergence", "0.2"], 0.2),
    },
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(settings))
def test_the_options_of_the_sampler_reach_it(scripted, picture, settings):
    words = [word for given, _ in settings.values() for word in given]
    cli.main(["generate", "--image", picture, "--question", "?", "--seed", "7", *words])
    for name, (_, expected) in settings.items():
        assert getattr(scripted.model.sampler, name) == expected, name
    assert scripted.model.seed == 7


def test_every_sampler_setting_has_an_option():
    named = {name for settings in SETTINGS for name in settings}
    by_another_name = {"stop_token_ids"}  # --stop takes text
    assert named == {field.name for field in dataclasses.fields(SamplerConfig)} - by_another_name


def test_quantize_is_done_before_the_first_answer(scripted, picture, monkeypatch):
    done = []
    monkeypatch.setattr(quantization, "quantize", lambda model, bits: done.append((model, bits)))
    monkeypatch.setattr(options, "need", lambda extra, *packages: None)
    cli.main(["generate", "--image", picture, "--question", "?", "--quantize", "int8"])
    assert done == [(scripted.model, "int8")]


def test_defaults_are_those_of_the_sampler_and_the_models_own_length(scripted, picture):
    cli.main(["generate", "--image", picture, "--question", "?"])
    length = scripted.model.generation_config.max_new_tokens
    expected = SamplerConfig(gen_length=length, stop_strings=[], suffix_token_ids=[])
    assert scripted.model.sampler == expected


def test_loading_options_reach_load(scripted, picture):
    words = ["--model", "m", "--device", "cpu", "--dtype", "bfloat16", "--attn-implementation", "eager"]
    cli.main(["generate", "--image", picture, "--question", "?", "--reproduce-original", *words])
    assert scripted.loaded == ("m", "cpu", "bfloat16", "eager", True)


def test_suffix_stands_behind_the_answer(scripted, picture, capsys):
    cli.main(["generate", "--image", picture, "--question", "?", "--suffix", " ok"])
    assert capsys.readouterr().out == "? -> two stars ok\n"


def test_gif_shows_every_question(scripted, picture, tmp_path):
    file = tmp_path / "answer.gif"
    cli.main(["generate", "--image", picture, "--question", "a?", "--question", "b?", "--gif", str(file)])
    with Image.open(file) as gif:
        assert gif.n_frames == 2 * (10 + 2)  # the masks, ten steps, the text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--image", "nothing.png", "--question", "?"], "no picture at nothing.png"),
        (["--video", "clip.mp4"], "add --question"),
        (["--question", "?", "--gen-length", "7", "--block-length", "2"], "not a multiple of block_length 2"),
        (["--question", "?", "--threshold", "0.9"], "set rule='threshold'"),
        (["--question", "?", "--gif", "answer.png"], "ends in .gif"),
        (["--question", "?", "--model", "./no/such/folder"], "there is no folder ./no/such/folder"),
        (["--question", "?", "--model", "m", "--device", "abacus"], "device is 'abacus'"),
        (["--question", "?", "--model", "m", "--device", "cuda:99"], "device is cuda:99"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(words, told, capsys):
    assert cli.main(["generate", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert told in lines[0]


def test_the_traceback_can_be_had(monkeypatch):
    monkeypatch.setenv(cli.TRACEBACK, "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["generate", "--image", "nothing.png", "--question", "?"])


@pytest.mark.parametrize("words", [["generate", "--unknown"], ["convert", "a", "b", "--unknown"], ["unknown"], []])
def test_unknown_words_end_in_status_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
    assert re.fullmatch(r"error: .*\(see llada-v.* --help\)\n", capsys.readouterr().err)


def test_convert_passes_its_options(monkeypatch, capsys):
    def convert(src, dst, vision_tower, dtype, progress):
        progress(3, 3)
        assert (src, dst, vision_tower, dtype) == ("src", "dst", "tower", "bfloat16")
        return conversion.Conversion(3, ["logit_scale"], ["model.image_newline"], [])

    monkeypatch.setattr(conversion, "convert", convert)
    assert cli.main(["convert", "src", "dst", "--vision-tower", "tower", "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out == "dst: 3 tensors\nleft out: logit_scale\nmade fresh: model.image_newline\n"


def test_train_takes_the_keys_of_a_recipe_as_options(monkeypatch):
    trained = []
    monkeypatch.setattr(training, "train", trained.append)
    assert cli.main(["train", str(RECIPE), "--epochs", "2.5", "--train", "[projector]", "--seed", "3"]) == 0
    assert trained == [replace(load_recipe(RECIPE), epochs=2.5, train=["projector"], seed=3)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "required: RECIPE"),
        (["--epochs", "1"], "required: RECIPE"),
        ([str(RECIPE), "--epochs"], "--epochs: expected one argument"),
        ([str(RECIPE), "epochs", "1"], "unrecognized arguments: epochs 1"),
        ([str(RECIPE), "--epoch", "1"], "unrecognized arguments: --epoch 1; did you mean --epochs?"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "budget", "data check"])
def test_words_that_name_no_key_are_one_line_and_status_2(verb, words, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*verb.split(), *words])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line and f"llada-v {verb} --help" in line


# Errors


def test_a_fault_shows_its_traceback(monkeypatch):
    """Whatever built-in it is: not enough values to unpack is a ValueError, too."""
    for fault in (
        ValueError("not enough values to unpack"),
        ImportError("cannot import name"),
        OSError("odd"),
        KeyError("x"),
    ):

        def planted(*arguments, fault=fault):
            raise fault

        monkeypatch.setattr(training, "train", planted)
        with pytest.raises(type(fault)) as found:
            cli.main(["train", str(RECIPE)])
        assert found.value is fault and found.traceback[-1].name == "planted"


@pytest.mark.parametrize(
    ("kind", "built_in"),
    [
        (errors.WrongValue, ValueError),
        (errors.MissingFile, FileNotFoundError),
        (errors.ExistingFile, FileExistsError),
        (errors.BadFile, OSError),
        (errors.NoPackage, ImportError),
    ],
)
def test_an_error_of_the_user_is_one_line_and_the_built_in_it_is_known_as(kind, built_in, monkeypatch, capsys):
    def refuse(*arguments):
        raise kind("found one thing,\n  expected another")

    monkeypatch.setattr(training, "train", refuse)
    assert cli.main(["train", str(RECIPE)]) == 2
    assert capsys.readouterr().err == "error: found one thing, expected another\n"
    with pytest.raises(built_in):
        refuse()


def test_a_full_disk_is_one_line_and_a_lost_file_of_ours_is_none(monkeypatch, capsys):
    def fail(number):
        def write(*arguments):
            raise OSError(number, os.strerror(number), "exp/run")

        return write

    monkeypatch.setattr(training, "train", fail(errno.ENOSPC))
    assert cli.main(["train", str(RECIPE)]) == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'exp/run'\n"
    monkeypatch.setattr(training, "train", fail(errno.ENOENT))
    with pytest.raises(FileNotFoundError):
        cli.main(["train", str(RECIPE)])


@pytest.mark.parametrize(
    ("words", "package", "told"),
    [
        (["train", "sft"], "datasets", "bash init_env.sh train, or pip install 'llada-v[train]'"),
        (["train", "sft"], "deepspeed", "bash init_env.sh train"),
        (["train", "finetune_lora", "--report_to", "[]"], "peft", "bash init_env.sh train"),
        (["train", "sft", "--report_to", "[wandb]"], "wandb", "bash init_env.sh train"),
        (["data", "check", "sft"], "datasets", "bash init_env.sh train"),
        (["merge-lora", "a", "b"], "peft", "bash init_env.sh train"),
        (["generate", "--question", "?", "--quantize", "int8"], "torchao", "bash init_env.sh quantize"),
        (["bench", "--quantize", "int8"], "torchao", "bash init_env.sh quantize"),
    ],
)
def test_a_missing_package_is_named_with_the_command_before_anything_is_loaded(
    words, package, told, monkeypatch, capsys
):
    monkeypatch.setattr(
        options, "find_spec", lambda name: None if name == package else importlib.util.find_spec("json")
    )
    monkeypatch.setattr(llada_v.answering, "load", None)
    monkeypatch.setattr(training, "train", None)
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: this needs {package}: ") and told in line


def test_an_interrupted_verb_says_so(monkeypatch, capsys):
    def wait(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", wait)
    assert cli.main(["train", str(RECIPE)]) == 130
    assert capsys.readouterr().err == "stopped\n"


# With the model that ships


def test_the_demo_answers_all_its_questions(capsys):
    assert cli.main(["generate"]) == 0
    rows = [line.split(" -> ") for line in capsys.readouterr().out.splitlines()]
    assert [question for question, _ in rows] == list(llada_v.answering.DEMO_QUESTIONS)
    assert [answer for _, answer in rows] == ["3", "green", "triangle", "yes", "no"]


def test_the_readme_example_runs_as_pasted(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    example = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    exec(compile(example, "README.md", "exec"), {})
    assert "forward passes" in capsys.readouterr().out
