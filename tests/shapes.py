"""A vocabulary of letters and words, and logits that follow from the canvas, for tests of answers with a shape."""

import torch

from llada_v import SamplerConfig
from llada_v.generation.automaton import automaton_of
from llada_v.generation.constraint import Constraint
from llada_v.generation.patterns import pattern_of, template_parts
from llada_v.generation.sampler import sample
from llada_v.generation.shape import laid_out
from llada_v.generation.template import Template

MASK, END, FILLER = 0, 1, 2
WORDS = [
    "true",
    "false",
    "null",
    '": ',
    ", ",
    '{"',
    "red",
    "blue",
    "the ",
    "10",
    "ab",
    '"}',
    "\u00e9",
    "\u4e2d",
    "Name: ",
]
PIECES = (b"", b"", b"", *(bytes([byte]) for byte in range(256)), *(word.encode() for word in WORDS))


def spelled(ids) -> str:
    return b"".join(PIECES[token] for token in ids).decode("utf-8", "replace")


def encoded(text: str) -> list[int]:
    return [PIECES.index(bytes([byte])) for byte in text.encode()]


def shape(constraint: dict, length: int) -> Constraint | Template:
    if "template" not in constraint:
        return Constraint(automaton_of(pattern_of(constraint), PIECES), END, MASK, length)
    parts = template_parts(constraint["template"])
    return Template(laid_out(parts, encoded, lambda pattern: automaton_of(pattern, PIECES)), END, FILLER, MASK, length)


def logits_from(seed: int):
    """Logits that depend on the row's number, the canvas and the position, and on nothing else."""

    def logits_of(call):
        rows, places = call.is_open.nonzero(as_tuple=True)
        seen = (call.canvas * torch.arange(3, 3 + call.canvas.shape[1])).sum(1)[rows] % 9973
        phase = seen * 0.37 + places * 1.7 + call.rows[rows] * 5.1 + seed
        logits = 9 * torch.sin(phase[:, None] + torch.arange(len(PIECES)) * (1.3 + 0.1 * (seed % 7)))
        logits[:, [MASK, FILLER]] = -torch.inf
        return logits

    return logits_of


def answers(constraint: dict, num_rows: int = 2, seed: int = 0, rows=None, **settings) -> list[str]:
    """The answers of a batch of a shape; every position in front of the end is revealed, or it fails."""
    config = SamplerConfig(**{"gen_length": 32, "constraint": constraint} | settings)
    plain, first = logits_from(seed), rows or list(range(num_rows))

    def logits_of(call):
        call.rows = torch.tensor(first)[call.rows]
        return plain(call)

    made = shape(constraint, config.canvas_length)
    generator = torch.Generator().manual_seed(seed)
    found = sample(logits_of, len(first), config, MASK, [[END]], generator, decode=spelled, constraint=made)
    for row, end in enumerate(found.ends.tolist()):
        assert MASK not in found.canvas[row, :end], "a position stayed open"
    return found.texts
