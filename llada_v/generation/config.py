"""The settings of one answer, checked when they are made."""

from dataclasses import dataclass

from ..json_text import shown

AUTO = "auto"
REMASKING = ("low_confidence", "random")
CACHES = ("none", "prompt", "dllm")
RULES = ("top_k", "threshold", "factor", "entropy_bound", "margin")
SCHEDULES = ("linear", "convex")

# Settings that exist for one value of another: name -> (the other, its value, what None stands for there).
BELONGS = {
    "refresh_interval": ("cache", "prompt", 4),
    "prompt_interval": ("cache", "dllm", 25),
    "gen_interval": ("cache", "dllm", 7),
    "transfer_ratio": ("cache", "dllm", 0.25),
    "threshold": ("rule", "threshold", 0.9),
    "factor": ("rule", "factor", 1.0),
    "entropy_bound": ("rule", "entropy_bound", 0.1),
    "margin": ("rule", "margin", 0.8),
    "max_gen_length": ("gen_length", AUTO, 512),
}
MOST = 1_000_000  # the largest value of a number that has no narrower limit: far more than a model has positions
# The least and the largest value of numbers (None: `MOST`), and whether they are whole.
LIMITS = {
    "refresh_interval": (0, None, int),
    "prompt_interval": (1, None, int),
    "gen_interval": (1, None, int),
    "transfer_ratio": (0, 1, float),
    "threshold": (0, 1, float),
    "factor": (0, None, float),
    "entropy_bound": (0, None, float),
    "margin": (0, 1, float),
    "max_gen_length": (1, None, int),
    "steps": (1, None, int),
    "block_length": (1, None, int),
    "lookahead": (0, 64, int),
}
# Numbers that are off at 0, and their largest value: beyond it nothing but noise is left, or float32 overflows.
STRENGTHS = {"temperature": 10_000, "cfg_scale": 1_000}
CHOICES = {"remasking": REMASKING, "cache": CACHES, "rule": RULES, "schedule": SCHEDULES}
MOST_STOPS, MOST_STOP_LETTERS = 100, 1000
AUTO_BLOCK = 32  # tokens that an answer of gen_length="auto" starts with


