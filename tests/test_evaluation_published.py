"""The seventeen published benchmarks in the installed lmms-eval: they resolve, and their prompts are the original's.

Documents are made up; nothing is downloaded.
"""

import copy
from pathlib import Path

import datasets
import pytest
from PIL import Image

pytest.importorskip("lmms_eval", reason="needs the extra eval: bash init_env.sh eval")

import lmms_eval.tasks  # noqa: E402
from lmms_eval.evaluator_utils import get_task_list  # noqa: E402
from lmms_eval.tasks import TaskManager, get_task_dict  # noqa: E402
from lmms_eval.utils import load_yaml_config  # noqa: E402

from llada_v import LladaVProcessor  # noqa: E402
from llada_v.conversation import SYSTEM_PROMPT, render  # noqa: E402
from llada_v.evaluation import run  # noqa: E402
from llada_v.evaluation.lmms import LladaVChat, LladaVPlain  # noqa: E402
from llada_v.evaluation.settings import KEYS, NO_KEY, chosen_tasks, read_settings  # noqa: E402

PICTURE = Image.new("RGB", (384, 384), "red")
LETTER = "Answer with the option's letter from the given choices directly."
SUBTITLES = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
REASON = (
    "Give the reason and then write your final answer in the format 'Answer: X' where X is the answer to the question."
)
FIRST_REASON = "First perform reasoning, then finally "
OPTIONS = {"A": "cat", "B": "dog", "C": "bird", "D": "fish"}
LISTED = "A. cat\nB. dog\nC. bird\nD. fish"
BARE = {"hint": "nan", "category": "c", "L2-category": "l", "source": "s", "split": "dev", "index": 1, "answer": "A"}

# For each benchmark: a document's columns, and the question as the original's task file writes it.
DOCUMENTS = {
    "mmmu_val": (
        {
            "id": "validation_Art_1",
            "question": "What is in <image 1>?",
            "question_type": "multiple-choice",
            "options": "['cat', 'dog']",
            "answer": "A",
            "image_1": PICTURE,
        },
        f"What is in <image 1>?\nA. cat\nB. dog\n\n{LETTER}",
    ),
    "mmmu_pro_standard": (
        {
            "id": "1",
            "subject": "Art",
            "question": "What is in <image 1>?",
            "options": "['cat', 'dog']",
            "answer": "A",
            "image_1": PICTURE,
        },
        "What is in <image 1>?\nA. cat\nB. dog\n\nAnswer with the option letter from the given choices directly.",
    ),
    "mmmu_pro_vision": (
        {"id": "1", "subject": "Art", "answer": "A", "image": PICTURE},
        "Answer with the option letter from the given choices directly.",
    ),
    "mmstar": (
        {"index": 1, "question": "What?\nA: cat, B: dog", "image": PICTURE, "answer": "A", "category": "math"},
        "What?\nA: cat, B: dog\nAnswer with the option's letter from the given choices directly",
    ),
    "ai2d": (
        {"question": "What?", "options": list(OPTIONS.values()), "answer": "1", "image": PICTURE},
        f"What?\n{LISTED}\n{LETTER}",
    ),
    "muirbench": (
        {"idx": "1", "task": "t", "question": "What?", "options": list(OPTIONS.values()), "answer": "A"}
        | {"image_list": [PICTURE, PICTURE], "image_relation": "r", "image_type": "t"},
        f"What?\n{LISTED}\n{LETTER}",
    ),
    "mmbench_en_dev": (
        BARE | OPTIONS | {"question": "What?", "image": PICTURE},
        f"What? There are several options:\n{LISTED}\n\n{LETTER}",
    ),
    "seedbench": (
        {"question": "What?", "answer": "A", "image": [PICTURE], "data_type": "image", "question_id": "1"}
        | {f"choice_{letter.lower()}": text for letter, text in OPTIONS.items()},
        f"What?\n{LISTED}\n{LETTER}",
    ),
    "videomme": (
        {"videoID": "clip", "question": "What?", "options": ["A. cat", "B. dog"], "answer": "A"},
        f"{SUBTITLES}\nWhat?\nA. cat\nB. dog\n\n{LETTER}",
    ),
    "mlvu_dev": (
        {"video_name": "clip.mp4", "question": "What?\n(A) cat\n(B) dog", "answer": "A", "task_type": "count"},
        "What?\n(A) cat\n(B) dog\nOnly give the best option.\nBest option: (",
    ),
    "mme": (
        {"question_id": "1", "question": "Is it? Please answer yes or no.", "answer": "Yes", "category": "count"}
        | {"image": PICTURE},
        "Is it?\nAnswer the question using a single word or phrase.",
    ),
    "realworldqa": ({"question": "What?", "answer": "A", "image": PICTURE}, "What?"),
    "chartqa": (
        {"question": "How much?", "answer": "5", "type": "human_test", "image": PICTURE},
        "How much?\nAnswer the question with a single word.",
    ),
    "docvqa_val": (
        {"questionId": "1", "question": "How much?", "answers": ["5"], "image": PICTURE},
        f"How much?\n{REASON}",
    ),
    "infovqa_val": (
        {"questionId": "1", "question": "How much?", "answers": ["5"], "image": PICTURE},
        f"How much?\n{REASON}",
    ),
    "mathvista_testmini": (
        {"pid": "1", "question": "How much?", "choices": None, "unit": "cm", "precision": 1.0, "answer": "1.2"}
        | {"question_type": "free_form", "answer_type": "float", "decoded_image": PICTURE, "query": "q"},
        f"{FIRST_REASON}answer the question requiring a floating-point number with one decimal place and provide the "
        "final value, e.g., 1.2, 1.3, 1.4, at the end in the following format: Answer: xxx.\n"
        "Question: How much? (Unit: cm)",
    ),
    "mathverse_testmini_vision": (
        {"question": "Q", "query_wo": "direct Q", "query_cot": "reason about Q", "answer": "A", "image": PICTURE}
        | {"question_type": "multi-choice", "problem_version": "Vision Only", "question_for_eval": "Q"},
        "reason about Q",
    ),
}
VIDEOS = {"videomme": "videomme/data/clip.mp4", "mlvu_dev": "mlvu/clip.mp4"}  # below HF_HOME
FOLDERS = (
    "ai2d chartqa docvqa infovqa mathverse mathvista mlvu mmbench mme mmmu mmmu_pro mmstar muirbench realworldqa "
    "seedbench videomme"
).split()


