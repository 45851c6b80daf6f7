"""transformers' typed decisions: its pipeline gives what `decide` gives, from one forward."""

import base64
import io
import json

import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.decision import DecisionConfig

from llada_v import decide, load
from llada_v.answering import DEMO_IMAGE
from llada_v.system_one import SystemOneConfig, parts_of

QUESTIONS = {
    "count": {"type": "score", "instructions": "How many objects are there?", "criteria": list("01234")},
    "colour": {"type": "choice", "instructions": "What colour is the circle?", "criteria": {"red": None, "blue": None}},
    "circle": {"type": "noul", "instructions": "Is there a circle?"},
}
SAME = {
    "How many objects are there?": range(5),
    "What colour is the circle?": ["red", "blue"],
    "Is there a circle?": bool,
}


@pytest.fixture(scope="module")
def loaded():
    return load()


@pytest.fixture(scope="module")
def ask(loaded):
    model, processor = loaded
    return pipeline("decision", model=model, processor=processor, tokenizer=processor.tokenizer)


@pytest.fixture
def request_of():
    return {"state": "<picture>", "questions": QUESTIONS, "assets": {"<picture>": str(DEMO_IMAGE)}}


def test_the_pipeline_decides_as_decide_does_and_the_prompt_passes_the_model_once(loaded, ask, request_of):
    lengths = []
    hook = loaded[0].model.language_model.register_forward_pre_hook(
        lambda module, args, inputs: lengths.append(inputs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    found = ask(request_of)
    hook.remove()
    (one, prompt), (questions, behind) = lengths
    assert (one, questions) == (1, len(QUESTIONS)) and behind < 60 < prompt
    wanted = decide(*loaded, SAME, [DEMO_IMAGE])
    pairs = zip(found.values(), wanted.values(), strict=True)
    for name, (given, decision) in zip(QUESTIONS, pairs, strict=True):
        if QUESTIONS[name]["type"] == "noul":
            assert abs(given["noul"] - decision.probabilities[True]) < 1e-5
        else:
            chances = {str(value): chance for value, chance in decision.probabilities.items()}
            assert given["probabilities"] == pytest.approx(chances, abs=1e-5)
    assert found["colour"]["choice"] == wanted["What colour is the circle?"].value
    json.dumps(found)


def test_a_request_is_also_json_with_pictures_in_base64(ask, request_of):
    stream = io.BytesIO()
    Image.open(DEMO_IMAGE).save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    asset = {"type": "image", "format": "png", "data_base64": data}
    found = ask(json.dumps(request_of | {"assets": {"<picture>": asset}}))
    assert found == ask(request_of)


def test_each_picture_in_a_question_has_a_forward_of_its_own(loaded, ask):
    questions = {
        name: {"type": "noul", "instructions": f"<{name}>\nIs there a circle?"} for name in ("first", "second")
    }
    other = Image.new("RGB", (80, 60), "white")
    assets = {"<first>": str(DEMO_IMAGE), "<second>": other}
    prompts = ask.preprocess({"state": "", "questions": questions, "assets": assets})["prompts"]
    assert [[question.name for question in asked] for _, asked in prompts] == [["first"], ["second"]]
    found = ask({"state": "", "questions": questions, "assets": assets})
    alone = decide(*loaded, {"Is there a circle?": bool}, [other])["Is there a circle?"]
    assert abs(found["second"]["noul"] - alone.probabilities[True]) < 1e-5


def test_a_state_without_pictures_and_descriptions_are_written_out(loaded, ask):
    question = {"type": "choice", "instructions": "Which tone?", "criteria": {"calm": "Polite", "angry": None}}
    ((inputs, _),) = ask.preprocess({"state": {"text": "Hello!"}, "questions": {"tone": question}})["prompts"]
    said = loaded[1].decode(inputs["input_ids"][0])
    assert '{"text": "Hello!"}\nWhich tone?\ncalm: Polite<|eot_id|>' in said
    assert "pixel_values" not in inputs


def test_labels_and_temperature_of_the_folder_are_followed(loaded, ask, request_of, tmp_path):
    config = SystemOneConfig(labels={"noul": ["no", "yes"]}, temperature={"noul": 2.0}, noul_options=["false", "true"])
    config.save_pretrained(tmp_path)
    read = SystemOneConfig.from_pretrained(tmp_path)
    request_of["questions"] = {"circle": QUESTIONS["circle"]}
    plain = ask(request_of)["circle"]["noul"]
    warm = pipeline(
        "decision", model=loaded[0], processor=loaded[1], tokenizer=loaded[1].tokenizer, decision_config=read
    )(request_of)["circle"]["noul"]
    logit = torch.tensor(plain).logit() / 2
    assert abs(warm - float(logit.sigmoid())) < 1e-4


def test_settings_for_other_models_are_refused(loaded, request_of):
    model, processor = loaded
    with pytest.raises(ValueError, match="remove the file"):
        SystemOneConfig(chat_template="{{ state }}").prepare_inputs(request_of, processor)
    with pytest.raises(ValueError, match="the model's own decision_config"):
        model.decide(
            input_ids=torch.tensor([[1, 2]]),
            marks=torch.tensor([2]),
            decision_questions=[],
            decision_config=DecisionConfig(),
        )
    with pytest.raises(ValueError, match="give a state, and questions"):
        SystemOneConfig().prepare_inputs({"state": "Hello"}, processor)


def test_the_longest_placeholder_stands_for_its_picture():
    parts = parts_of("a img-10 b img-1", {"img-1": "one", "img-10": "ten"})
    assert [part.get("image") or part["text"] for part in parts] == ["a ", "ten", " b ", "one"]
