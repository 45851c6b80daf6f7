"""FSDP2: weights, gradients and optimizer scattered over the devices by torch itself, and checkpoints of them.

A checkpoint holds what learns and its optimizer in torch's distributed form, which any number of processes reads. It
is copied to main memory, and written from there while training goes on.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed import checkpoint as distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.optim import Optimizer

STATE = "state"  # the folder in a checkpoint
BLOCKS = ["LladaBlock", "SiglipEncoderLayer"]  # what is gathered as one
LEARNING = StateDictOptions(ignore_frozen_params=True, flatten_optimizer_state_dict=True, strict=False)


def fsdp_arguments() -> dict[str, Any]:
    """What transformers' arguments need for it. Gradients are scattered after each forward pass, not once a step: they
    would be whole on every device until then."""
    return {
        "fsdp": True,
        "fsdp_config": {"version": 2, "reshard_after_forward": True, "transformer_layer_cls_to_wrap": BLOCKS},
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }


def precision(bf16: bool) -> MixedPrecisionPolicy:
    """Weights are gathered in the dtype that is computed in, gradients summed in float32.

    What goes into a module keeps its dtype: in bfloat16 the weights of the tokens' losses would be rounded.
    """
    computed = torch.bfloat16 if bf16 else None
    return MixedPrecisionPolicy(param_dtype=computed, reduce_dtype=torch.float32, cast_forward_inputs=False)


class StateWriter:
    """Writes the state of a run in the background, one at a time."""

    def __init__(self) -> None:
        is_alone = not torch.distributed.is_initialized()
        # Its own: what it says to the others must not come between what training says to them.
        self.group = None if is_alone else torch.distributed.new_group(backend="gloo")
        self.pool = ThreadPoolExecutor(1)
        self.last: Future | None = None

    def save(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        """Begin to write what learns and its optimizer into `folder`. They may change when this returns."""
        response: Any = distributed.async_save(
            state_of(model, optimizer),
            checkpoint_id=str(folder / STATE),
            process_group=self.group,
            no_dist=self.group is None,
        )
        self.last = response

    def then(self, act: Callable[[], None]) -> None:
        """Have `act` run in the background when the last one is on disk, that of all processes included."""
        written = self.last

        def wait_and_act():
            written.result()
            act()

        self.last = self.pool.submit(wait_and_act)

    def wait(self) -> None:
        """Wait for the last one; raises what it has failed with."""
        last, self.last = self.last, None
        if last is not None:
            with as_errors():
                last.result()


def state_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """What learns, and its optimizer."""
    weights, moments = get_state_dict(model, optimizer, options=LEARNING)
    return {"model": weights, "optimizer": moments}


def load_state(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Put what any number of processes have written into model and optimizer."""
    state = state_of(model, optimizer)
    with as_errors():
        distributed.load(state, checkpoint_id=str(folder / STATE), no_dist=not torch.distributed.is_initialized())
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=LEARNING,
    )


@contextmanager
def as_errors() -> Iterator[None]:
    """Raise what torch's checkpoints raise as a RuntimeError: theirs is none that `except Exception` catches."""
    try:
        yield
    except distributed.CheckpointException as error:
        raise RuntimeError(str(error)) from error