@pytest.fixture(scope="module")
def settings():
    return read_settings()


@pytest.fixture(scope="module")
def manager():
    """lmms-eval's own task files, of these benchmarks alone: reading all of them takes long."""
    folders = [str(Path(lmms_eval.tasks.__file__).parent / name) for name in FOLDERS]
    return TaskManager(include_path=folders, include_defaults=False, model_name="llada_v")


@pytest.fixture
def made_up(monkeypatch):
    """lmms-eval's data sets replaced by one of a single document, the same in every split."""
    document = {}

    def download(task, dataset_kwargs=None):
        rows = datasets.Dataset.from_list([copy.copy(document)])
        task.dataset = datasets.DatasetDict({split: rows for split in SPLITS})
        task.dataset_no_image = task.dataset

    monkeypatch.setattr("lmms_eval.api.task.ConfigurableTask.download", download)
    return document


SPLITS = ("test", "validation", "dev", "val", "testmini", "vision_only", "vision_dominant", "vision_intensive")


def loaded(manager, benchmark, kind):
    """lmms-eval's tasks of a benchmark, by name, as its command line loads them."""
    argument = run.tasks_argument(benchmark)
    if benchmark.files is None:
        names = argument.split(",")
        assert manager.match_tasks(names) == names
    else:
        names = [load_yaml_config(str(file)) for file in sorted((run.TASK_FILES / benchmark.files).glob("*.yaml"))]
    tasks = get_task_dict(names, manager, kind)
    return {output.task_name: output.task for output in get_task_list(tasks)}


def request_of(task):
    task.build_all_requests(limit=1, rank=0, world_size=1)
    return task.instances[0]


@pytest.fixture(scope="module")
def plain(processor):
    """A model that makes the original's prompts, without weights."""
    model = LladaVPlain.__new__(LladaVPlain)
    model.processor = LladaVProcessor(processor.tokenizer, processor.config, reproduce_original=True)
    model.reproduce_original = True
    return model


@pytest.fixture(scope="module")
def chat(processor):
    """A model that makes our prompts, without weights."""
    model = LladaVChat.__new__(LladaVChat)
    model.processor, model.reproduce_original = processor, False
    return model


@pytest.fixture(autouse=True)
def no_judge(monkeypatch):
    """As the command runs lmms-eval where there is no key."""
    for key in KEYS:
        monkeypatch.setenv(key, NO_KEY)


@pytest.fixture(autouse=True)
def videos(tmp_path, monkeypatch):
    """Video benchmarks look for files below HF_HOME, and end the process where there is none."""
    av = pytest.importorskip("av", reason="writes a video with av")
    for name in VIDEOS.values():
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        with av.open(str(file), "w") as container:
            stream = container.add_stream("mpeg4", rate=4)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for _ in range(8):
                frame = av.VideoFrame.from_image(PICTURE.resize((64, 64)))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    monkeypatch.setenv("HF_HOME", str(tmp_path))


