"""A course: what the records of a stage are about, lesson after lesson. A YAML file holds one:

    seed: 1
    lessons:
      - records: 10000
        parts:
          - {style: instruct, share: 3, max_turns: 8, max_things: [1, 5]}
          - {style: caption, share: [2, 0]}

`share` is how often a part is drawn, the rest what is wanted of it (`Wanted`). A pair of numbers goes evenly from the
first to the second over the lesson, so that pictures fill up, or one part gives way to another; a share may have more
numbers, at even distances, where a part has its time and passes. Parts of the whole course stand under `rest`, and what
its shares count in a lesson under the lesson's `rest`.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..data.yaml_text import read_yaml
from ..fields import check as check_fields
from ..fields import loaded, setting
from .found import check_packages
from .records import record_of
from .stories import Wanted, check, story_of


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A lesson as its file has it. Raises ValueError for what cannot be."""

    records: int = setting(told="how many there are", least=0, most=100_000_000)
    parts: list[dict] = setting([], "what they are about")
    rest: float = setting(0.0, "what the shares of the course's `rest` count beside them", least=0, most=1_000_000)

    def __post_init__(self):
        check_fields(self)
        check_parts(self.parts)

    def beside(self, rest):
        """The lesson with the parts of its course's `rest` among its own."""
        scaled = [part | {"share": _times(self.rest, part["share"])} for part in rest]
        lesson = replace(self, parts=self.parts + scaled)
        lesson.check_shares()
        return lesson

    def check_shares(self):
        """Raise ValueError where all shares are 0."""
        for progress in sorted({0, *(place for part in self.parts for place in _places(part["share"]))}):
            shares = [at(part["share"], progress) for part in self.parts]
            check(sum(shares) > 0, f"shares at {progress}", shares, "at least one above 0")

    def story_at(self, progress, split, rng):
        """What `rng` shows and asks at a point of the lesson, from 0 to 1."""
        part = rng.choices(self.parts, [at(part["share"], progress) for part in self.parts])[0]
        return story_of(part["style"], split, rng, wanted_at(part, progress))


@dataclass(frozen=True, kw_only=True)
class Course:
    """A course as its file has it; `lessons` become Lessons. Raises ValueError for what cannot be."""

    seed: int = setting(0, "what the records are drawn from", least=0, most=2**32)
    lessons: list[dict] = setting(told="what they are about, one after the other", least=1)
    rest: list[dict] = setting([], "what else they are about, as often as each lesson has it")

    def __post_init__(self):
        check_fields(self)
        check_parts(self.rest)
        for lesson in self.lessons:
            check(isinstance(lesson, Mapping), "lesson", lesson, "records, and parts or rest")


def course_records(file, split="train"):
    """Yield the records of a course with PIL images.

    Before the first, raises ValueError for a file that is none, NoPackage where a package is missing that
    pictures come from.
    """
    values = read_yaml(file, "the tiny model's courses are under scripts/courses")
    check(isinstance(values, Mapping), "course", values, "the keys seed and lessons")
    course = loaded(Course, values, str(file))
    lessons = [loaded(Lesson, lesson, f"a lesson of {file}").beside(course.rest) for lesson in course.lessons]
    check_packages()
    return _records_of(lessons, course.seed, split)


def _records_of(lessons, seed, split):
    """The records of lessons, numbered throughout."""
    places = ((lesson, place / lesson.records) for lesson in lessons for place in range(lesson.records))
    for i, (lesson, progress) in enumerate(places):
        rng = random.Random(f"{split}/course/{seed}/{i}")
        yield record_of(f"toy-{split}-course-{seed}-{i:06d}", *lesson.story_at(progress, split, rng))


def check_parts(parts):
    """Raise ValueError for a part that lacks something or wants what cannot be."""
    for part in parts:
        is_part = isinstance(part, Mapping) and {"style", "share"} <= set(part)
        check(is_part, "part", part, "style, share and what is wanted")
        good = all(type(share) in (int, float) and share >= 0 for share in _points(part["share"]))
        check(good, "share", part["share"], "0 or more, or a list of two or more such numbers")
        for progress in (0, 1):
            wanted_at(part, progress).check(part["style"])


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


def _times(factor, value):
    """A number, or each of a list, times a factor."""
    return [factor * number for number in value] if isinstance(value, list) else factor * value


def _places(value):
    """Where in the course, from 0 to 1, the points of a value are."""
    last = max(1, len(_points(value)) - 1)
    return [number / last for number in range(last + 1)]


def _is_pair(value):
    return isinstance(value, list) and len(value) == 2 and all(isinstance(number, int | float) for number in value)
