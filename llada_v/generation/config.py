"""The settings of one answer, checked when they are made."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import WrongValue
from ..fields import check, documented, setting
from ..json_text import shown
from .apart import fields_apart
from .patterns import pattern_of
from .presets import settings_of

AUTO = "auto"
REMASKING = ("low_confidence", "random")
CACHES = ("none", "prompt", "dllm")
RULES = ("top_k", "threshold", "factor", "frechet", "entropy_bound", "margin", "klass")
SCHEDULES = ("linear", "convex")
TOGETHER, APART = "together", "apart"

# Settings that exist for one value of another: name -> (the other, its value, what None stands for there).
BELONGS = {
    "refresh_interval": ("cache", "prompt", 4),
    "prompt_interval": ("cache", "dllm", 25),
    "gen_interval": ("cache", "dllm", 7),
    "transfer_ratio": ("cache", "dllm", 0.25),
    "threshold": ("rule", "threshold", 0.9),
    "factor": ("rule", "factor", 1.0),
    "frechet": ("rule", "frechet", 0.25),
    "entropy_bound": ("rule", "entropy_bound", 0.1),
    "margin": ("rule", "margin", 0.8),
    "klass": ("rule", "klass", 0.9),
    "divergence": ("rule", "klass", 0.01),
    "max_gen_length": ("gen_length", AUTO, 512),
}
MOST = 1_000_000  # the largest value of a number that has no narrower limit: far more than a model has positions
# Of guidance and of noise: beyond it nothing but noise is left, or float32 overflows.
MOST_GUIDANCE, MOST_NOISE = 1_000, 10_000
MOST_STOPS, MOST_STOP_LETTERS = 100, 1000
AUTO_BLOCK = 32  # tokens that an answer of gen_length="auto" starts with


def optional(name: str, told: str, **rule):
    """A setting that exists for one value of another, which says what None stands for."""
    owner, value, default = BELONGS[name]
    return setting(None, f"with {owner} {value}: {told}", none=str(default), **rule)


@dataclass(frozen=True)
class Resolved:
    """A sampler's settings with what None stands for, whether the cache or the rule that reads them is chosen or not.

    canvas_length: the most tokens that an answer can have. The others: see `SamplerConfig`.
    """

    canvas_length: int
    block_length: int
    steps: int
    refresh_interval: int
    prompt_interval: int
    gen_interval: int
    transfer_ratio: float
    threshold: float
    factor: float
    frechet: float
    entropy_bound: float
    margin: float
    klass: float
    divergence: float


@documented
@dataclass(frozen=True)
class SamplerConfig:
    """How an answer is revealed (arXiv 2502.09992, algorithm 5; defaults of the original LLaDA-V).

    It keeps what was given, so that `dataclasses.replace` and `asdict` work; `resolved` has what None stands for.
    Raises ValueError for values that cannot be or do not fit together, naming the remedy.
    """

    gen_length: int | str = setting(
        128,
        "length of the answer canvas in tokens; auto: the canvas doubles, up to max_gen_length, while neither a stop "
        "is revealed nor one among the candidates of its masks",
        least=1,
        most=MOST,
        choices=(AUTO,),
    )
    steps: int | None = setting(
        None,
        "forward passes for the whole answer with rule top_k; the other rules decide themselves how many they need",
        none="one token a step",
        least=1,
        most=MOST,
    )
    block_length: int | None = setting(
        None,
        "the canvas is revealed block by block, left to right; with gen_length auto it is one block, and this is the "
        "length it starts with",
        none=f"one block, {AUTO_BLOCK} with gen_length auto",
        least=1,
        most=MOST,
    )
    temperature: float = setting(0.0, "0 takes the best token, more samples by Gumbel noise", least=0, most=MOST_NOISE)
    cfg_scale: float = setting(
        0.0,
        "strength of classifier-free guidance, 0 is off; the unguided copy sees a prompt of masks",
        least=0,
        most=MOST_GUIDANCE,
    )
    remasking: str = setting(
        "low_confidence",
        "which tokens stay: low_confidence keeps the most probable, random keeps any",
        choices=REMASKING,
    )
    stop_token_ids: list[list[int]] | None = setting(
        None, "id sequences that end the answer; []: nothing stops it", none="the model's end-of-turn token"
    )
    stop_strings: list[str] | None = setting(
        None,
        "texts that end the answer, wherever in a token they begin; `generate` needs the tokenizer for them",
        none="no others",
    )
    constraint: dict | None = setting(
        None,
        "the shape of the answer, one of {regex: pattern}, {choices: texts}, {template: text with gaps}, {json_schema: "
        "schema} (see `generation.patterns`): only tokens are let through that lead to it; `generate` needs the "
        "tokenizer, and outlines-core",
        none="any text",
    )
    fields: str = setting(
        TOGETHER,
        "how JSON is filled: together, as one text; apart, where each property of a json_schema is asked by its "
        "description in a row of its own (see `generation.apart`)",
        choices=(TOGETHER, APART),
    )
    suffix_token_ids: list[int] | None = setting(
        None, "ids placed behind the canvas, visible from the first step and returned behind the answer"
    )
    cache: str = setting(
        "none",
        "what a step does not compute again. none: everything is computed; prompt: keys and values of everything "
        "outside the block are kept (arXiv 2505.22618, dual cache); dllm: keys and values of the prompt, and what "
        "attention and MLP add to the answer, are kept and partly renewed (arXiv 2506.06295)",
        choices=CACHES,
    )
    refresh_interval: int | None = optional(
        "refresh_interval",
        "everything is computed at the first step of a block and every so many steps after it; 0: at the first alone; "
        "1: always, which is the plain sampler",
        least=0,
        most=MOST,
    )
    prompt_interval: int | None = optional(
        "prompt_interval", "the prompt is computed every so many steps", least=1, most=MOST
    )
    gen_interval: int | None = optional(
        "gen_interval", "the answer is computed every so many steps", least=1, most=MOST
    )
    transfer_ratio: float | None = optional(
        "transfer_ratio",
        "the share of answer positions, those whose values changed most, that is computed in the steps between",
        least=0,
        most=1,
    )
    rule: str = setting("top_k", "which candidates a step reveals; see `generation.reveal`", choices=RULES)
    schedule: str = setting(
        "linear",
        "how top_k shares the masks among the steps: linear evenly, convex few first and more later",
        choices=SCHEDULES,
    )
    threshold: float | None = optional("threshold", "all tokens that are more probable", least=0, most=1)
    factor: float | None = optional("factor", "the most n with (n + 1) (1 - p_n) below it", least=0, most=MOST)
    frechet: float | None = optional(
        "frechet", "the most n with p_1 + .. + p_n - (n - 1) - (1 - p_n) above it", least=0, most=1
    )
    entropy_bound: float | None = optional(
        "entropy_bound", "the most positions whose entropies add up to it", least=0, most=MOST
    )
    margin: float | None = optional("margin", "all tokens that lead the next best by more", least=0, most=1)
    klass: float | None = optional(
        "klass",
        "all tokens that are more probable, where the distribution has changed by less than `divergence`",
        least=0,
        most=1,
    )
    divergence: float | None = optional(
        "divergence", "the KL divergence to the step before, in nats, that a position stays under", least=0, most=MOST
    )
    lookahead: int = setting(
        0,
        "steps that are drafted ahead and verified in the same forward pass; the tokens are those without. 0: off",
        least=0,
        most=64,
    )
    keep_features: float | None = setting(
        None,
        "share of the pictures' features that an answer goes on with once it computes everything again after its first "
        "step: those that its masks attend to most (RedVTP, arXiv 2511.12428). The rows of a batch are run one by one",
        none="all",
        above=0,
        most=1,
    )
    merge_features: float | None = setting(
        None,
        "share of the pictures' features that are left from the start, when those most alike have become their mean "
        "(ToMe, arXiv 2210.09461)",
        none="all",
        above=0,
        most=1,
    )
    max_gen_length: int | None = optional("max_gen_length", "the longest canvas", least=1, most=MOST)
    compile: bool = setting(
        False, "run the trunk through torch.compile, on a GPU with CUDA graphs; the first answers are slow"
    )

    def __post_init__(self):
        check(self)
        for name, (owner, value, _) in BELONGS.items():
            if getattr(self, name) is not None and getattr(self, owner) != value:
                raise WrongValue(
                    f"{name} is {getattr(self, name)!r}, but {owner} is {getattr(self, owner)!r}; "
                    f"leave {name} out or set {owner}={value!r}"
                )
        self._check_lengths()
        self._check_stops()
        self._check_combinations()
        if self.constraint is not None:
            pattern_of(self.constraint)
        if self.fields == APART:
            if self.constraint is None or "json_schema" not in self.constraint:
                raise WrongValue(f"fields {APART!r} are those of a json_schema; give constraint={{'json_schema': ...}}")
            fields_apart(self.constraint["json_schema"])

    @classmethod
    def preset(cls, name: str, **changes) -> "SamplerConfig":
        """The settings of a preset (see `generation.presets`), with `changes` in place of its own.

        Raises ValueError for an unknown name, and for changes that do not fit together.
        """
        return cls(**settings_of(name, changes))

    @cached_property
    def resolved(self) -> Resolved:
        """Every number that None may stand for."""
        found: dict[str, Any] = {
            name: default if getattr(self, name) is None else getattr(self, name)
            for name, (_, _, default) in BELONGS.items()
        }
        canvas = found.pop("max_gen_length") if self.gen_length == AUTO else int(self.gen_length)
        found.pop("max_gen_length", None)
        first = min(AUTO_BLOCK, canvas) if self.gen_length == AUTO else canvas
        return Resolved(
            canvas_length=canvas, block_length=self.block_length or first, steps=self.steps or canvas, **found
        )

    def _check_lengths(self) -> None:
        """Canvas, blocks and steps."""
        canvas, block, steps = self.canvas_length, self.resolved.block_length, self.resolved.steps
        if self.gen_length == AUTO:
            if block > canvas:
                raise WrongValue(
                    f"block_length {block}, which the canvas starts with, is more than max_gen_length {canvas}; "
                    "raise max_gen_length"
                )
            if steps != canvas:
                raise WrongValue(
                    f"steps is {steps}, but gen_length={AUTO!r} has no fixed canvas to share among steps; "
                    "leave steps out, or choose a rule that reveals several tokens a step"
                )
            return
        if canvas % block:
            raise WrongValue(
                f"gen_length {canvas} is not a multiple of block_length {block}; "
                f"try gen_length={-(-canvas // block) * block} or block_length={canvas}"
            )
        if self.rule != "top_k" and steps != canvas:
            raise WrongValue(
                f"steps is {steps}, but rule {self.rule!r} decides itself how many tokens a step reveals; "
                "leave steps out or set rule='top_k'"
            )
        if steps % self.num_blocks:
            raise WrongValue(
                f"steps {steps} cannot be shared by {self.num_blocks} blocks; "
                f"try steps={-(-steps // self.num_blocks) * self.num_blocks}"
            )

    def _check_stops(self) -> None:
        """Each stop can be found, and what stands behind the canvas is ids."""
        stops = self.stop_token_ids or []
        for stop in stops:
            if not is_ids(stop) or not len(stop):
                raise WrongValue(
                    f"stop_token_ids has {shown(stop)}; each stop is a non-empty list of ids, for example [[126348]]"
                )
            if len(stop) > self.canvas_length:
                raise WrongValue(
                    f"the stop {shown(stop)} is longer than gen_length {self.canvas_length}; raise gen_length"
                )
        for stop in stops:
            for other in stops:
                if len(other) < len(stop) and list(stop[: len(other)]) == list(other):
                    raise WrongValue(
                        f"the stop {shown(stop)} starts with the stop {shown(other)} and can never end an answer "
                        "first; leave the longer one out"
                    )
        if self.suffix_token_ids is not None and not is_ids(self.suffix_token_ids):
            raise WrongValue(f"suffix_token_ids is {shown(self.suffix_token_ids)}; it must be a list of ids")
        texts = self.stop_strings or []
        for text in texts:
            if not 0 < len(text) <= MOST_STOP_LETTERS:
                raise WrongValue(
                    f"stop_strings has {shown(text)}; each is a text of 1 to {MOST_STOP_LETTERS} letters, such as '.'"
                )
        if len(stops) + len(texts) > MOST_STOPS:
            raise WrongValue(f"{len(stops) + len(texts)} stops are given; there may be {MOST_STOPS}")
        if self.gen_length == AUTO and self.stop_token_ids is not None and not (stops or texts):
            raise WrongValue(f"gen_length={AUTO!r} needs a stop to look for; give stop_token_ids or a length")

    def _check_combinations(self) -> None:
        """Settings that exclude each other."""
        for wrong, told in (
            (
                self.cache != "none" and self.cfg_scale,
                f"cache {shown(self.cache)} does not hold the unguided copy that cfg_scale {self.cfg_scale} needs; "
                "set cache='none' or cfg_scale=0",
            ),
            (
                self.constraint is not None and (self.stop_token_ids is not None or self.stop_strings),
                "an answer of a given shape ends with the shape or the end of the turn; "
                "leave stop_token_ids and stop_strings out, or constraint",
            ),
            (
                self.constraint is not None and self.suffix_token_ids,
                "suffix_token_ids would stand behind an answer of a given shape; "
                "leave suffix_token_ids out, or constraint",
            ),
            (
                self.rule != "top_k" and self.remasking == "random",
                f"remasking 'random' has no confidence for rule {shown(self.rule)} to judge; set rule='top_k'",
            ),
            (
                self.schedule != "linear" and (self.rule != "top_k" or self.gen_length == AUTO),
                f"schedule {shown(self.schedule)} shares a fixed canvas among the steps of rule 'top_k'; "
                "set schedule='linear'",
            ),
            (
                self.lookahead and (self.temperature or self.remasking == "random"),
                "lookahead verifies the tokens of a sampler without chance; "
                "set temperature=0 and remasking='low_confidence', or lookahead=0",
            ),
            (
                self.lookahead and self.rule == "klass",
                "rule 'klass' compares with the step before, which a draft does not have; "
                "set lookahead=0 or another rule",
            ),
            (
                self.lookahead and self.cache == "dllm",
                "cache 'dllm' changes with every step, so lookahead cannot verify several at once; "
                "set cache='prompt' or lookahead=0",
            ),
            (
                self.lookahead and self.refresh_interval == 1,
                "refresh_interval 1 computes everything at every step, which leaves lookahead nothing to verify; "
                "set cache='none' or a longer refresh_interval",
            ),
            (
                self.compile and self.cache == "dllm",
                "compile rounds differently, and rounding has a say in what cache 'dllm' computes; "
                "set cache='prompt' or compile=False",
            ),
            (
                self.keep_features is not None
                and (self.cfg_scale or self.cache == "dllm" or self.lookahead or self.compile),
                "keep_features makes the prompt shorter on the way, which cfg_scale, cache 'dllm', lookahead and "
                "compile cannot follow; leave keep_features out, or these",
            ),
            (
                self.keep_features is not None and self.refresh_interval == 0 and self.num_blocks == 1,
                "keep_features takes effect when everything is computed again, and with refresh_interval 0 and one "
                "block it never is; set another refresh_interval or leave keep_features out",
            ),
            (
                self.gen_length == AUTO and self.cache == "dllm",
                f"cache 'dllm' holds a canvas of fixed length; set cache='prompt' or a gen_length other than {AUTO!r}",
            ),
            (
                self.gen_length == AUTO and self.suffix_token_ids,
                f"suffix_token_ids stand behind a canvas of fixed length; set a gen_length other than {AUTO!r}",
            ),
        ):
            if wrong:
                raise WrongValue(told)

    @property
    def canvas_length(self) -> int:
        """The most tokens that an answer can have."""
        return self.resolved.canvas_length

    @property
    def num_blocks(self) -> int:
        """Blocks the canvas is cut into; a canvas that grows is one."""
        return 1 if self.gen_length == AUTO else self.canvas_length // self.resolved.block_length

    @property
    def steps_per_block(self) -> int:
        """Forward passes for one block."""
        return self.resolved.steps // self.num_blocks


def is_ids(value) -> bool:
    """Whether it is a list of token ids."""
    is_list = isinstance(value, (list, tuple))
    return is_list and all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in value)
