"""The server on a cluster: the same application as a Ray Serve deployment, each replica with a model of its own.

    serve run llada_v.serving.cluster:entry                                  # two replicas of the tiny model
    serve run llada_v.serving.cluster:entry model=path/to/LLaDA-V gpus=1 replicas=8

Ray spreads requests over the replicas, replaces one that dies or whose /health fails, and lets one finish what it runs
before it goes. Keys for clients are read from the environment, as by `llada-v serve`.
"""

import os
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from ..answering import DEMO_MODEL, load
from ..cli.serve import KEYS
from ..errors import WrongValue
from .app import create_app
from .engine import Engine
from .limits import EngineConfig, Limits
from .server import ServerConfig

DEFAULTS = {"model": str(DEMO_MODEL), "replicas": "2", "most_replicas": "", "gpus": "0", "stop_seconds": "30"}
HEALTH_SECONDS = 5.0


def entry(args: dict[str, str]) -> Application:
    """The deployment, for `serve run`.

    args: model, a folder or a hub name that every node reaches; replicas, and most_replicas where Ray may add some
        under load; gpus of each; stop_seconds, which running answers get when a replica goes.
    Raises ValueError for an unknown name or a number that is none.
    """
    if unknown := sorted(args.keys() - DEFAULTS.keys()):
        raise WrongValue(f"unknown argument {', '.join(unknown)}; there are {', '.join(DEFAULTS)}")
    given = DEFAULTS | args
    replicas = number(given, "replicas")
    most = number(given, "most_replicas") if given["most_replicas"] else replicas
    if not 1 <= replicas <= most:
        raise WrongValue(f"replicas is {replicas} and most_replicas {most}; give 1 <= replicas <= most_replicas")
    deployment: Any = serve.deployment(
        serve.ingress(lambda: application(given["model"]))(),
        name="llada-v",
        autoscaling_config={"min_replicas": replicas, "max_replicas": most},
        max_ongoing_requests=Limits().all_requests,
        ray_actor_options={"num_gpus": number(given, "gpus"), "num_cpus": 1},
        health_check_period_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=number(given, "stop_seconds"),
    )
    return deployment.bind()


def application(model: str):
    """The application of one replica, its model loaded."""
    keys = [key for key in os.environ.get(KEYS, "").split(",") if key]
    engine = Engine(*load(model), EngineConfig())
    return create_app(engine, ServerConfig(Path(model).name, keys), Limits())


def number(given: dict[str, str], name: str) -> float | int:
    """An argument as a number. Raises ValueError where it is none."""
    try:
        value = float(given[name])
    except ValueError:
        raise WrongValue(f"{name} is {given[name]!r}; it must be a number") from None
    return int(value) if value.is_integer() else value