def test_the_settings_name_seventeen_benchmarks(settings):
    assert [task.name for task in chosen_tasks(settings, "paper")] == list(DOCUMENTS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_benchmark_resolves_with_the_originals_prompt(name, settings, manager, made_up, plain):
    document, question = DOCUMENTS[name]
    made_up.update(document)
    benchmark = settings[name]
    tasks = loaded(manager, benchmark, "simple")
    assert tasks
    for task in tasks.values():
        request = request_of(task)
        visuals = content_of(plain, task, request)
        prompt = plain.prompt_from((request.args[0], visuals), benchmark.think_mode)
        config, count = plain.processor.config, len(visuals)
        features = [1485 if count == 1 else 729] * count if name not in VIDEOS else [32 * 14 * 15]
        assert [visual.num_features for visual in prompt.visuals] == features
        # The first token behind each picture is lost: the newline, or the space between two.
        before, after = render([("system", [SYSTEM_PROMPT]), ("user", [None])], True).split("<image>")
        suffix = f" /{benchmark.think_mode}"
        ids = plain.processor.encode_finished(before)
        ids += [config.image_token_id] * sum(features)
        ids += plain.processor.encode_finished(f"\n{question}{suffix}<|eot_id|>" + opened(plain.processor))[1:]
        assert prompt.input_ids == ids


def opened(processor):
    """The open turn of the assistant."""
    return "<|start_header_id|>assistant<|end_header_id|>\n\n"


def content_of(model, task, request):
    """The visuals of a request, through the task's own code."""
    model.task_dict = {request.args[-2]: task.dataset}
    return model.content_of(request)[1]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_benchmark_makes_a_prompt_of_its_chat_messages(name, settings, manager, made_up, chat):
    document, question = DOCUMENTS[name]
    made_up.update(document)
    for task in loaded(manager, settings[name], "chat").values():
        request = request_of(task)
        chat.task_dict = {request.args[-2]: task.dataset}
        prompt = chat.prompt_from(chat.content_of(request), settings[name].think_mode)
        ids = [token for token in prompt.input_ids if token != chat.processor.config.image_token_id]
        asked = chat.processor.decode(ids).split("user<|end_header_id|>\n\n")[1]
        # lmms-eval's chat of MMMU has each picture where its number stands.
        expected = question.replace("<image 1>", "") if name == "mmmu_val" else question
        expected += f" /{settings[name].think_mode}<|eot_id|>{opened(chat.processor)}"
        assert "".join(asked.split()) == "".join(expected.split())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_score_of_the_settings_is_one_that_the_task_makes(name, settings, manager, made_up):
    document, _ = DOCUMENTS[name]
    made_up.update(document)
    for task in loaded(manager, settings[name], "simple").values():
        for score in settings[name].scores:
            assert score.metric in task.aggregation(), f"{task} has {list(task.aggregation())}"


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("mathvista_testmini", "It is longer.\nAnswer: 1.2", 1.0),
        ("mathvista_testmini", "Answer: 1.3", 0.0),
        ("mathverse_testmini_vision", "Therefore, the answer is A", 1.0),
        ("mmbench_en_dev", "A. cat", {"index": 1, "is_right": True}),
        ("mmbench_en_dev", "dog", {"index": 1, "is_right": False}),
    ],
)
def test_rules_score_without_a_judges_key(name, answer, expected, settings, manager, made_up):
    document, _ = DOCUMENTS[name]
    made_up.update(document)
    for task in loaded(manager, settings[name], "simple").values():
        assert task.process_results(document, [answer]) == {"rule_accuracy": expected}


def test_mmbench_counts_a_question_only_if_every_order_of_its_options_is_right():
    from llada_v.evaluation.scoring import circular_accuracy

    rounds = [(1, True), (1_000_001, True), (2, True), (1_000_002, False)]
    assert circular_accuracy([{"index": index, "is_right": right} for index, right in rounds]) == 0.5


@pytest.mark.parametrize(("answer", "score"), [("It says so. Answer: 5.", 1.0), ("5", 0.0)])
@pytest.mark.parametrize("name", ["docvqa_val", "infovqa_val"])
def test_documents_are_scored_by_what_stands_behind_answer(name, answer, score, settings, manager, made_up):
    made_up.update(DOCUMENTS[name][0])
    (task,) = loaded(manager, settings[name], "simple").values()
    request = request_of(task)
    request.resps = [answer]
    task.apply_filters()
    (found,) = request.filtered_resps.values()
    assert task.process_results(DOCUMENTS[name][0], [found])["anls"] == score
