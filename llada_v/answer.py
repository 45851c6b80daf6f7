"""From a question and pictures to an answer, in one call: what `llada-v generate` and `generate_demo.py` run.

model, processor = load("model/llada-v-tiny")
print(answer(model, processor, "How many objects are there?", images=["data/demo.png"]).text)
"""

import argparse
import hashlib
import json
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from tqdm import tqdm
from transformers.utils import logging

from .animation import Recorder, save_gif
from .checkpoint.files import local_folder
from .generation.config import AUTO, CACHES, REMASKING, RULES, SCHEDULES, SamplerConfig
from .generation.sampler import SamplerState
from .images import load_image
from .modeling_llada_v import LladaVForConditionalGeneration
from .processing_llada_v import PICTURE_INPUTS, LladaVProcessor, user_message
from .quantization import BITS, quantize
from .shipped import shipped
from .video import frames_evenly, load_frames

DEMO_MODEL = shipped("model/llada-v-tiny")
DEMO_IMAGE = shipped("data/demo.png")
DEMO_QUESTIONS = (
    "How many objects are there?",
    "What colour is the circle?",
    "What shape is the purple object?",
    "Is the blue square above the green circle?",
    "Is there a red star?",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GIF_FRAMES = 4  # frames of a video that stand beside an animated answer


@dataclass(frozen=True)
class Answer:
    """One answer and what it took.

    text: the answer, special tokens left out, space around it stripped.
    token_ids: its ids up to the stop, any suffix at the end.
    seconds: wall-clock time of `generate`, pictures encoded, prompt preparation not counted.
    steps: reveal steps taken.
    num_forwards: model calls.
    """

    text: str
    token_ids: list[int]
    seconds: float
    steps: int
    num_forwards: int


def load(
    model: str | Path = DEMO_MODEL,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    attn_implementation: str | None = None,
    reproduce_original: bool | None = None,
) -> tuple[LladaVForConditionalGeneration, LladaVProcessor]:
    """The model, ready to answer, and its processor.

    model: a folder or a hub name.
    device: None is "cuda" where there is one, else "cpu".
    dtype: None is bfloat16 on a GPU, float32 on a CPU.
    attn_implementation: a name of transformers' attention interface, such as "sdpa" or "flash_attention_2".
    reproduce_original: see `LladaVProcessor`; None is what was saved with it.
    Raises FileNotFoundError where the shipped model is not there, OSError or ValueError for any other name that holds
    no model, ValueError for a device that this machine does not have.
    """
    if Path(model) == DEMO_MODEL and not DEMO_MODEL.is_dir():
        raise FileNotFoundError(
            f"the shipped model is not at {DEMO_MODEL}; run from a clone of the repository, or name another model"
        )
    device = device_of(device)
    if dtype is None:
        dtype = default_dtype(device)
    folder = local_folder(str(model), {})
    processor = LladaVProcessor.from_pretrained(folder, reproduce_original=reproduce_original)
    loaded = LladaVForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, attn_implementation=attn_implementation
    )
    return loaded.to(device).eval(), processor


def device_of(name: str | torch.device | None) -> torch.device:
    """The device of that name; None is "cuda" where there is one, else "cpu".

    Raises ValueError for a device that torch does not know or this machine does not have.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {name!r}, which torch does not know; try cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device is {device}, but torch sees {torch.cuda.device_count()} GPUs; try cpu")
    return device


def default_dtype(device: torch.device) -> torch.dtype:
    """float32 on a CPU, bfloat16 elsewhere."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def answer(
    model: LladaVForConditionalGeneration,
    processor: LladaVProcessor,
    question: str,
    images=(),
    video=None,
    sampler: SamplerConfig | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[SamplerState], None] | None = None,
    memory: "PictureMemory | None" = None,
) -> Answer:
    """The answer to one question about some pictures, or about one video, or about nothing but the text.

    images: PIL images or paths. video: a file, a folder of frames, or a list of frames.
    sampler, generator, callback: see `generate`.
    memory: features of pictures asked about before, to ask many questions about the same.
    Raises ValueError for an empty question, pictures that cannot be read, images and video together, and settings
    that do not fit together; FileNotFoundError for a missing file.
    """
    inputs = processor.apply_chat_template(
        [user_message(question, images, video)],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    start = time.perf_counter()
    if memory is not None and "pixel_values" in inputs:
        pictures = {name: inputs.pop(name) for name in PICTURE_INPUTS}
        inputs["image_features"] = memory(**pictures)
    output = model.generate(
        **inputs.to(model.device),
        sampler=sampler,
        generator=generator,
        callback=callback,
        tokenizer=processor.tokenizer,
        return_dict_in_generate=True,
    )
    token_ids = output.answers[0].tolist()  # waits for the device, so it belongs to the time
    seconds = time.perf_counter() - start
    return Answer(output.texts[0].strip(), token_ids, seconds, len(output.order), output.num_forwards)


class PictureMemory:
    """Features of the pictures asked about last, found again by their pixels, so that the tower sees them once.

    Call it with what the processor made of the pictures; it gives `image_features` for `generate`.
    """

    def __init__(self, model: LladaVForConditionalGeneration, size: int = 4):
        """size: how many sets of pictures are kept; the one not asked about for longest goes first."""
        if size < 1:
            raise ValueError(f"size is {size}; a memory keeps at least 1 set of pictures, or leave the memory out")
        self.model, self.size = model, size
        self.kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    @torch.no_grad()
    def __call__(self, pixel_values, image_sizes, image_layouts=None) -> torch.Tensor:
        """(F, D); see `LladaVModel.get_image_features`."""
        digest = hashlib.blake2b()
        for tensor in (pixel_values, image_sizes, image_layouts):
            if tensor is not None:
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy())
        key = digest.digest()
        if key not in self.kept:
            features = self.model.get_image_features(pixel_values.to(self.model.device), image_sizes, image_layouts)
            self.kept[key] = features
        self.kept.move_to_end(key)
        while len(self.kept) > self.size:
            self.kept.popitem(last=False)
        return self.kept[key]


