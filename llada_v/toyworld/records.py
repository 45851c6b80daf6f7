"""Records: scenes and questions in the LLaVA format the training reads, streamed or written to a folder.

A record is {"id", "image", "conversations": [{"from": "human" | "gpt", "value": text}, ...]}; `image` is a PIL
picture in a stream and a path relative to the folder in a written data set.
"""

import json
import random
from pathlib import Path

from ..conversation import list_of, user_message
from ..errors import ExistingFile
from . import clips
from .found import FOUND
from .questions import FAMILIES
from .scenes import SPLITS
from .stories import ALL_FAMILIES, FURTHER, Wanted, askable, check, story_of

IMAGE_TOKEN = "<image>"
"""Where the picture stands in a conversation."""


def generate_records(split, count, seed, style="caption", **wanted):
    """Yield `count` records with PIL images; record i depends on (split, seed, style, i) only, so streams can be cut.

    Styles: "caption" gives one turn with the dense caption; the others several questions: "instruct" shuffled ones
    about one picture, the request for the dense caption among them; "pairs" about two pictures; "clips" about a video,
    a list of frames; "reasoning" such whose answer starts with a thought; "numbers" sums without a picture.

    wanted: fields of `Wanted`.
    Raises ValueError, before the first record, for an unknown split or style, a negative count, or a wish that the
    style does not know; at the first record where what is wanted can never be asked.
    """
    check(split in SPLITS, "split", split, f"one of {SPLITS}")
    check(count >= 0, "count", count, "0 or more records")
    wishes = Wanted(**wanted)
    wishes.check(style)
    return (_generate_record(split, i, seed, style, wishes) for i in range(count))


def heldout_questions(count, seed, families=FAMILIES):
    """A list of `count` (visual, Question, id), one question each about something of the held-out split.

    The families (of ALL_FAMILIES) take turns, so their numbers differ by one at most. The visual is a PIL picture, for
    the family "compare" a list of two, for "motion" a list of frames. Raises ValueError for a negative count or an
    unknown family.
    """
    check(count >= 0, "count", count, "0 or more questions")
    check(families and set(families) <= set(ALL_FAMILIES), "families", families, f"some of {ALL_FAMILIES}")
    items = []
    for i in range(count):
        family = families[i % len(families)]
        rng = random.Random(f"heldout/{seed}/questions/{i}")
        visual, question = _heldout_question(family, rng)
        items.append((visual, question, f"toy-heldout-{family}-{seed}-{i:06d}"))
    return items


def _heldout_question(family, rng):
    """(visual, Question) of one family."""
    further = [style for style, told in FURTHER.items() if told == family]
    if further:
        story, questions = askable(further[0], "heldout", rng, Wanted())
    else:
        kinds = [family] if family in FOUND else None
        story, questions = askable("instruct", "heldout", rng, Wanted(families=[family], kinds=kinds))
    shown, question = story.draw(), rng.choice(questions)
    # Of a video one frame a second, as training takes them from a folder of two a second.
    return shown["video"][::2] if "video" in shown else shown["image"], question


def message_of(visual, question):
    """The message that shows a visual of `heldout_questions` and asks its question."""
    if question.family == clips.FAMILY:
        return user_message(question.text, video=visual)
    return user_message(question.text, list_of(visual))


def write_dataset(folder, split, count, seed, **wanted):
    """Write the records of `generate_records` as `records.json` and `images/*.png`; returns the folder's Path.

    wanted: `style` and fields of `Wanted`.

    The folder appears only when it is complete. Raises ValueError as `generate_records` does, and FileExistsError if
    the folder is there already.
    """
    return write_records(folder, generate_records(split, count, seed, **wanted))


def write_records(folder, records):
    """Write records whose pictures are PIL images as `records.json` and picture files; returns the folder's Path."""
    from ..checkpoint.files import growing  # which brings torch, and `--help` needs none

    folder = Path(folder)
    if folder.exists():
        raise ExistingFile(f"found {folder}, expected a new folder; remove it or name another one")
    with growing(folder) as draft:
        (draft / "images").mkdir()
        written = (_with_files(record, draft, f"{i:06d}") for i, record in enumerate(records))
        lines = ",\n".join(map(json.dumps, written))
        (draft / "records.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return folder


def _with_files(record, folder, name):
    """The record with its pictures written below the folder and named by relative paths; a video is a folder."""
    images = record.get("image", record.get("video"))
    if images is None:
        return record
    if not isinstance(images, list):
        path = f"images/{name}.png"
        images.save(folder / path)
        return record | {"image": path}
    home = Path("videos" if "video" in record else "images") / name
    (folder / home).mkdir(parents=True)
    paths = [str(home / f"{index}.png") for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(folder / path)
    return record | ({"video": str(home)} if "video" in record else {"image": paths})


def _generate_record(split, i, seed, style, wanted):
    """Record i of a stream."""
    # A string seeds by its SHA-512, the same in every run; a tuple would go through hash(), which is not.
    rng = random.Random(f"{split}/{seed}/{style}/{i}")
    return record_of(f"toy-{split}-{style}-{seed}-{i:06d}", *story_of(style, split, rng, wanted))


def record_of(id, shown, questions):
    """A record in the LLaVA format of what is shown ({"image": one or several}, {"video": frames}, {}) and asked."""
    conversations = []
    for question in questions:
        conversations += [{"from": "human", "value": question.text}, {"from": "gpt", "value": question.answer}]
    if shown:
        images = shown.get("image")
        places = " ".join([IMAGE_TOKEN] * (len(images) if isinstance(images, list) else 1))
        first = conversations[0]["value"]
        conversations[0]["value"] = f"{places}\n{first}" if first else places
    return {"id": id, **shown, "conversations": conversations}
