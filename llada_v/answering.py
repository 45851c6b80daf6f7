"""From a question and pictures to an answer, in one call: the door to the library.

model, processor = load("model/llada-v-tiny")
print(answer(model, processor, "How many objects are there?", images=["data/demo.png"]).text)
"""

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .checkpoint.files import local_folder
from .confidence import fields_of, has_fields
from .configuration_llada_v import LladaVConfig
from .conversation import user_message
from .decisions import features_of, prompts_of
from .errors import MissingFile, WrongValue
from .generation.apart import fields_apart, put_together
from .generation.automaton import spelled
from .generation.config import APART, SamplerConfig
from .generation.sampler import SamplerOutput, SamplerState
from .modeling_llada_v import LladaVForConditionalGeneration, quantization_method
from .processing_llada_v import LladaVProcessor
from .sequence import PICTURE_INPUTS
from .sequence import Sequence as Ids
from .shipped import shipped

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


@dataclass(frozen=True)
class Answer:
    """One answer and what it took.

    text: the answer, special tokens left out, space around it stripped.
    token_ids: its ids up to the stop, any suffix at the end; with fields apart those of each field's answer in turn.
    probabilities: of each of these, when it was revealed; 1 for what was given, and under a constraint among the tokens
        that were let through.
    fields: how sure each field of JSON and each gap of a template is (see `confidence`); None for other answers.
    seconds: wall-clock time of `generate`, pictures encoded, prompt preparation not counted.
    steps: reveal steps taken.
    num_forwards: model calls.
    """

    text: str
    token_ids: list[int]
    probabilities: list[float]
    fields: dict[str, float] | None
    seconds: float
    steps: int
    num_forwards: int


