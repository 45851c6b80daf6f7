"""Pairs, clips and reasoning: every answer is checked against the scene by a solver of its own."""

import json
import random
import re
import subprocess
import sys
from collections import Counter

import pytest
from PIL import ImageChops

from llada_v.toyworld import clips, pairs, reasons
from llada_v.toyworld.judge import Verdict
from llada_v.toyworld.questions import dense_caption
from llada_v.toyworld.records import generate_records, heldout_questions, message_of, write_dataset
from llada_v.toyworld.scenes import make_scene
from llada_v.toyworld.stories import scene_of


def scenes_of_shapes(rng, count=2):
    return tuple(make_scene(rng, "shapes") for _ in range(count))


def texts_asked(style, **wanted):
    records = generate_records("train", 20, 4, style, **wanted)
    return [turn["value"].removeprefix("<image>\n") for r in records for turn in r["conversations"][::2]]


def shown(scene, words):
    """How many things of the scene fit words like "red object", "circle", "blue star"."""
    words = [word for word in words.split() if word not in ("a", "an", "object")]
    return sum(all(word in (thing.color, thing.shape) for word in words) for thing in scene.things)


def test_answers_about_pairs_are_right():
    rng, asked = random.Random(1), Counter()
    for _ in range(300):
        first, second = scenes_of_shapes(rng)
        for question in pairs.pair_questions(first, second, rng):
            if found := re.fullmatch(r"Which picture shows (.*)\?", question.text):
                here = [bool(shown(scene, found[1])) for scene in (first, second)]
                assert here == [question.answer == "first", question.answer == "second"]
            elif found := re.fullmatch(r"Which picture has (more|fewer) objects\?", question.text):
                more = "first" if len(first.things) > len(second.things) else "second"
                assert len(first.things) != len(second.things)
                assert (question.answer == more) == (found[1] == "more")
            else:
                found = re.fullmatch(r"Do both pictures show (.*)\?", question.text)
                assert question.answer == ("yes" if all(shown(s, found[1]) for s in (first, second)) else "no")
            asked[question.answer] += 1
    assert set(asked) == {"first", "second", "yes", "no"}
    assert asked["yes"] == pytest.approx(asked["no"], rel=0.2)


def test_pairs_need_shapes():
    rng = random.Random(2)
    with pytest.raises(ValueError, match="two of kind 'shapes'"):
        pairs.pair_questions(make_scene(rng, "chart"), make_scene(rng, "shapes"), rng)


def test_only_the_moving_thing_moves_and_it_goes_where_the_clip_says():
    rng, directions = random.Random(3), Counter()
    for _ in range(40):
        clip = clips.make_clip(rng)
        frames = clips.draw_clip(clip)
        assert len(frames) == clips.NUM_FRAMES and len({frame.size for frame in frames}) == 1
        left, top, right, bottom = ImageChops.difference(frames[0], frames[-1]).getbbox()
        thing, (dx, dy) = clip.start.things[0], clips.STEPS[clip.direction]
        # What changed between the first and the last frame is the way of the thing, and no more than its width.
        assert max(right - left, bottom - top) > clip.path
        assert (bottom - top if dx else right - left) <= thing.size + 2
        assert left >= min(thing.x, thing.x + dx * clip.path) - thing.size / 2 - 1
        assert bottom <= max(thing.y, thing.y + dy * clip.path) + thing.size / 2 + 1
        directions[clip.direction] += 1
    assert set(directions) == set(clips.STEPS)


def test_answers_about_clips_are_right():
    rng = random.Random(4)
    for _ in range(200):
        clip = clips.make_clip(rng)
        moving = clip.start.things[0]
        for question in clips.clip_questions(clip, rng):
            if question.text.startswith("Which way"):
                assert question.answer == clip.direction
            elif question.text.startswith("Which object"):
                assert question.answer == f"{moving.color} {moving.shape}"
            elif question.text.startswith("What colour"):
                assert question.answer == moving.color and len(clip.start.things) == 1
            else:
                shape = re.fullmatch(r"Does the (\w+) move\?", question.text)[1]
                assert question.answer == ("yes" if shape == moving.shape else "no")


