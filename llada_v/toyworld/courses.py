"""A course: what the records of a stage are about, from the first to the last. A YAML file holds one:

    records: 40000
    seed: 1
    parts:
      - {style: instruct, share: 3, max_turns: 8, max_things: [1, 5]}
      - {style: caption, share: [2, 0]}

`share` is how often a part is drawn, the rest what is wanted of it (`Wanted`). A pair of numbers goes evenly from the
first to the second over the records, so that pictures fill up, or one part gives way to another.
"""

import random
from dataclasses import fields

from ..data.yaml_text import read_yaml
from .found import check_packages
from .records import record_of
from .stories import Wanted, check, story_of

KEYS = ("records", "seed", "parts")


def course_records(file, split="train"):
    """Yield the records of a course with PIL images. Before the first, raises ValueError for a file that is none,
    ModuleNotFoundError where a package is missing that pictures come from.
    """
    course = read_yaml(file, "the tiny model's courses are under scripts/courses")
    is_whole = isinstance(course, dict) and sorted(course) == sorted(KEYS) and isinstance(course["parts"], list)
    check(is_whole and course["parts"], "course", course, f"the keys {', '.join(KEYS)}, the last a list")
    check_packages()
    count, seed, parts = (course[key] for key in KEYS)
    are_counts = all(type(number) is int and number >= 0 for number in (count, seed))
    check(are_counts, "records, seed", (count, seed), "whole numbers of at least 0")
    for part in parts:
        known = {"style", "share", *(field.name for field in fields(Wanted))}
        is_part = isinstance(part, dict) and {"style", "share"} <= set(part) <= known
        check(is_part, "part", part, f"style, share and some of {sorted(known - {'style', 'share'})}")
        for progress in (0, 1):
            _wanted(part, progress).check(part["style"])
            share = at(part["share"], progress)
            check(type(share) in (int, float) and share >= 0, "share", part["share"], "0 or more, or a pair")
    for progress in (0, 1):
        shares = [at(part["share"], progress) for part in parts]
        check(sum(shares) > 0, f"shares at {progress}", shares, "at least one above 0")
    return (_course_record(i, count, seed, split, parts) for i in range(count))


def _course_record(i, count, seed, split, parts):
    """Record i."""
    progress = i / count
    rng = random.Random(f"{split}/course/{seed}/{i}")
    shares = [at(part["share"], progress) for part in parts]
    part = rng.choices(parts, shares)[0]
    shown = story_of(part["style"], split, rng, _wanted(part, progress))
    return record_of(f"toy-{split}-course-{seed}-{i:06d}", *shown)


def _wanted(part, progress):
    """What is wanted of a part at a point of the course, from 0 to 1."""
    wishes = {name: wish for name, wish in part.items() if name not in ("style", "share")}
    # Each of the whole numbers from the first to the second for the same time.
    widened = {name: [w[0], w[1] + 1] if _is_pair(w) else w for name, w in wishes.items()}
    return Wanted(**{name: int(at(w, min(progress, 0.9999))) if _is_pair(w) else w for name, w in widened.items()})


def at(value, progress):
    """A number, or the point that a pair of numbers has come to."""
    return value[0] + (value[1] - value[0]) * progress if _is_pair(value) else value


def _is_pair(value):
    return isinstance(value, list) and len(value) == 2 and all(isinstance(number, int | float) for number in value)