def load(
    model: str | Path = DEMO_MODEL,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    reproduce_original: bool | None = None,
) -> tuple[LladaVForConditionalGeneration, LladaVProcessor]:
    """The model, ready to answer, and its processor.

    model: a folder or a hub name.
    device: None is "cuda" where there is one, else "cpu".
    dtype: or its name; None is bfloat16 on a GPU, float32 on a CPU, and of quantized weights what they were saved in.
    attn_implementation: a name of transformers' attention interface, such as "sdpa" or "flash_attention_2".
    reproduce_original: see `LladaVProcessor`; None is what was saved with it.
    Raises FileNotFoundError where the shipped model is not there, OSError or ValueError for any other name that holds
    no model, ValueError for a device that this machine does not have.
    """
    if Path(model) == DEMO_MODEL and not DEMO_MODEL.is_dir():
        raise MissingFile(
            f"the shipped model is not at {DEMO_MODEL}; run from a clone of the repository, or name another model"
        )
    device = device_of(device)
    folder = local_folder(str(model), {})
    if dtype is None and quantization_method(LladaVConfig.from_pretrained(folder)) is not None:
        dtype = "auto"  # that of what stands beside quantized weights
    else:
        dtype = dtype_of(dtype, device)
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
        raise WrongValue(f"device is {name!r}, which torch does not know; try cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise WrongValue(f"device is {device}, but torch sees {torch.cuda.device_count()} GPUs; try cpu")
    return device


def dtype_of(name: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """The dtype of that name; None is float32 on a CPU, bfloat16 elsewhere. Raises ValueError for another name."""
    if name is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if isinstance(name, str) and name not in DTYPES:
        raise WrongValue(f"dtype is {name!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[name] if isinstance(name, str) else name


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
    max_tiles: int | None = None,
    history: Sequence[dict] = (),
) -> Answer:
    """The answer to one question about some pictures, or about one video, or about nothing but the text.

    images: PIL images or paths. video: a file, a folder of frames, or a list of frames.
    sampler, generator, callback: see `generate`. With fields apart each is asked by its description, on a line behind
        the question, which may be empty then; the answer is their JSON.
    memory: features of pictures asked about before, to ask many questions about the same.
    max_tiles: the most tiles that a single picture is cut into; None: what the processor was saved with.
    history: the messages of the chat so far, see `conversation.read_messages`.
    Raises ValueError for an empty question, pictures that cannot be read, images and video together, and settings
    that do not fit together; FileNotFoundError for a missing file.
    """
    asked = [] if sampler is None or sampler.fields != APART else fields_apart(sampler.constraint["json_schema"])
    if asked:
        texts = [f"{question}\n{field.text}".strip("\n") for field in asked]
        chats = [[*history, user_message(text, images, video)] for text in texts]
        prompts, pictures = prompts_of(processor, chats, max_tiles)
        inputs = processor.collate([Ids(prompt) for prompt in prompts], return_tensors="pt")
    else:
        inputs = processor.apply_chat_template(
            [*history, user_message(question, images, video)],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=None if max_tiles is None else {"max_tiles": max_tiles},
        )
        pictures = {name: inputs.pop(name) for name in PICTURE_INPUTS if name in inputs}
    start = time.perf_counter()
    features = features_of(model, pictures, memory)
    if features is not None:
        inputs["image_features"] = features.repeat(len(asked), 1) if asked else features
    output = model.generate(
        **inputs.to(model.device),
        sampler=sampler,
        generator=generator,
        callback=callback,
        tokenizer=processor.tokenizer,
        return_dict_in_generate=True,
    )
    assert isinstance(output, SamplerOutput)  # with return_dict_in_generate
    token_ids = output.answers[0].tolist()  # waits for the device, so it belongs to the time
    seconds = time.perf_counter() - start
    if asked:
        probabilities = torch.cat(output.confidence).tolist()
        return Answer(
            put_together(sampler.constraint["json_schema"], output.texts),
            torch.cat(output.answers).tolist(),
            probabilities,
            {field.name: math.prod(row.tolist()) for field, row in zip(asked, output.confidence, strict=True)},
            seconds,
            len(output.order),
            output.num_forwards,
        )
    probabilities, fields = output.confidence[0].tolist(), None
    if sampler is not None and has_fields(sampler.constraint):
        parts = spelled(processor.tokenizer, token_ids)
        fields = fields_of(output.texts[0], parts, probabilities, sampler.constraint)
    return Answer(
        output.texts[0].strip(), token_ids, probabilities, fields, seconds, len(output.order), output.num_forwards
    )


class PictureMemory:
    """Features of the pictures asked about last, found again by their pixels, so that the tower sees them once.

    Call it with what the processor made of the pictures; it gives `image_features` for `generate`. Where the weights
    that make them change, in training or by loading others, everything is forgotten.
    """

    def __init__(
        self,
        model: LladaVForConditionalGeneration,
        size: int = 4,
        max_bytes: int | None = None,
        is_frozen: bool = False,
    ):
        """size: how many sets of pictures are kept; the one not asked about for longest goes first.

        max_bytes: of their features together, in place of their number.
        is_frozen: the weights do not change, and are not looked at before every use.
        """
        if size < 1:
            raise WrongValue(f"size is {size}; a memory keeps at least 1 set of pictures, or leave the memory out")
        self.model, self.size, self.max_bytes, self.is_frozen = model, size, max_bytes, is_frozen
        self.num_bytes = self.num_found = self.num_made = 0
        self.kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self.weights: list[tuple] | None = None

    @torch.no_grad()
    def __call__(self, pixel_values, image_sizes, image_layouts=None) -> torch.Tensor:
        """(F, D); see `LladaVModel.encode_pictures`."""
        digest = hashlib.sha256()
        for tensor in (pixel_values, image_sizes, image_layouts):
            if tensor is not None:
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy())
        key = digest.digest()
        weights = None if self.is_frozen else self.weights_now()
        if weights != self.weights:
            self.kept.clear()
            self.weights, self.num_bytes = weights, 0
        found = self.kept.pop(key, None)
        if found is None:
            found = self.model.encode_pictures(pixel_values.to(self.model.device), image_sizes, image_layouts)
            self.num_bytes += found.nbytes
            self.num_made += 1
        else:
            self.num_found += 1
        self.kept[key] = found
        while self.kept and self.is_over():
            self.num_bytes -= self.kept.popitem(last=False)[1].nbytes
        return found

    def is_over(self) -> bool:
        """Whether more is kept than may be."""
        return len(self.kept) > self.size if self.max_bytes is None else self.num_bytes > self.max_bytes

    def weights_now(self) -> list[tuple]:
        """What tells the weights of tower, projector and newline from others: where they lie, how often they were
        written, and their sums, since `weight.data` can be written without being counted."""
        found = []
        for name, weight in self.model.named_parameters():
            if "language_model." not in name and "lm_head." not in name:
                is_plain = type(weight.data) is torch.Tensor  # a quantized one may have no sum
                total = weight.data.sum(dtype=torch.float64) if is_plain else torch.zeros((), dtype=torch.float64)
                found.append((name, weight.dtype, weight.data_ptr(), weight._version, total))
        totals = torch.stack([total.to(self.model.device) for *_, total in found]).tolist()  # one transfer
        return [(*known[:-1], total) for known, total in zip(found, totals, strict=True)]
