"""Answer questions about pictures or a video, one line each; without pictures and questions, those of the demo."""

import argparse
import json
import sys
from dataclasses import asdict, fields
from pathlib import Path

from ..errors import WrongValue
from ..generation.config import AUTO, CACHES, REMASKING, RULES, SCHEDULES, SamplerConfig
from .options import add_device_options, add_quantize, check_file

GIF_FRAMES = 4  # frames of a video that stand beside an animated answer


def length(text: str) -> int | str:
    """A number of tokens, or "auto"."""
    return text if text == AUTO else int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option; the sampler's are the fields of `SamplerConfig`, with its defaults."""
    add = parser.add_argument
    add("--model", help="folder or hub name (default: the tiny model that ships)")
    add("--image", action="append", default=[], metavar="FILE", help="a picture; repeat for several")
    add("--video", metavar="FILE", help="a video file or a folder of frames")
    add("--question", action="append", metavar="TEXT", help="repeat to ask several about the same pictures")
    add(
        "--gen-length",
        type=length,
        help="answer canvas in tokens, or auto: it grows until the end is in sight "
        "(default: the model's generation_config.json)",
    )
    add("--max-gen-length", type=int, help="the longest canvas with --gen-length auto (default: 512)")
    add("--steps", type=int, help="forward passes for a whole canvas (default: one token a step)")
    add("--block-length", type=int, help="reveal block by block, left to right (default: one block)")
    add("--temperature", type=float, default=SamplerConfig.temperature, help="0 takes the best token (%(default)s)")
    add("--cfg-scale", type=float, default=SamplerConfig.cfg_scale, help="guidance, 0 is off (%(default)s)")
    add("--remasking", choices=REMASKING, default=SamplerConfig.remasking, help="what stays (%(default)s)")
    add("--cache", choices=CACHES, default=SamplerConfig.cache, help="what is not computed at every step (%(default)s)")
    add("--refresh-interval", type=int, help="prompt: everything is computed every so many steps, 0 never (default: 4)")
    add("--prompt-interval", type=int, help="dllm: the prompt is computed every so many steps (default: 25)")
    add("--gen-interval", type=int, help="dllm: the answer is computed every so many steps (default: 7)")
    add("--transfer-ratio", type=float, help="dllm: share of the answer computed in the steps between (default: 0.25)")
    add("--rule", choices=RULES, default=SamplerConfig.rule, help="which tokens a step reveals (%(default)s)")
    add("--schedule", choices=SCHEDULES, default=SamplerConfig.schedule, help="top_k: how many a step (%(default)s)")
    add("--threshold", type=float, help="threshold: all that are more probable (default: 0.9)")
    add("--factor", type=float, help="factor: the most n with (n + 1) (1 - p_n) below it (default: 1)")
    add("--entropy-bound", type=float, help="entropy_bound: the most whose entropies add up to it (default: 0.1)")
    add("--margin", type=float, help="margin: all that lead the next best token by more (default: 0.8)")
    add("--lookahead", type=int, default=SamplerConfig.lookahead, help="steps drafted and verified ahead (%(default)s)")
    add("--compile", action="store_true", help="run the trunk through torch.compile; the first answers are slow")
    add(
        "--stop",
        action="append",
        default=[],
        metavar="STRING",
        help="ends the answer, as the end of the turn always does; repeatable; a newline is $'\\n' in bash",
    )
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


def run(args: argparse.Namespace) -> None:
    """Answer the questions and print them.

    Raises ValueError for pictures without a question and for a --gif that cannot be written, and whatever `load`
    and `answer` raise.
    """
    import torch
    from tqdm import tqdm
    from transformers.utils import logging

    from ..animation import Recorder, save_gif
    from ..answering import DEMO_IMAGE, DEMO_MODEL, DEMO_QUESTIONS, PictureMemory, answer, load
    from ..images import load_image
    from ..quantization import quantize
    from ..video import frames_evenly, load_frames

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    images, questions, name = args.image, args.question, args.model or DEMO_MODEL
    if not questions:
        if images or args.video:
            raise WrongValue("a picture without a question; add --question 'What is this?'")
        images, questions = [str(DEMO_IMAGE)], DEMO_QUESTIONS
    check_file("--gif", args.gif, ".gif")
    apart = ("gen_length", "stop_token_ids", "stop_strings", "suffix_token_ids")
    settings = {field.name: getattr(args, field.name) for field in fields(SamplerConfig) if field.name not in apart}
    # What can be wrong is looked at before the weights are read.
    SamplerConfig(**settings | ({} if args.gen_length is None else {"gen_length": args.gen_length}))
    pictures = [load_image(image) for image in images]
    model, processor = load(name, args.device, args.dtype, args.attn_implementation, args.reproduce_original)
    if args.quantize:
        quantize(model, args.quantize)
    sampler = SamplerConfig(
        gen_length=model.generation_config.max_new_tokens if args.gen_length is None else args.gen_length,
        **settings,
        stop_strings=args.stop,
        suffix_token_ids=processor.encode(args.suffix),
    )
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

            found = answer(model, processor, question, pictures, args.video, sampler, generator, watch, memory)
        recordings.append((question, recorder, found.text))
        if args.json:
            row = {"question": question, "answer": found.text} | asdict(found)
            del row["text"]
            print(json.dumps(row | {"model": str(name), "image": images, "video": args.video}), flush=True)
        else:
            print(f"{question} -> {found.text}", flush=True)
    if args.gif:
        frames = load_frames(args.video, lambda total, fps: frames_evenly(total, GIF_FRAMES)) if args.video else []
        save_gif(args.gif, recordings, pictures + frames, processor.decode)
