"""What nobody here drew is asked about as truly as what is drawn: digits, fonts, icons, pictures from outside."""

import random
from collections import Counter

import numpy as np
import pytest

from llada_v.cli import main
from llada_v.toyworld import draw, heldout_questions, make_scene, questions_about, split_of
from llada_v.toyworld import found as finds
from llada_v.toyworld import judge as judge_module
from llada_v.toyworld.courses import course_records
from llada_v.toyworld.found import FONTS, FOUND, ICONS, PHOTOS, half_of_digit
from llada_v.toyworld.questions import DONT_KNOW, dense_caption
from llada_v.toyworld.scenes import BACKGROUNDS, COLORS, NEUTRALS
from llada_v.toyworld.sight import COLOR, NOTHING, WHAT, shown_at


@pytest.fixture(scope="module", params=FOUND)
def scenes(request):
    """Sixty scenes of a kind."""
    rng = random.Random(5)
    return [make_scene(rng, request.param) for _ in range(60)]


def test_pictures_have_the_size_of_their_scene_and_are_the_same_each_time(scenes):
    for scene in scenes[:20]:
        picture = draw(scene)
        assert (picture.height, picture.width) == (scene.height, scene.width)
        assert picture.tobytes() == draw(scene).tobytes()


def test_what_was_found_lies_inside_and_is_seen_where_it_lies(scenes):
    for scene in scenes:
        if scene.kind == "outside":
            continue
        pixels = np.asarray(draw(scene), float)
        from_background, from_ink = (
            np.abs(pixels - color).sum(-1) for color in (BACKGROUNDS[scene.background], (COLORS | NEUTRALS)[scene.ink])
        )
        is_item = from_background > 120 if scene.kind == "icon" else from_ink < from_background
        rows, columns = np.nonzero(is_item)
        shown = [shown_at(scene, x, y) != NOTHING for x, y in zip(columns, rows, strict=True)]
        assert shown and np.mean(shown) > 0.8


def test_labels_of_patches_are_known_to_the_heads(scenes):
    for scene in scenes:
        for x in range(3, scene.width, 6):
            what, color, number = shown_at(scene, x, scene.height / 2)
            assert what in WHAT and color in COLOR and 0 <= number <= 5


def test_answers_are_what_was_found(scenes):
    rng = random.Random(6)
    for scene in scenes:
        names = [item.name for item in scene.found]
        for question in questions_about(scene, rng):
            assert question.family == scene.kind
            assert question.answer == answer_to(question.text, scene.kind, names)
        expected = {"digit": "digit", "print": "print", "icon": ""}
        if scene.kind == "outside":
            assert dense_caption(scene) == DONT_KNOW
        else:
            told = dense_caption(scene).split(", ")
            bare = [text.removeprefix(expected[scene.kind]).replace(" ", "") for text in told]
            assert bare == names


def answer_to(text, kind, names):
    """The answer, from the words of the question and the names of what is there."""
    if kind == "outside":
        return DONT_KNOW
    if "sum" in text:
        return str(int(names[0]) + int(names[1]))
    if "How many" in text:
        return str(len(names))
    if text.startswith("Is there"):
        return "yes" if text.split()[-1].removesuffix("?") in names else "no"
    assert len(names) == 1 or "left" in text or "right" in text
    return names[-1 if "right" in text else 0]


def test_yes_and_no_about_icons_are_equally_likely():
    rng = random.Random(7)
    asked = [q for _ in range(400) for q in questions_about(make_scene(rng, "icon"), rng) if q.text.startswith("Is")]
    assert Counter(q.answer for q in asked)["yes"] == pytest.approx(200, abs=35)


def test_half_of_the_handwritten_digits_are_held_out_and_never_in_a_training_picture():
    halves = Counter(half_of_digit(number) for number in range(1797))
    assert halves["heldout"] == pytest.approx(900, abs=60)
    rng = random.Random(8)
    for _ in range(100):
        scene = make_scene(rng, "digit")
        assert {half_of_digit(int(item.source)) for item in scene.found} == {split_of(scene)}


def test_photographs_of_the_test_come_from_other_packages():
    assert not set(PHOTOS["train"]) & set(PHOTOS["heldout"])
    rng = random.Random(9)
    seen = {split: set() for split in PHOTOS}
    for _ in range(300):
        scene = make_scene(rng, "outside")
        seen[split_of(scene)].add(scene.found[0].name.split("/")[0])
    assert seen["heldout"] == set(PHOTOS["heldout"]) and not seen["train"] & seen["heldout"]


def test_every_font_and_icon_is_there():
    for _, names in FONTS.values():
        for name in names.split():
            assert finds.font_of(name, 30).getlength("A") > 5
    assert len(ICONS) == len(set(ICONS)) == 48 and finds._sheet().size == (8 * 48, 6 * 48)


def test_the_judge_asks_about_what_was_found():
    items = heldout_questions(8, seed=0, families=FOUND)
    assert [question.family for _, question, _ in items] == [*FOUND, *FOUND]


def test_a_missing_package_is_named_with_what_to_install(monkeypatch, tmp_path):
    course = tmp_path / "course.yaml"
    course.write_text("{seed: 0, lessons: [{records: 1, parts: [{style: caption, share: 1}]}]}")
    monkeypatch.setitem(FONTS, "font_of_nobody", ("files", "Nothing"))
    with pytest.raises(ModuleNotFoundError, match="no package font_of_nobody.*init_env.sh world"):
        course_records(course)


def test_the_judge_says_how_many_were_refused(tiny_folder, capsys):
    main(["judge", "--model", str(tiny_folder), "--count", "2", "--families", "icon", "--gen-length", "4"])
    assert "of 2 questions that can be answered were refused" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "rule"), [([], "factor"), (["--preset", "exact"], "top_k"), (["--steps", "4"], "top_k")]
)
def test_the_judge_answers_as_users_are_answered(words, rule, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(judge_module, "judge", lambda *asked: seen.append(asked[4]) or [])
    monkeypatch.setattr(judge_module, "table", lambda verdicts: [])
    main(["judge", "--count", "1", *words])
    assert seen[0].rule == rule
