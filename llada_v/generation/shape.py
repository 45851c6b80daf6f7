"""From a setting to what holds answers to their shape, for one tokenizer and one canvas."""

import os
from collections.abc import Callable
from dataclasses import replace

from ..errors import WrongValue
from ..json_text import shown
from .apart import fields_apart
from .automaton import Automaton, automaton_of, pieces_of
from .config import APART, AUTO, TOGETHER, SamplerConfig
from .constraint import Constraint
from .patterns import Part, pattern_of, schema_parts, template_parts
from .template import EachRow, Gap, Template

# Where automata are kept from one run to the next.
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "llada_v", "automata")


def shape_of(sampler: SamplerConfig, tokenizer, config) -> tuple[Constraint | Template | EachRow, SamplerConfig]:
    """What holds answers to `sampler.constraint`, and the settings under which it does.

    With fields apart each row of the batch is one of them, in the schema's order.

    tokenizer: the processor's. config: the model's. A template, and a schema that is one, knows its length: "auto" is
    just that. A schema whose longest values would not fit the canvas is held as a whole, its text masked like the rest.
    Raises ValueError where no answer of the shape fits, or the tokenizer's tokens cannot be used.
    """
    assert sampler.constraint is not None
    if sampler.fields == APART:
        asked = fields_apart(sampler.constraint["json_schema"])
        alone = [replace(sampler, constraint=field.constraint, fields=TOGETHER) for field in asked]
        return EachRow([constraint_of(one, tokenizer, config) for one in alone]), sampler
    pieces = pieces_of(tokenizer, config.text_config.vocab_size, config.never_generated_ids())
    ends = config.eot_token_id, config.pad_token_id, config.mask_token_id

    def encode(text: str) -> list[int]:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        if b"".join(pieces[token] for token in ids) != text.encode():
            raise WrongValue(f"the tokenizer has no tokens that spell {shown(text)}; choose other words")
        return ids

    def automaton(pattern: str) -> Automaton:
        return automaton_of(pattern, pieces, CACHE)

    ((kind, value),) = sampler.constraint.items()
    parts = template_parts(value) if kind == "template" else schema_parts(value) if kind == "json_schema" else None
    if parts is not None:
        form = laid_out(parts, encode, automaton)
        most = sum(part.most if isinstance(part, Gap) else len(part) for part in form) + 1
        if kind == "template" or most <= sampler.canvas_length:
            if sampler.gen_length == AUTO:
                length = min(most, sampler.canvas_length)
                sampler = replace(sampler, gen_length=length, max_gen_length=None, block_length=None)
            return Template(form, *ends, sampler.canvas_length), sampler
    return Constraint(automaton(pattern_of(sampler.constraint)), ends[0], ends[2], sampler.canvas_length), sampler


def constraint_of(sampler: SamplerConfig, tokenizer, config) -> Constraint | Template:
    """What holds one row, on a canvas as long as all have."""
    found, _ = shape_of(sampler, tokenizer, config)
    assert not isinstance(found, EachRow)
    return found


def laid_out(
    parts: list[Part], encode: Callable[[str], list[int]], automaton: Callable[[str], Automaton]
) -> list[list[int] | Gap]:
    """The parts of a template as tokens: ids of fixed text, and gaps with how many tokens they need.

    encode: text -> ids, special tokens read as text. automaton: of a pattern.
    """
    found: list[list[int] | Gap] = []
    spaces = ""
    for part, behind in zip(parts, [*parts[1:], None], strict=True):
        if part.text is None:
            pattern = spaces.replace(" ", "\\ ") + part.pattern
            made = automaton(pattern)
            most = max((len(encode(spaces + choice)) for choice in part.choices), default=part.most + len(spaces))
            least = most if part.choices else made.shortest()
            found.append(Gap(made, least, max(least, most)))
            spaces = ""
            continue
        text = part.text
        if behind is not None and behind.text is None:
            text = text.rstrip(" ")
            spaces = part.text[len(text) :]
        if text:
            found.append(encode(text))
    return found
