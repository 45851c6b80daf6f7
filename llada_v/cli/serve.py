"""Serve a model: OpenAI's chat completions, a page that shows answers appear, and figures for Prometheus.

llada-v serve                                   # the tiny model that ships, on http://127.0.0.1:8000
llada-v serve --model path/to/LLaDA-V --host 0.0.0.0 --api-key KEY
"""

import argparse
import os
from pathlib import Path

from ..errors import WrongValue
from ..serving.limits import EngineConfig, Limits
from .options import add_device_options, add_quantize, add_settings, given, need, need_to_quantize

KEYS = "LLADA_V_API_KEYS"  # in the environment, separated by commas: not to be seen in a list of processes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where it listens, what it serves, and every limit."""
    add = parser.add_argument
    add("--model", help="folder or hub name (default: the tiny model that ships)")
    add("--name", help="of the model in requests (default: the folder's)")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (%(default)s)")
    add("--port", type=int, default=8000, help="0 takes any that is free (%(default)s)")
    add("--api-key", action="append", default=[], metavar="KEY", help=f"repeatable; also {KEYS}=A,B in the environment")
    add("--cors-origin", action="append", default=[], metavar="URL", help="a page on this host may ask; repeatable")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="clients may call it by this name only; repeatable "
        "(default: on a loopback address its names, elsewhere any)",
    )
    add("--fetch-urls", action="store_true", help="fetch pictures from public http(s) addresses")
    add("--stop-seconds", type=float, default=30.0, help="that running answers get when the server stops (%(default)s)")
    add_device_options(parser)
    add("--attn-implementation", metavar="NAME", help="sdpa, eager, flash_attention_2, ...")
    add_quantize(parser)
    add_settings(parser.add_argument_group("engine"), EngineConfig)
    add_settings(parser.add_argument_group("limits"), Limits)


def run(args: argparse.Namespace) -> None:
    """Serve until a signal asks for a stop.

    Raises ValueError for settings that cannot be, ImportError without the packages, and whatever `load` raises.
    """
    need("serve", "fastapi", "uvicorn", "prometheus_client", "pydantic")
    need_to_quantize(args)
    config, limits = EngineConfig(**given(args, EngineConfig)), Limits(**given(args, Limits))
    if not 0 <= args.port < 65536:
        raise WrongValue(f"--port is {args.port}; it must be from 0 to 65535")
    keys = [key for key in [*args.api_key, *os.environ.get(KEYS, "").split(",")] if key]

    from ..answering import DEMO_MODEL, load
    from ..quantization import quantize
    from ..serving.engine import Engine
    from ..serving.run import serve
    from ..serving.server import ServerConfig

    folder = args.model or DEMO_MODEL
    model, processor = load(folder, args.device, args.dtype, args.attn_implementation)
    if args.quantize:
        quantize(model, args.quantize)
    server = ServerConfig(
        args.name or Path(folder).name,
        keys,
        args.cors_origin,
        args.fetch_urls,
        [name.lower() for name in args.allow_host],
    )
    serve(Engine(model, processor, config), server, limits, args.host, args.port, args.stop_seconds)