@dataclass(frozen=True)
class SamplerConfig:
    """How an answer is revealed (arXiv 2502.09992, algorithm 5; defaults of the original LLaDA-V).

    gen_length: length of the answer canvas in tokens; "auto": the canvas doubles, up to max_gen_length, while neither
        a stop is revealed nor one among the candidates of its masks.
    steps: forward passes for the whole answer under rule "top_k"; None: one token a step. The other rules decide
        themselves how many steps they need: for them it is the most there can be, one a token.
    block_length: the canvas is revealed block by block, left to right; None: one block. With gen_length="auto" the
        canvas is one block, and this is the length it starts with; None: 32.
    temperature: 0 takes the best token, more samples by Gumbel noise.
    cfg_scale: strength of classifier-free guidance, 0 = off; the unguided copy sees a prompt of masks.
    remasking: which tokens stay: "low_confidence" keeps the most probable, "random" keeps any.
    stop_token_ids: id sequences that end the answer; None: the model's end-of-turn token; []: nothing stops it.
    stop_strings: texts that end the answer, wherever in a token they begin; `generate` needs the tokenizer for them.
    suffix_token_ids: ids placed behind the canvas, visible from the first step and returned behind the answer.
    cache: what a step does not compute again. "none": everything is computed; "prompt": keys and values of everything
        outside the block are kept (arXiv 2505.22618, dual cache); "dllm": keys and values of the prompt, and what
        attention and MLP add to the answer, are kept and partly renewed (arXiv 2506.06295).
    refresh_interval: with "prompt": everything is computed at the first step of a block and every so many steps after
        it; 0: at the first alone; 1: always, which is the plain sampler. None: 4.
    prompt_interval, gen_interval: with "dllm": the prompt and the answer are computed every so many steps.
        None: 25 and 7.
    transfer_ratio: with "dllm": the share of answer positions, those whose values changed most, that is computed in
        the steps between. None: 0.25.
    rule: which candidates a step reveals; see `generation.reveal`.
    schedule: how "top_k" shares the masks among the steps: "linear" evenly, "convex" few first and more later.
    threshold, factor, entropy_bound, margin: the parameter of the rule of that name. None: 0.9, 1, 0.1, 0.8.
    lookahead: steps that are drafted ahead and verified in the same forward pass; the tokens are those without. 0: off.
    max_gen_length: with gen_length="auto": the longest canvas. None: 512.
    compile: run the trunk through torch.compile, on a GPU with CUDA graphs. The first answers are slow.

    Raises ValueError for values that do not fit together, naming the remedy.
    """

    gen_length: int | str = 128
    steps: int | None = None
    block_length: int | None = None
    temperature: float = 0.0
    cfg_scale: float = 0.0
    remasking: str = "low_confidence"
    stop_token_ids: list[list[int]] | None = None
    stop_strings: list[str] | None = None
    suffix_token_ids: list[int] | None = None
    cache: str = "none"
    refresh_interval: int | None = None
    prompt_interval: int | None = None
    gen_interval: int | None = None
    transfer_ratio: float | None = None
    rule: str = "top_k"
    schedule: str = "linear"
    threshold: float | None = None
    factor: float | None = None
    entropy_bound: float | None = None
    margin: float | None = None
    lookahead: int = 0
    max_gen_length: int | None = None
    compile: bool = False

    def __post_init__(self):
        if isinstance(self.gen_length, bool) or not (
            isinstance(self.gen_length, int) and 1 <= self.gen_length <= MOST or self.gen_length == AUTO
        ):
            raise ValueError(
                f"gen_length is {shown(self.gen_length)}; it must be a whole number of at least 1, at most {MOST}, "
                f"or {AUTO!r}"
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {shown(getattr(self, name))}; choose one of {', '.join(choices)}")
        if not isinstance(self.compile, bool):
            raise ValueError(f"compile is {shown(self.compile)}; it must be True or False")
        self._settle()
        for name, (least, most, kind) in LIMITS.items():
            check_number(name, getattr(self, name), least, most, kind)
        for name, most in STRENGTHS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
                raise ValueError(f"{name} is {shown(value)}; it must be 0 (off) or a positive number up to {most}")
        self._check_lengths()
        self._check_stops()
        self._check_combinations()

    def _settle(self) -> None:
        """Replace None by what it stands for; refuse settings of a cache, a rule or a length that is not chosen."""
        for name, (owner, value, default) in BELONGS.items():
            if getattr(self, owner) == value:
                if getattr(self, name) is None:
                    object.__setattr__(self, name, default)
            elif getattr(self, name) is not None:
                raise ValueError(
                    f"{name} is {shown(getattr(self, name))}, but {owner} is {shown(getattr(self, owner))}; "
                    f"leave {name} out or set {owner}={shown(value)}"
                )
        check_number("max_gen_length", self.max_gen_length, *LIMITS["max_gen_length"])
        if self.block_length is None:
            length = min(AUTO_BLOCK, self.canvas_length) if self.gen_length == AUTO else self.gen_length
            object.__setattr__(self, "block_length", length)
        if self.steps is None:
            object.__setattr__(self, "steps", self.canvas_length)

    def _check_lengths(self) -> None:
        """Canvas, blocks and steps."""
        if self.gen_length == AUTO:
            if self.block_length > self.max_gen_length:
                raise ValueError(
                    f"block_length {self.block_length}, which the canvas starts with, is more than max_gen_length "
                    f"{self.max_gen_length}; raise max_gen_length"
                )
            if self.steps != self.max_gen_length:
                raise ValueError(
                    f"steps is {self.steps}, but gen_length={AUTO!r} has no fixed canvas to share among steps; "
                    "leave steps out, or choose a rule that reveals several tokens a step"
                )
            return
        if self.gen_length % self.block_length:
            raise ValueError(
                f"gen_length {self.gen_length} is not a multiple of block_length {self.block_length}; "
                f"try gen_length={-(-self.gen_length // self.block_length) * self.block_length} "
                f"or block_length={self.gen_length}"
            )
        if self.rule != "top_k" and self.steps != self.gen_length:
            raise ValueError(
                f"steps is {self.steps}, but rule {shown(self.rule)} decides itself how many tokens a step reveals; "
                "leave steps out or set rule='top_k'"
            )
        if self.steps % self.num_blocks:
            raise ValueError(
                f"steps {self.steps} cannot be shared by {self.num_blocks} blocks; "
                f"try steps={-(-self.steps // self.num_blocks) * self.num_blocks}"
            )

    def _check_stops(self) -> None:
        """Each stop can be found, and what stands behind the canvas is ids."""
        if not isinstance(self.stop_token_ids, (list, tuple, type(None))):
            raise ValueError(f"stop_token_ids is {shown(self.stop_token_ids)}; it must be a list of lists of ids")
        stops = self.stop_token_ids or []
        for stop in stops:
            if not is_ids(stop) or not len(stop):
                raise ValueError(
                    f"stop_token_ids has {shown(stop)}; each stop is a non-empty list of ids, for example [[126348]]"
                )
            if len(stop) > self.canvas_length:
                raise ValueError(
                    f"the stop {shown(stop)} is longer than gen_length {self.canvas_length}; raise gen_length"
                )
        for stop in stops:
            for other in stops:
                if len(other) < len(stop) and list(stop[: len(other)]) == list(other):
                    raise ValueError(
                        f"the stop {shown(stop)} starts with the stop {shown(other)} and can never end an answer "
                        "first; leave the longer one out"
                    )
        if self.suffix_token_ids is not None and not is_ids(self.suffix_token_ids):
            raise ValueError(f"suffix_token_ids is {shown(self.suffix_token_ids)}; it must be a list of ids")
        if not isinstance(self.stop_strings, (list, tuple, type(None))):
            raise ValueError(f"stop_strings is {shown(self.stop_strings)}; it must be a list of texts")
        texts = self.stop_strings or []
        for text in texts:
            if not isinstance(text, str) or not 0 < len(text) <= MOST_STOP_LETTERS:
                raise ValueError(
                    f"stop_strings has {shown(text)}; each is a text of 1 to {MOST_STOP_LETTERS} letters, such as '.'"
                )
        if len(stops) + len(texts) > MOST_STOPS:
            raise ValueError(f"{len(stops) + len(texts)} stops are given; there may be {MOST_STOPS}")
        if self.gen_length == AUTO and self.stop_token_ids is not None and not (stops or texts):
            raise ValueError(f"gen_length={AUTO!r} needs a stop to look for; give stop_token_ids or a length")

    def _check_combinations(self) -> None:
        """Settings that exclude each other."""
        for wrong, told in (
            (
                self.cache != "none" and self.cfg_scale,
                f"cache {shown(self.cache)} does not hold the unguided copy that cfg_scale {self.cfg_scale} needs; "
                "set cache='none' or cfg_scale=0",
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
                self.gen_length == AUTO and self.cache == "dllm",
                f"cache 'dllm' holds a canvas of fixed length; set cache='prompt' or a gen_length other than {AUTO!r}",
            ),
            (
                self.gen_length == AUTO and self.suffix_token_ids,
                f"suffix_token_ids stand behind a canvas of fixed length; set a gen_length other than {AUTO!r}",
            ),
        ):
            if wrong:
                raise ValueError(told)

    @property
    def canvas_length(self) -> int:
        """The most tokens that an answer can have."""
        return self.max_gen_length if self.gen_length == AUTO else self.gen_length

    @property
    def num_blocks(self) -> int:
        """Blocks the canvas is cut into; a canvas that grows is one."""
        return 1 if self.gen_length == AUTO else self.gen_length // self.block_length

    @property
    def steps_per_block(self) -> int:
        """Forward passes for one block."""
        return self.steps // self.num_blocks


def check_number(name: str, value, least: int, most: int | None, kind: type) -> None:
    """Raise ValueError unless `value` is None or a number of that kind within the limits; most: None is `MOST`."""
    if value is None:
        return
    right = isinstance(value, int) if kind is int else isinstance(value, (int, float))
    if isinstance(value, bool) or not right or not least <= value <= (MOST if most is None else most):
        noun = "a whole number" if kind is int else "a number"
        limits = f"of at least {least}, at most {MOST}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} is {shown(value)}; it must be {noun} {limits}")


def is_ids(value) -> bool:
    """Whether it is a list of token ids."""
    is_list = isinstance(value, (list, tuple))
    return is_list and all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in value)
