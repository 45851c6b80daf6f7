"""Settings with ranges: a dataclass says once, at the field, its default, its meaning and what it may be.

    @documented
    @dataclass(frozen=True)
    class Stage:
        \"\"\"One stage.\"\"\"

        epochs: float = setting(1.0, "passes over the records", above=0, most=1000)

        def __post_init__(self):
            check(self)

`check` refuses all else in one line, and the options of the command line are made from the same fields.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from .errors import WrongValue
from .json_text import shown

WORDS = {int: "whole number", float: "number"}  # all else is a text


@dataclass(frozen=True)
class Rule:
    """What a setting means and may be.

    told: its meaning. none: what None stands for, in the words of a default.
    least, most: limits of a number, or of how many words a list has. above, below: limits that it must not reach.
    choices: the only values of a text or of a list's words; of a number they are allowed beside the range.
    may_change: whether what is under way, as a run of training, may go on with another value.
    """

    told: str
    none: str | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    may_change: bool = False


def setting(default: Any = MISSING, told: str = "", **rule) -> Any:
    """A dataclass's field with a `Rule`. Without a default it has to be given."""
    metadata = {"rule": Rule(told, **rule)}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def rules_of(settings) -> dict[str, tuple[dataclasses.Field, Rule]]:
    """(field, rule) by name, of a dataclass or one of its objects."""
    return {field.name: (field, field.metadata["rule"]) for field in dataclasses.fields(settings) if field.metadata}


def documented(cls):
    """The dataclass with a line for each setting in its docstring."""
    lines = [f"    {name}: {text_of(field, rule)}" for name, (field, rule) in rules_of(cls).items()]
    cls.__doc__ = "\n".join([cls.__doc__.rstrip(), "", *lines])
    return cls


def check(settings) -> None:
    """Raise ValueError with name, value and what it may be, for the first setting that its field does not allow."""
    for name, (field, rule) in rules_of(settings).items():
        value = getattr(settings, name)
        if not fits(value, kinds_of(field), rule):
            raise WrongValue(f"{name} is {shown(value)}; {allowed(field, rule)}")


def loaded(cls, values: Mapping, where: str):
    """The settings of values by name, as a file has them: whole numbers and texts such as 1e-5 pass as floats.

    Raises ValueError for a name that is no setting, one that is missing, and what `check` refuses.
    """
    rules = rules_of(cls)
    for name in values:
        if name not in rules:
            raise WrongValue(f"{where} has the key {name!r}{meant(name, rules)}; the keys are {', '.join(rules)}")
    missing = [name for name, (field, _) in rules.items() if name not in values and not has_default(field)]
    if missing:
        raise WrongValue(f"{where} lacks {', '.join(missing)}")
    fractions = {name for name, (field, _) in rules.items() if float in kinds_of(field)}
    return cls(**{name: as_float(value) if name in fractions else value for name, value in values.items()})


def meant(name, known) -> str:
    """A guess at what a wrong name stands for, to put behind it."""
    import difflib

    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def has_default(field: dataclasses.Field) -> bool:
    """Whether a field may be left out."""
    return field.default is not MISSING or field.default_factory is not MISSING


def default_of(field: dataclasses.Field):
    """What stands where a field is left out."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def as_float(value):
    """A number or the text of one as a float; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return value
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value


def kinds_of(field: dataclasses.Field) -> tuple:
    """The types of a field: (int, NoneType) for `int | None`."""
    return get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)


def fits(value, kinds: tuple, rule: Rule) -> bool:
    """Whether a value is of one of the types and what the rule allows."""
    if value is None:
        return NoneType in kinds
    if isinstance(value, (bool, dict)):
        return type(value) in kinds
    if isinstance(value, (int, float)):
        return (float in kinds or int in kinds and isinstance(value, int)) and in_range(value, rule)
    if isinstance(value, (str, Path)):
        return (str in kinds or Path in kinds) and (not rule.choices or str(value) in rule.choices)
    lists = [kind for kind in kinds if get_origin(kind) in (list, tuple)]
    if not isinstance(value, (list, tuple)) or not lists:
        return False
    words = get_args(lists[0])[0]
    if words is not str:
        return True  # lists of anything else are for the dataclass itself to check
    each = all(fits(word, (words,), Rule("", choices=rule.choices)) for word in value)
    return each and in_range(len(value), rule)


def in_range(number: float, rule: Rule) -> bool:
    """Whether a number is finite and within the limits."""
    return (
        (isinstance(number, int) or math.isfinite(number))
        and (rule.least is None or rule.least <= number)
        and (rule.most is None or number <= rule.most)
        and (rule.above is None or rule.above < number)
        and (rule.below is None or number < rule.below)
    )


def allowed(field: dataclasses.Field, rule: Rule) -> str:
    """What a setting may be, for an error."""
    kinds = kinds_of(field)
    if any(get_origin(kind) in (list, tuple) for kind in kinds):
        if rule.choices:
            return f"list {'one' if rule.least else 'none'} or more of {', '.join(rule.choices)}"
        return f"it must be {' or '.join(spelled(kind) for kind in kinds if kind is not NoneType)}"
    if bool in kinds or dict in kinds:
        return "it must be true or false" if bool in kinds else "it must be an object with names and values"
    if int in kinds or float in kinds:
        noun = "a number" if float in kinds else "a whole number"
        return f"it must be {noun} {range_of(rule)}" + "".join(f", or {choice!r}" for choice in rule.choices)
    return f"choose one of {', '.join(rule.choices)}" if rule.choices else "it must be a text"


def range_of(rule: Rule) -> str:
    """The limits of a number."""
    if rule.least is not None and rule.most is not None:
        return f"from {number(rule.least)} to {number(rule.most)}"
    low = f"of at least {number(rule.least)}" if rule.least is not None else f"above {number(rule.above)}"
    return f"{low}, {f'at most {number(rule.most)}' if rule.most is not None else f'below {number(rule.below)}'}"


def number(value: float) -> str:
    """A limit with its thousands apart."""
    return f"{value:,}"


def spelled(kind) -> str:
    """A type in words."""
    return f"a list of {plural(get_args(kind)[0])}" if get_origin(kind) is list else f"a {WORDS.get(kind, 'text')}"


def plural(kind) -> str:
    """Several of a type in words."""
    return f"lists of {plural(get_args(kind)[0])}" if get_origin(kind) is list else f"{WORDS.get(kind, 'text')}s"


def text_of(field: dataclasses.Field, rule: Rule) -> str:
    """Meaning, range and default in one line."""
    kinds = kinds_of(field)
    about = []
    if (int in kinds or float in kinds) and bool not in kinds:
        about.append(range_of(rule) + "".join(f" or {choice}" for choice in rule.choices))
    elif rule.choices:
        about.append(" | ".join(rule.choices))
    if not has_default(field):
        about.append("required")
    elif default_of(field) is None:
        about.append(f"default: {rule.none or 'none'}")
    else:
        about.append(f"default: {plain(default_of(field))}")
    return f"{rule.told} ({'; '.join(about)})"


def plain(value) -> str:
    """A default as a recipe or a command line writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
