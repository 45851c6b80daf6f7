"""A course draws its parts in their shares, from what is easy to what is hard."""

import re
from collections import Counter

import pytest

from llada_v.toyworld.courses import at, course_records


def course(tmp_path, text):
    file = tmp_path / "course.yaml"
    file.write_text(text)
    return file


def test_a_pair_goes_from_the_first_number_to_the_second(tmp_path):
    file = course(
        tmp_path,
        "{seed: 1, lessons: [{records: 300, parts: [{style: numbers, share: [0, 1]}, "
        "{style: caption, kinds: [shapes], share: [1, 0], max_things: [1, 3]}]}]}",
    )
    records = list(course_records(file))
    pictures = ["image" in record for record in records]
    assert sum(pictures[:100]) > 70 and 25 < sum(pictures[100:200]) < 75 and sum(pictures[200:]) < 30
    things = [1 + r["conversations"][1]["value"].count(",") if "image" in r else 0 for r in records]
    assert max(things[:100]) == 1 and max(things[100:200]) == 2 and max(things[200:]) == 3


def test_a_share_of_several_numbers_has_its_time_and_passes(tmp_path):
    file = course(
        tmp_path,
        "{seed: 1, lessons: [{records: 400, parts: [{style: numbers, share: 1}, "
        "{style: caption, share: [0, 0, 9, 0, 0]}]}]}",
    )
    is_shown = ["image" in record for record in course_records(file)]
    assert not any(is_shown[:100]) and not any(is_shown[300:])
    assert sum(is_shown[180:220]) > sum(is_shown[110:150]) > 0
    assert [at([0, 4, 2], progress) for progress in (0, 0.25, 0.5, 0.75, 1)] == [0, 2, 4, 3, 2]


def test_parts_come_in_their_shares(tmp_path):
    file = course(
        tmp_path,
        "{seed: 1, lessons: [{records: 400, parts: [{style: numbers, share: 3}, "
        "{style: caption, kinds: [sign], share: 1}]}]}",
    )
    counts = Counter("image" in record for record in course_records(file))
    assert counts[False] == pytest.approx(300, abs=30)


def test_lessons_follow_each_other_and_the_rest_is_in_those_that_count_it(tmp_path):
    file = course(
        tmp_path,
        """
        seed: 1
        rest:
          - {style: caption, kinds: [sign], share: [2, 2, 2]}
        lessons:
          - {records: 100, parts: [{style: numbers, share: 1}]}
          - {records: 200, rest: 0.5, parts: [{style: numbers, share: 1}]}
          - {records: 50, rest: 3}
        """,
    )
    records = list(course_records(file))
    is_shown = ["image" in record for record in records]
    assert not any(is_shown[:100]) and all(is_shown[300:]) and 70 < sum(is_shown[100:300]) < 130
    assert len({record["id"] for record in records}) == 350


def test_a_lesson_may_ask_nothing_but_what_says_something(tmp_path):
    styles = {"pairs": "Which picture shows", "reasoning": "/no_think$", "numbers": "[+]", "instruct": "List|Describe"}
    for style, says in styles.items():
        part = f"{{style: {style}, share: 1, says: '{says}', rounds: 3}}"
        file = course(tmp_path, f"{{lessons: [{{records: 20, parts: [{part}]}}]}}")
        turns = [turn["value"] for record in course_records(file) for turn in record["conversations"][::2]]
        assert len(turns) >= 20 and all(re.search(says, turn) for turn in turns)


def test_a_course_is_the_same_in_every_run(tmp_path):
    file = course(tmp_path, "{seed: 3, lessons: [{records: 5, parts: [{style: reasoning, share: 1}]}]}")
    once, again = ([r["conversations"] for r in course_records(file)] for _ in range(2))
    assert once == again


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "found course="),
        ("{seed: 0}", "lacks lessons"),
        ("{lessons: [{records: 5, parts: []}]}", "found shares"),
        ("{lessons: [{records: -5, parts: [{style: caption, share: 1}]}]}", "records is -5"),
        ("{seed: 0, lessons: [{records: many, parts: [{style: caption, share: 1}]}]}", "records is 'many'"),
        ("{sead: 0, lessons: [{records: 5, parts: [{style: caption, share: 1}]}]}", "did you mean 'seed'"),
        ("{lessons: [5]}", "found lesson=5"),
        ("{lessons: [{records: 5, rest: -1, parts: [{style: caption, share: 1}]}]}", "rest is -1"),
        ("{lessons: [{records: 5, rest: 1}]}", "found shares"),
        ("{rest: [{style: caption}], lessons: [{records: 5, rest: 1}]}", "found part="),
        ("{lessons: [{records: 5, parts: [caption]}]}", "found part="),
        ("{lessons: [{records: 5, parts: [{style: caption}]}]}", "found part="),
        ("{lessons: [{records: 5, parts: [{style: caption, share: 1, colour: red}]}]}", "the key 'colour'"),
        ("{lessons: [{records: 5, parts: [{style: poem, share: 1}]}]}", "found style="),
        ("{lessons: [{records: 5, parts: [{style: [caption], share: 1}]}]}", "found style="),
        ("{lessons: [{records: 5, parts: [{style: caption, share: 1, max_things: [0, 5]}]}]}", "max_things is 0"),
        ("{lessons: [{records: 5, parts: [{style: caption, share: 1, max_things: few}]}]}", "max_things is 'few'"),
        ("{lessons: [{records: 5, parts: [{style: caption, share: 1, kinds: 3}]}]}", "kinds is 3"),
        ("{lessons: [{records: 5, parts: [{style: instruct, share: 1, told: 1}]}]}", "told is 1"),
        ("{lessons: [{records: 5, parts: [{style: instruct, share: 1, max_turns: 2.5}]}]}", "max_turns is 2.5"),
        ("{lessons: [{records: 5, parts: [{style: caption, share: -1}]}]}", "found share="),
        ("{lessons: [{records: 5, parts: [{style: caption, share: many}]}]}", "found share="),
        ("{lessons: [{records: 5, parts: [{style: caption, share: [1, 0]}]}]}", "found shares"),
        ("{lessons: [{records: 5, parts: [{style: caption, share: [1, 0, 1]}]}]}", "found shares at 0.5"),
        ("{lessons: [{records: 5, parts: [{style: caption, share: [1, -1, 1]}]}]}", "found share="),
        ("{lessons: [{records: 5, parts: [{style: caption, share: [1]}]}]}", "found share="),
        ("{lessons: [{records: 5, parts: [{style: caption, share: [1, two]}]}]}", "found share="),
    ],
)
def test_what_is_no_course_is_refused_before_the_first_record(tmp_path, text, told):
    with pytest.raises(ValueError, match=told):
        course_records(course(tmp_path, text))