# The command line


def length(text: str) -> int | str:
    """A number of tokens, or "auto"."""
    return text if text == AUTO else int(text)


def check_numbers(args: argparse.Namespace, *names: str) -> None:
    """Raise ValueError for an option that is a number below 1; options left out pass."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every option of `run`; the sampler's are the fields of `SamplerConfig`, with its defaults."""
    add = parser.add_argument
    add("--model", default=DEMO_MODEL, help="folder or hub name (default: the tiny model that ships)")
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
    add("--device", help="default: cuda where there is one, else cpu")
    add("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on a CPU")
    add("--attn-implementation", metavar="NAME", help="sdpa, eager, flash_attention_2, ...")
    add("--quantize", choices=BITS, help="keep the trunk's weights in 8 or 4 bits; needs torchao")
    add(
        "--reproduce-original",
        action="store_true",
        default=None,
        help="write prompts as the original does, with its lost tokens, to compare numbers",
    )
    add("--json", action="store_true", help="one JSON object a question on stdout")
    add("--gif", type=Path, metavar="FILE", help="also draw how the answers appear")


def run(args: argparse.Namespace) -> None:
    """Answer the questions and print one line each; without pictures and questions, those of the demo.

    Raises ValueError for pictures without a question and for a --gif that cannot be written, and whatever `load`
    and `answer` raise.
    """
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    images, questions = args.image, args.question
    if not questions:
        if images or args.video:
            raise ValueError("a picture without a question; add --question 'What is this?'")
        images, questions = [str(DEMO_IMAGE)], DEMO_QUESTIONS
    if args.gif and (args.gif.suffix.lower() != ".gif" or not args.gif.absolute().parent.is_dir()):
        raise ValueError(f"--gif is {args.gif}; name a file that ends in .gif, in a folder that exists")
    apart = ("gen_length", "stop_token_ids", "stop_strings", "suffix_token_ids")
    settings = {field.name: getattr(args, field.name) for field in fields(SamplerConfig) if field.name not in apart}
    # What can be wrong is looked at before the weights are read.
    SamplerConfig(**settings | ({} if args.gen_length is None else {"gen_length": args.gen_length}))
    pictures = [load_image(image) for image in images]
    model, processor = load(
        args.model, args.device, DTYPES.get(args.dtype), args.attn_implementation, args.reproduce_original
    )
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
        with tqdm(total=sampler.steps, desc=question, unit="step", leave=False, disable=None) as bar:

            def watch(state, recorder=recorder, bar=bar):
                bar.update()
                if args.gif:
                    recorder(state)

            found = answer(model, processor, question, pictures, args.video, sampler, generator, watch, memory)
        recordings.append((question, recorder, found.text))
        if args.json:
            row = {"question": question, "answer": found.text} | asdict(found)
            del row["text"]
            print(json.dumps(row | {"model": str(args.model), "image": images, "video": args.video}), flush=True)
        else:
            print(f"{question} -> {found.text}", flush=True)
    if args.gif:
        frames = load_frames(args.video, lambda total, fps: frames_evenly(total, GIF_FRAMES)) if args.video else []
        save_gif(args.gif, recordings, pictures + frames, processor.decode)
