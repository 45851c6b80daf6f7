"""A course draws its parts in their shares, from what is easy to what is hard."""

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
        "{records: 300, seed: 1, parts: [{style: caption, kinds: [shapes], share: [1, 0], max_things: [1, 3]}, "
        "{style: numbers, share: [0, 1]}]}",
    )
    records = list(course_records(file))
    pictures = ["image" in record for record in records]
    assert sum(pictures[:100]) > 70 and 25 < sum(pictures[100:200]) < 75 and sum(pictures[200:]) < 30
    things = [1 + r["conversations"][1]["value"].count(",") if "image" in r else 0 for r in records]
    assert max(things[:100]) == 1 and max(things[100:200]) == 2 and max(things[200:]) == 3


def test_a_share_of_several_numbers_has_its_time_and_passes(tmp_path):
    file = course(
        tmp_path,
        "{records: 400, seed: 1, parts: [{style: numbers, share: 1}, {style: caption, share: [0, 0, 9, 0, 0]}]}",
    )
    is_shown = ["image" in record for record in course_records(file)]
    assert not any(is_shown[:100]) and not any(is_shown[300:])
    assert sum(is_shown[180:220]) > sum(is_shown[110:150]) > 0
    assert [at([0, 4, 2], progress) for progress in (0, 0.25, 0.5, 0.75, 1)] == [0, 2, 4, 3, 2]


def test_parts_come_in_their_shares(tmp_path):
    file = course(
        tmp_path,
        "{records: 400, seed: 1, parts: [{style: numbers, share: 3}, {style: caption, kinds: [sign], share: 1}]}",
    )
    counts = Counter("image" in record for record in course_records(file))
    assert counts[False] == pytest.approx(300, abs=30)


def test_a_course_is_the_same_in_every_run(tmp_path):
    file = course(tmp_path, "{records: 5, seed: 3, parts: [{style: reasoning, share: 1}]}")
    once, again = ([r["conversations"] for r in course_records(file)] for _ in range(2))
    assert once == again


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "found course="),
        ("{records: 5, seed: 0}", "lacks parts"),
        ("{records: 5, parts: []}", "found shares"),
        ("{records: -5, seed: 0, parts: [{style: caption, share: 1}]}", "records is -5"),
        ("{records: many, seed: 0, parts: [{style: caption, share: 1}]}", "records is 'many'"),
        ("{records: 5, sead: 0, parts: [{style: caption, share: 1}]}", "did you mean 'seed'"),
        ("{records: 5, parts: [caption]}", "found part="),
        ("{records: 5, parts: [{style: caption}]}", "found part="),
        ("{records: 5, parts: [{style: caption, share: 1, colour: red}]}", "the key 'colour'"),
        ("{records: 5, parts: [{style: poem, share: 1}]}", "found style="),
        ("{records: 5, parts: [{style: [caption], share: 1}]}", "found style="),
        ("{records: 5, parts: [{style: caption, share: 1, max_things: [0, 5]}]}", "max_things is 0"),
        ("{records: 5, parts: [{style: caption, share: 1, max_things: few}]}", "max_things is 'few'"),
        ("{records: 5, parts: [{style: caption, share: 1, kinds: 3}]}", "kinds is 3"),
        ("{records: 5, parts: [{style: instruct, share: 1, told: 1}]}", "told is 1"),
        ("{records: 5, parts: [{style: instruct, share: 1, max_turns: 2.5}]}", "max_turns is 2.5"),
        ("{records: 5, parts: [{style: caption, share: -1}]}", "found share="),
        ("{records: 5, parts: [{style: caption, share: many}]}", "found share="),
        ("{records: 5, parts: [{style: caption, share: [1, 0]}]}", "found shares"),
        ("{records: 5, parts: [{style: caption, share: [1, 0, 1]}]}", "found shares at 0.5"),
        ("{records: 5, parts: [{style: caption, share: [1, -1, 1]}]}", "found share="),
        ("{records: 5, parts: [{style: caption, share: [1]}]}", "found share="),
        ("{records: 5, parts: [{style: caption, share: [1, two]}]}", "found share="),
    ],
)
def test_what_is_no_course_is_refused_before_the_first_record(tmp_path, text, told):
    with pytest.raises(ValueError, match=told):
        course_records(course(tmp_path, text))
