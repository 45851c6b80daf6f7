"""The small world the tiny model lives in: pictures with exactly known content, and conversations about them.

The story in five files. `scenes` makes up what is in a picture - a few shapes, a sign, a bar chart - and draws it;
`found` brings what nobody here drew: handwritten digits, words in real fonts, icons, photographs. `questions` asks
about it, with one exact answer each; `pairs`, `clips` and `reasons` do so beyond one picture at a glance. `stories`
chooses among all that what is wanted, and `records` turns it into LLaVA records, endless and the same for the same
seed; `courses` says in which shares, from what is easy to what is hard. A tenth of all scenes is held out by a hash of
its content, half of the handwritten digits, and all photographs of some packages, so no seed can put a held-out picture
into training.

    from llada_v.toyworld import generate_records, heldout_questions

    for record in generate_records("train", count=1000, seed=0, style="instruct"):
        ...
    for image, question, id in heldout_questions(count=80, seed=0):
        ...
"""

from .questions import FAMILIES, Question, dense_caption, questions_about
from .records import generate_records, heldout_questions, write_dataset
from .scenes import KINDS, SPLITS, Bar, Scene, Sign, Thing, draw, make_scene, scene_key, split_of
from .stories import STYLES, Wanted

__all__ = [
    "FAMILIES",
    "KINDS",
    "SPLITS",
    "STYLES",
    "Bar",
    "Question",
    "Scene",
    "Sign",
    "Thing",
    "Wanted",
    "dense_caption",
    "draw",
    "generate_records",
    "heldout_questions",
    "make_scene",
    "questions_about",
    "scene_key",
    "split_of",
    "write_dataset",
]
