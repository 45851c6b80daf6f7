"""Answer questions about pictures or a video, one line each; without pictures and questions, those of the demo."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ..errors import WrongValue
from ..generation.config import APART as APART_FIELDS
from ..generation.config import TOGETHER, SamplerConfig
from ..generation.presets import EXACT, PRESETS, preset_of, told
from ..json_text import read_json
from .options import add_device_options, add_quantize, add_settings, check_file, check_numbers, given, need_to_quantize

APART = ("stop_token_ids", "stop_strings", "constraint", "suffix_token_ids")  # asked for in other words
GIF_FRAMES = 4  # frames of a video that stand beside an animated answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option; the sampler's are the settings of `SamplerConfig`, but for what depends on the model."""
    add = parser.add_argument
    add("--model", help="folder or hub name (default: the tiny model that ships)")
    add("--image", action="append", default=[], metavar="FILE", help="a picture; repeat for several")
    add("--video", metavar="FILE", help="a video file or a folder of frames")
    add("--question", action="append", metavar="TEXT", help="repeat to ask several about the same pictures")
    add(
        "--preset",
        choices=PRESETS,
        help=f"the sampler's settings by name: {'; '.join(map(told, PRESETS))}. Default: the model's own, exact where "
        "it has none. The options below change single settings",
    )
    add_settings(parser, SamplerConfig, leave_out=APART)
    add(
        "--max-tiles", type=int, metavar="N", help="most tiles a single picture is cut into: fewer are faster, see less"
    )
    add(
        "--stop",
        action="append",
        default=[],
        metavar="STRING",
        help="ends the answer, as the end of the turn always does; repeatable; a newline is $'\\n' in bash",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--regex", metavar="PATTERN", help="the whole answer matches it; needs outlines-core")
    shape.add_argument("--choices", metavar="A,B,...", help="the answer is one of these texts")
    shape.add_argument("--template", metavar="TEXT", help="fixed text with gaps: 'Total: {number}, {choice:yes|no}'")
    shape.add_argument("--json-schema", metavar="FILE", help="the answer is JSON of this schema")
    add("--suffix", default="", metavar="STRING", help="text behind the canvas, visible from the first step")
    add("--seed", type=int, default=0, help="for temperature and random remasking (%(default)s)")
    add_device_options(parser)
    add("--attn-implementation", metavar="NAME", help="sdpa, eager, flash_attention_2, ...")
    add_quantize(parser)
    add(
        "--reproduce-original",
        action="store_true",
        default=None,
        help="write prompts as the original does, with its lost tokens, to compare numbers",
    )
    add("--json", action="store_true", help="one JSON object a question on stdout")
    add("--gif", type=Path, metavar="FILE", help="also draw how the answers appear")


def constraint_of(args: argparse.Namespace) -> dict | None:
    """The shape that was asked for, as `SamplerConfig` takes it."""
    if args.json_schema is not None:
        return {"json_schema": read_json(args.json_schema)}
    choices = None if args.choices is None else args.choices.split(",")
    given = {"regex": args.regex, "choices": choices, "template": args.template}
    return next(({kind: value} for kind, value in given.items() if value is not None), None)


def run(args: argparse.Namespace) -> None:
    """Answer the questions and print them.

    Raises ValueError for pictures without a question and for a --gif that cannot be written, and whatever `load`
    and `answer` raise.
    """
    need_to_quantize(args)
    check_numbers(args, "max_tiles")

    import torch
    from tqdm import tqdm
    from transformers.utils import logging

    from ..animation import Recorder, save_gif
    from ..answering import DEMO_IMAGE, DEMO_MODEL, DEMO_QUESTIONS, PictureMemory, answer, load
    from ..decoding import installed
    from ..images import load_image
    from ..quantization import quantize
    from ..video import frames_evenly, load_frames

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    images, questions, name = args.image, args.question, args.model or DEMO_MODEL
    is_apart = getattr(args, "fields", TOGETHER) == APART_FIELDS
    if is_apart and args.gif:
        raise WrongValue("--gif shows one canvas, and with --fields apart every field has its own; leave one out")
    if is_apart and not questions:
        questions = [""]  # the fields' descriptions ask
    if not questions:
        if images or args.video:
            raise WrongValue("a picture without a question; add --question 'What is this?'")
        images, questions = [str(DEMO_IMAGE)], DEMO_QUESTIONS
    check_file("--gif", args.gif, ".gif")
    if args.video and Path(args.video).is_file():
        installed()
    settings = given(args, SamplerConfig) | {"constraint": constraint_of(args)}
    # What can be wrong is looked at before the weights are read; whatever the model's own preset, it gives way.
    SamplerConfig.preset(args.preset or "fast", **settings)
    pictures = [load_image(image) for image in images]
    model, processor = load(name, args.device, args.dtype, args.attn_implementation, args.reproduce_original)
    if args.quantize:
        quantize(model, args.quantize)
    preset = args.preset or preset_of(model.generation_config, processor.reproduce_original)
    sampler = SamplerConfig.preset(
        preset,
        **{"gen_length": model.generation_config.max_new_tokens} | settings,
        stop_strings=args.stop,
        suffix_token_ids=processor.encode(args.suffix),
    )
    if args.preset is None and preset != EXACT:
        print(f"preset {told(preset)}, as the model asks; --preset {EXACT} is the original's", file=sys.stderr)
    generator = torch.Generator(model.device).manual_seed(args.seed)
    memory = PictureMemory(model) if len(questions) > 1 else None
    recordings = []
    for question in questions:
        recorder = Recorder()
        with tqdm(total=sampler.resolved.steps, desc=question, unit="step", leave=False, disable=None) as bar:

            def watch(state, recorder=recorder, bar=bar):
                bar.update()
                if args.gif:
                    recorder(state)

            found = answer(
                model, processor, question, pictures, args.video, sampler, generator, watch, memory, args.max_tiles
            )
        recordings.append((question, recorder, found.text))
        if args.json:
            row = {"question": question, "answer": found.text} | asdict(found)
            del row["text"]
            print(
                json.dumps(row | {"preset": preset, "model": str(name), "image": images, "video": args.video}),
                flush=True,
            )
        else:
            print(f"{question} -> {found.text}" if question else found.text, flush=True)
    if args.gif:
        frames = load_frames(args.video, lambda total, fps: frames_evenly(total, GIF_FRAMES)) if args.video else []
        save_gif(args.gif, recordings, pictures + frames, processor.decode)
