"""What `evaluate` is asked for: one dataclass, whose fields are the options of the command line."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import WrongValue
from ..fields import check, documented, setting
from ..shipped import shipped

SETTINGS_FILE = shipped("eval/settings.yaml")
OUTPUT = Path("exp/eval")
PRESETS = ("paper", "fast")
READ = ("answers", CHOICES := "choices")
NODE_RANK = ("NODE_RANK", "RANK", "SLURM_NODEID")
MOST = 10**9  # of what is only counted


@documented
@dataclass(frozen=True)
class Evaluation:
    """What is run, and how.

    Raises ValueError for a value that cannot be, and where several nodes do not find each other.
    """

    model: str = setting(str(shipped("model/llada-v-tiny")), "folder or hub name")
    tasks: str | None = setting(
        None,
        "names in the settings with commas between; paper: all with a figure of the paper; toyworld: the small world's",
        none="paper",
    )
    preset: str = setting("paper", "paper: the original's settings; fast: the faster ones", choices=PRESETS)
    read: str = setting(
        READ[0],
        "answers: the model writes one; choices: of those that a question lists the most probable is read, in one "
        "forward, for a column of its own",
        choices=READ,
    )
    settings: str | Path = setting(SETTINGS_FILE, "table of the tasks and their settings")
    output: str | Path = setting(OUTPUT, "folder for results; those of other settings stay in it")
    batch_size: int = setting(1, "documents at once in a process", least=1, most=MOST)
    limit: int | None = setting(
        None, "only the first documents of a task, to try things out", none="all", least=1, most=MOST
    )
    num_processes: int | None = setting(
        None, "processes on this machine", none="one a GPU, or one", least=1, most=10_000
    )
    dtype: str | None = setting(
        None,
        "of the weights",
        none="bfloat16 on a GPU, float32 on a CPU",
        choices=("float32", "bfloat16", "float16"),
    )
    attn_implementation: str | None = setting(None, "sdpa, eager, flash_attention_2, ...", none="transformers' choice")
    num_masks: int = setting(128, "model rows of a log-likelihood", least=2, most=MOST)
    seed: int = setting(0, "of random masks, and of answers with temperature", least=0, most=2**63 - 1)
    on_bad_document: str = setting(
        "error",
        "a document whose picture or video cannot be read stops the task, or is counted and gets no answer",
        choices=("error", "skip"),
    )
    reproduce_original: bool = setting(False, "the original's prompts and answers, token by token")
    questions: int = setting(200, "of each kind in the small world", least=1, most=MOST)
    fresh: bool = setting(False, "move what earlier runs of these tasks left aside, and start again")
    nodes: int = setting(1, "machines, each of which runs the same line, see docs/benchmarks.md", least=1, most=10_000)
    node_rank: int = field(init=False)

    def __post_init__(self):
        check(self)
        object.__setattr__(self, "node_rank", node_rank(self.nodes))


def node_rank(nodes: int) -> int:
    """The number of this machine, from the same variables as scripts/launch.sh. Raises ValueError where they lack."""
    if nodes == 1:
        return 0
    if not os.environ.get("MASTER_ADDR"):
        raise WrongValue(f"{nodes} nodes need MASTER_ADDR, the name of the first one")
    return int(next((os.environ[name] for name in NODE_RANK if os.environ.get(name)), 0))