def test_thoughts_name_what_is_seen_and_their_sums_are_right():
    rng, answers = random.Random(5), Counter()
    for _ in range(300):
        scene = make_scene(rng, rng.choice(("shapes", "chart")))
        values = {bar.color: bar.value for bar in scene.bars}
        for question in reasons.reasoned_questions(scene, rng):
            assert question.text.endswith(" /think")
            one, other, left, sign, right, answer = re.fullmatch(
                r"(\w+ \d), (\w+ \d)\. (\d) ([-+<>]) (\d)\. Answer: (\w+)", question.answer
            ).groups()
            for part, number in ((one, left), (other, right)):
                name, seen = part.split()
                assert int(number) == int(seen) == (values[name] if scene.bars else shown(scene, name))
            left, right = int(left), int(right)
            expected = {"+": left + right, "-": left - right, ">": "yes", "<": "no"}[sign]
            assert answer == str(expected)
            assert {">": left > right, "<": left < right}.get(sign, True)
            answers[answer] += 1
            short = reasons.without_thought(question)
            assert short.text.endswith("? /no_think") and short.answer == answer
    assert answers["yes"] == pytest.approx(answers["no"], rel=0.25)


def test_sums_without_a_picture_are_right(tmp_path):
    folder = write_dataset(tmp_path / "numbers", "train", 60, 3, style="numbers", rounds=4)
    asked = Counter()
    for record in json.loads((folder / "records.json").read_text()):
        assert not {"image", "video"} & set(record)
        turns = [turn["value"] for turn in record["conversations"]]
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            a, sign, b = re.fullmatch(r"What is (\d) ([+-]) (\d)\? /(?:no_)?think", question).groups()
            result = int(a) + int(b) if sign == "+" else int(a) - int(b)
            told = "/think" in question
            assert answer == (f"{a} {sign} {b}. Answer: {result}" if told else str(result)) and result > 0
            asked[sign, told] += 1
    assert sum(asked.values()) == 240 and min(asked.values()) > 10 and len(asked) == 4


def test_the_final_answer_stands_behind_the_mark():
    assert reasons.final_answer("red 3, blue 4. 3 + 4. Answer: 7") == "7"
    assert reasons.final_answer("seven") == "seven"


@pytest.mark.parametrize("style", ["pairs", "clips", "reasoning"])
def test_splits_share_no_scene(style):
    def pictures(split):
        for record in generate_records(split, 60, seed=1, style=style):
            visual = record.get("image", record.get("video"))
            yield visual[0].tobytes() if style == "clips" else str([p.tobytes() for p in list_of(visual)])

    assert not set(pictures("train")) & set(pictures("heldout"))


@pytest.mark.parametrize("style", ["pairs", "clips", "reasoning"])
def test_written_records_train(style, tmp_path, tiny_processor):
    folder = write_dataset(tmp_path / "data", "train", 3, seed=2, style=style)
    for record in json.loads((folder / "records.json").read_text()):
        encoded = tiny_processor.encode_record(record, image_root=folder)
        assert len(encoded["input_ids"]) < 600
        assert len(encoded["pixel_values"]) >= {"pairs": 2, "clips": 4, "reasoning": 2}[style]


def list_of(visual):
    return visual if isinstance(visual, list) else [visual]


def test_scenes_come_in_the_kind_asked_for():
    rng = random.Random(6)
    assert {scene_of("heldout", rng, kind="sign").kind for _ in range(20)} == {"sign"}


def test_heldout_stories_are_asked_as_messages_the_processor_takes(tiny_processor):
    items = heldout_questions(6, seed=3, families=("compare", "motion", "reasoning"))
    assert [question.family for _, question, _ in items] == ["compare", "motion", "reasoning"] * 2
    messages = [[message_of(visual, question)] for visual, question, _ in items]
    inputs = tiny_processor.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", tokenize=True, return_dict=True
    )
    # Two pictures, four frames, one picture; twice.
    assert [int(tiles > 0) for _, tiles in inputs["image_layouts"].tolist()] == [1] * 8
    assert sorted(tiles for layout, tiles in inputs["image_layouts"].tolist() if layout == 3) == [4, 4]


def test_a_thought_does_not_count_only_the_final_answer():
    def verdict(found):
        return Verdict("id", "reasoning", "?", "red 3, blue 4. 3 + 4. Answer: 7", found)

    assert verdict("red 2, blue 5. Answer: 7").is_right and verdict("7").is_right
    assert not verdict("red 3, blue 4. 3 + 4. Answer: 8").is_right


