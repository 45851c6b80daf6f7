"""What a model call does not compute again: which positions it runs, and what is kept of the others.

`scope_of` says what a step computes; a `Cache` holds, layer by layer, what the calls before it left, and belongs to one
answer of one batch. The trunk's blocks take a layer of it as an argument and ask three things of it:

    fresh = layer.select(value)                     which of the call's positions are computed; None: all
    key, value = layer.store(key, value, fresh)     put the new ones in place, get those of the whole sequence
    added = layer.fill(name, added, fresh)          what attention or MLP adds to every position of the call
    layer.mix                                       what attends in place of the back end; None: the back end

Letters: R rows, L positions of the sequence, A of them behind the prompt, C positions of a call, H heads, K width of
one head, D width of the residual stream.
"""

from enum import IntEnum
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import cosine_similarity

from .config import SamplerConfig


class Scope(IntEnum):
    """What a model call computes; the higher, the less."""

    WHOLE = 0  # every position
    ANSWER = 1  # every position behind the prompt ("dllm")
    PROMPT = 2  # the prompt, and the answer positions that changed most ("dllm")
    CHANGED = 3  # the answer positions that changed most ("dllm")
    BLOCK = 4  # the positions of the block ("prompt")


def scope_of(config: SamplerConfig, step: int, block_step: int) -> Scope:
    """`Scope` of the next call for a row that took `step` steps in all, `block_step` of them in its block."""
    if config.cache == "none":
        return Scope.WHOLE
    settings = config.resolved
    if config.cache == "prompt":
        interval = settings.refresh_interval
        is_due = block_step % interval == 0 if interval else block_step == 0
        return Scope.WHOLE if is_due else Scope.BLOCK
    # Both intervals count the steps of the whole answer, across blocks.
    keeps_prompt, keeps_answer = step % settings.prompt_interval != 0, step % settings.gen_interval != 0
    return Scope(keeps_prompt * Scope.ANSWER + keeps_answer * Scope.PROMPT)


MOST_SIZES = 8  # of buffers that wait for the next compiled answer
# By trunk and size: the layers of finished compiled answers. CUDA graphs are captured anew for other addresses.
WAITING: WeakKeyDictionary[Any, dict[tuple, list]] = WeakKeyDictionary()


def captures(device: torch.device) -> bool:
    """Whether compiled calls are captured, each length and place of the buffers anew: CUDA graphs are."""
    return device.type == "cuda"


