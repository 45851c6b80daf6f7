"""A course: what the records of a stage are about, from the first to the last. A YAML file holds one:

    records: 40000
    seed: 1
    parts:
      - {style: instruct, share: 3, max_turns: 8, max_things: [1, 5]}
      - {style: caption, share: [2, 0]}

`share` is how often a part is drawn, the rest what is wanted of it (`Wanted`). A pair of numbers goes evenly from the
first to the second over the records, so that pictures fill up, or one part gives way to another; a share may have more
numbers, at even distances, where a part has its time and passes.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from ..data.yaml_text import read_yaml
from ..fields import check as check_fields
from ..fields import loaded, setting
from .found import check_packages
from .records import record_of
from .stories import Wanted, check, story_of


@dataclass(frozen=True, kw_only=True)
class Course:
    """A course as its file has it. Raises ValueError for what cannot be."""

    records: int = setting(told="how many there are", least=0, most=100_000_000)
    seed: int = setting(0, "what they are drawn from", least=0, most=2**32)
    parts: list[dict] = setting(told="what they are about", least=1)

    def __post_init__(self):
        check_fields(self)
        for part in self.parts:
            is_part = isinstance(part, Mapping) and {"style", "share"} <= set(part)
            check(is_part, "part", part, "style, share and what is wanted")
            good = all(type(share) in (int, float) and share >= 0 for share in _points(part["share"]))
            check(good, "share", part["share"], "0 or more, or a list of two or more such numbers")
            for progress in (0, 1):
                wanted_at(part, progress).check(part["style"])
        for progress in sorted({0, *(place for part in self.parts for place in _places(part["share"]))}):
            shares = [at(part["share"], progress) for part in self.parts]
            check(sum(shares) > 0, f"shares at {progress}", shares, "at least one above 0")


def course_records(file, split="train"):
    """Yield the records of a course with PIL images.

    Before the first, raises ValueError for a file that is none, NoPackage where a package is missing that
    pictures come from.
    """
    values = read_yaml(file, "the tiny model's courses are under scripts/courses")
    check(isinstance(values, Mapping), "course", values, "the keys records, seed and parts")
    course = loaded(Course, values, str(file))
    check_packages()
    return (_course_record(i, course, split) for i in range(course.records))


def _course_record(i, course, split):
    """Record i."""
    progress = i / course.records
    rng = random.Random(f"{split}/course/{course.seed}/{i}")
    part = rng.choices(course.parts, [at(part["share"], progress) for part in course.parts])[0]
    shown = story_of(part["style"], split, rng, wanted_at(part, progress))
    return record_of(f"toy-{split}-course-{course.seed}-{i:06d}", *shown)


def wanted_at(part, progress):
    """What is wanted of a part at a point of the course, from 0 to 1."""
    wishes = {name: wish for name, wish in part.items() if name not in ("style", "share")}
    for name, wish in wishes.items():
        if _is_pair(wish):  # each whole number from the first to the second for the same time
            wishes[name] = int(at([wish[0], wish[1] + 1], min(progress, 0.9999)))
    return loaded(Wanted, wishes, f"the part {part['style']}")


def at(value, progress):
    """A number, or the point that a list of two or more has come to."""
    points = _points(value)
    if len(points) == 1:
        return value
    place = progress * (len(points) - 1)
    before = min(int(place), len(points) - 2)
    return points[before] + (points[before + 1] - points[before]) * (place - before)


def _points(value):
    """The numbers of a list of two or more, or the one value."""
    return value if isinstance(value, list) and len(value) > 1 else [value]


def _places(value):
    """Where in the course, from 0 to 1, the points of a value are."""
    last = max(1, len(_points(value)) - 1)
    return [number / last for number in range(last + 1)]


def _is_pair(value):
    return isinstance(value, list) and len(value) == 2 and all(isinstance(number, int | float) for number in value)