@pytest.mark.parametrize("style", ["instruct", "pairs", "clips", "reasoning"])
def test_what_is_told_is_asked_about_as_if_it_were_shown(style):
    shown = list(generate_records("train", 12, 4, style, max_turns=20))
    told = list(generate_records("train", 12, 4, style, max_turns=20, told=True))
    for record, twin in zip(shown, told, strict=True):
        assert not {"image", "video"} & set(twin)
        seen = {turn["value"].partition("\n")[0] for turn in twin["conversations"][::2]}
        assert len(seen) == 1  # the same in every question
        lists = [a["value"] for q, a in pairwise_turns(record) if "everything" in q["value"]]
        assert sorted(seen.pop().removesuffix(".").split("; ")) == sorted(lists)
        for (question, answer), (asked, answered) in zip(pairwise_turns(record), pairwise_turns(twin), strict=True):
            assert question["value"].rpartition("\n")[2] == asked["value"].partition("\n")[2]
            assert answer == answered


def pairwise_turns(record):
    turns = record["conversations"]
    return list(zip(turns[::2], turns[1::2], strict=True))


def test_pairs_and_thoughts_are_about_pictures_as_simple_as_wanted():
    pairs_of_one = list(generate_records("train", 30, 5, "pairs", max_things=1))
    asked = " ".join(turn["value"] for r in pairs_of_one for turn in r["conversations"])
    assert "Which picture shows" in asked and "more objects" not in asked and "fewer objects" not in asked
    charts = list(generate_records("train", 10, 5, "reasoning", kinds=("chart",)))
    assert all(any(" bar" in turn["value"] for turn in r["conversations"]) for r in charts)


def test_only_questions_are_asked_that_say_what_is_wanted():
    records = list(generate_records("train", 20, 5, "instruct", kinds=["shapes"], says="Is the .* (left|right) of"))
    asked = [turn["value"] for record in records for turn in record["conversations"][::2]]
    assert len(asked) >= 20
    assert all("Is the " in text and (" left of " in text or " right of " in text) for text in asked)
    with pytest.raises(ValueError, match="says is '\\(', no regular expression"):
        list(generate_records("train", 1, 0, "instruct", says="("))
    with pytest.raises(ValueError, match="no such question"):
        list(generate_records("train", 1, 0, "instruct", says="What for"))


@pytest.mark.parametrize(
    ("style", "places"),
    [("pairs", ("in the first picture", "in the second picture")), ("clips", ("at the start", "at the end"))],
)
def test_everything_in_two_pictures_or_at_both_ends_of_a_clip_can_be_asked_for(style, places):
    first_asked = Counter()
    for record in generate_records("train", 40, 6, style, max_turns=20):
        turns = [turn["value"].removeprefix("<image>").strip() for turn in record["conversations"]]
        turns[0] = turns[0].rpartition("<image>")[2].strip()
        lists = {asked: answer for asked, answer in zip(turns[::2], turns[1::2], strict=True) if "everything" in asked}
        assert sorted(lists) == sorted(f"List everything {place}." for place in places)
        assert all(len(part.split()) in (3, 4) for answer in lists.values() for part in answer.split(", "))
        first_asked[next(iter(lists))] += 1
    assert min(first_asked.values()) > 5 and len(first_asked) == 2  # no list is known by its place


def test_a_clip_s_lists_say_where_it_moves():
    rng = random.Random(8)
    for _ in range(200):
        clip = clips.make_clip(rng)
        start, end = clips.scene_at(clip, 0), clips.scene_at(clip, clips.NUM_FRAMES - 1)
        assert start == clip.start and end.things[1:] == clip.start.things[1:]
        assert [q.answer for q in clips.clip_lists(clip)] == [dense_caption(start), dense_caption(end)]
        dx, dy = clips.STEPS[clip.direction]
        moved = end.things[0].x - start.things[0].x, end.things[0].y - start.things[0].y
        assert moved == (dx * clip.path, dy * clip.path)


@pytest.mark.parametrize(
    ("style", "wish"),
    [
        ("caption", {"told": True}),
        ("caption", {"rounds": 2}),
        ("pairs", {"kinds": ("shapes",)}),
        ("clips", {"max_things": 1}),
        ("reasoning", {"families": ("count",)}),
        ("caption", {"says": "first"}),
    ],
)
def test_a_wish_the_style_does_not_know_is_refused(style, wish):
    with pytest.raises(ValueError, match=f"found {next(iter(wish))}.*{style}"):
        generate_records("train", 1, 0, style, **wish)


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    course = tmp_path / "course.yaml"
    course.write_text("{seed: 0, lessons: [{records: 1, parts: [{style: pairs, share: 1, kinds: [chart]}]}]}")
    command = [sys.executable, "-m", "llada_v.toyworld", "data", tmp_path / "toy", course]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "toy").exists()
    assert done.stderr.startswith("error: found kinds=['chart'], expected none") and done.stderr.count("\n") == 1
