"""The settings of one answer, checked when they are made."""

from dataclasses import dataclass

REMASKING = ("low_confidence", "random")


@dataclass(frozen=True)
class SamplerConfig:
    """How an answer is revealed (arXiv 2502.09992, algorithm 5; defaults of the original LLaDA-V).

    gen_length: length of the answer canvas in tokens.
    steps: forward passes for the whole answer; None: one token a step.
    block_length: the canvas is revealed block by block, left to right; None: one block.
    temperature: 0 takes the best token, more samples by Gumbel noise.
    cfg_scale: strength of classifier-free guidance, 0 = off; the unguided copy sees a prompt of masks.
    remasking: which tokens stay: "low_confidence" keeps the most probable, "random" keeps any.
    stop_token_ids: id sequences that end the answer; None: the model's end-of-turn token; []: nothing stops it.
    suffix_token_ids: ids placed behind the canvas, visible from the first step and returned behind the answer.

    Raises ValueError for values that do not fit together, naming the remedy.
    """

    gen_length: int = 128
    steps: int | None = None
    block_length: int | None = None
    temperature: float = 0.0
    cfg_scale: float = 0.0
    remasking: str = "low_confidence"
    stop_token_ids: list[list[int]] | None = None
    suffix_token_ids: list[int] | None = None

    def __post_init__(self):
        if self.block_length is None:
            object.__setattr__(self, "block_length", self.gen_length)
        if self.steps is None:
            object.__setattr__(self, "steps", self.gen_length)
        for name in ("gen_length", "steps", "block_length"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if self.gen_length % self.block_length:
            raise ValueError(
                f"gen_length {self.gen_length} is not a multiple of block_length {self.block_length}; "
                f"try gen_length={-(-self.gen_length // self.block_length) * self.block_length} "
                f"or block_length={self.gen_length}"
            )
        if self.steps % self.num_blocks:
            raise ValueError(
                f"steps {self.steps} cannot be shared by {self.num_blocks} blocks; "
                f"try steps={-(-self.steps // self.num_blocks) * self.num_blocks}"
            )
        for name in ("temperature", "cfg_scale"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value!r}; it must be 0 (off) or a positive number")
        if self.remasking not in REMASKING:
            raise ValueError(f"remasking is {self.remasking!r}; choose one of {', '.join(REMASKING)}")
        if not isinstance(self.stop_token_ids, (list, tuple, type(None))):
            raise ValueError(f"stop_token_ids is {self.stop_token_ids!r}; it must be a list of lists of ids")
        for stop in self.stop_token_ids or []:
            if not isinstance(stop, (list, tuple)) or not len(stop):
                raise ValueError(
                    f"stop_token_ids has {stop!r}; each stop is a non-empty list of ids, for example [[126348]]"
                )
            if len(stop) > self.gen_length:
                raise ValueError(f"the stop {stop!r} is longer than gen_length {self.gen_length}; raise gen_length")

    @property
    def num_blocks(self) -> int:
        """Blocks the canvas is cut into."""
        return self.gen_length // self.block_length

    @property
    def steps_per_block(self) -> int:
        """Forward passes for one block."""
        return self.steps // self.num_blocks