def bucket_of(length: int) -> int:
    """The least length of a few that is longer: eight for every doubling, multiples of 16 at least.

    At most an eighth is added. It is never the length itself: so there is always filler to hide, and a mask.
    """
    step = max(16, 2 ** (length.bit_length() - 4))
    return (length // step + 1) * step


class Cache:
    """What is kept between the calls of one answer, for a batch of rows.

    rows: the prompts it holds, one after the other, each `copies` times.
    length: positions of the sequence that it holds.
    layers: one `KeyValueLayer` or `FeatureLayer` a layer of the trunk.
    gives_all: whether a call must give its outputs at all of its positions, or only where they are wanted.
    """

    def __init__(
        self, config: SamplerConfig, sizes, prompt_length: int, dtype: torch.dtype, device: torch.device, trunk
    ):
        """sizes: the config of the trunk, whose buffers of finished answers may be used."""
        self.trunk = trunk
        self.copies = 1 + config.lookahead
        self.rows: list[int] = []
        self.length = 0
        self.sizes, self.dtype, self.device, self.prompt_length = sizes, dtype, device, prompt_length
        self.ratio, self.is_compiled = config.resolved.transfer_ratio, config.compile
        self.gives_all = config.cache == "dllm"
        layer = FeatureLayer if self.gives_all else KeyValueLayer
        self.layers = [layer() for _ in range(sizes.num_hidden_layers)]

    def begin(self, scope: Scope, rows: list[int], length: int, columns: torch.Tensor | None) -> None:
        """Make room, or drop rows, for a call.

        rows: the prompts that take part. After a WHOLE call only these are kept.
        length: of the sequence.
        columns: (R, C) where in it the positions of the call stand; None: everywhere.
        """
        if scope is Scope.WHOLE:
            if self.is_compiled and not self.rows:
                self.layers = WAITING.get(self.trunk, {}).pop(
                    (len(rows) * self.copies, length, self.dtype, self.device), self.layers
                )
            for layer in self.layers:
                layer.make_room(len(rows) * self.copies, length, self)
        elif rows != self.rows:
            places = [self.rows.index(row) * self.copies + copy for row in rows for copy in range(self.copies)]
            kept = torch.tensor(places, device=self.device)
            for layer in self.layers:
                layer.keep(kept)
        self.rows, self.length = rows, length
        answer_length = length - self.prompt_length
        num_changed = int(answer_length * self.ratio) if scope in (Scope.PROMPT, Scope.CHANGED) else None
        for layer in self.layers:
            layer.begin(columns, self.prompt_length if scope is Scope.PROMPT else 0, answer_length, num_changed)

    def close(self) -> None:
        """The answer is finished: where it was compiled, the next one of its size gets its buffers."""
        if self.is_compiled and self.layers[0].key is not None:
            sizes = WAITING.setdefault(self.trunk, {})
            rows, _, length, _ = self.layers[0].key.shape
            sizes[rows, length, self.dtype, self.device] = self.layers
            if len(sizes) > MOST_SIZES:
                sizes.pop(next(iter(sizes)))


class KeyValueLayer:
    """Keys and values of every position of one layer, (R, H, L, K), the keys rotated. Calls write theirs in place."""

    kept: tuple[str, ...] = ("key", "value")
    mix: Any = None

    def __init__(self):
        self.key = self.value = None

    def make_room(self, num_rows: int, length: int, cache: Cache) -> None:
        """Buffers for that many rows; those there are stay where they are if they fit, as CUDA graphs need it."""
        sizes = cache.sizes
        shape = (num_rows, sizes.num_key_value_heads, length, sizes.head_dim)
        for name in ("key", "value"):
            self.make_buffer(name, shape, cache)

    def make_buffer(self, name, shape, cache):
        """A buffer of that name and shape, unless it is there."""
        if getattr(self, name) is None or getattr(self, name).shape != shape:
            buffer = torch.empty(shape, dtype=cache.dtype, device=cache.device)
            if cache.is_compiled and captures(cache.device):
                torch._dynamo.mark_static_address(buffer)
            setattr(self, name, buffer)

    def keep(self, places: torch.Tensor) -> None:
        """Keep the rows at these places alone."""
        for name in self.kept:
            setattr(self, name, getattr(self, name)[places])

    def begin(self, columns, first, answer_length, num_changed) -> None:
        """Note what the next call computes: see `Cache.begin`."""
        self.columns, self.first, self.answer_length, self.num_changed = columns, first, answer_length, num_changed

    def select(self, value: torch.Tensor) -> torch.Tensor | None:
        """(R, F) indices of the call's positions that are computed, from their values (R, H, C, K); None: all."""
        return None

    def store(self, key: torch.Tensor, value: torch.Tensor, fresh: torch.Tensor | None):
        """Keys and values of the whole sequence, (R, H, L, K), given those that were computed."""
        columns = self.columns
        if fresh is not None:
            columns = fresh if columns is None else columns.gather(1, fresh)
        if columns is None:
            for buffer, new in ((self.key, key), (self.value, value)):
                buffer.unflatten(0, (new.shape[0], -1)).copy_(new[:, None])  # into each copy of the row
            return key, value
        index = columns[:, None, :, None].expand_as(key)
        self.key.scatter_(2, index, key)
        self.value.scatter_(2, index, value)
        return self.key, self.value

    def fill(self, name: str, added: torch.Tensor, fresh: torch.Tensor | None) -> torch.Tensor:
        """(R, C, D) what the part of the block called `name` adds to the call's positions."""
        return added


class FeatureLayer(KeyValueLayer):
    """Keys and values, and what attention and MLP added to the answer, (R, A, D) each: dLLM-Cache (arXiv 2506.06295).

    Between renewals only the answer positions whose new values differ most from the kept ones, by cosine, are computed.
    The prompt's own features are not kept: nothing reads them until the prompt is computed anew.
    """

    kept = ("key", "value", "attention", "mlp")

    def __init__(self):
        super().__init__()
        self.attention = self.mlp = None

    def make_room(self, num_rows, length, cache):
        super().make_room(num_rows, length, cache)
        for name in ("attention", "mlp"):
            self.make_buffer(name, (num_rows, length - cache.prompt_length, cache.sizes.hidden_size), cache)

    def select(self, value):
        if self.num_changed is None:
            return None
        new, old = (part[:, :, -self.answer_length :].transpose(1, 2).flatten(2) for part in (value, self.value))
        changed = cosine_similarity(new, old, dim=-1).topk(self.num_changed, largest=False).indices + self.first
        prompt = torch.arange(self.first, device=changed.device).expand(changed.shape[0], -1)
        return torch.cat((prompt, changed), dim=1)

    def fill(self, name, added, fresh):
        kept = getattr(self, name)
        if fresh is None:
            kept.copy_(added[:, -self.answer_length :])
            return added
        changed = fresh[:, self.first :] - self.first
        kept.scatter_(1, changed[..., None].expand(-1, -1, kept.shape[2]), added[:, self.first :])
        return torch.cat((added[:, : self.first], kept), dim=1)
