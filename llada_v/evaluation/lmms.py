"""The model that `lmms-eval --model llada_v` loads: its requests in, answers and log-likelihoods out.

lmms-eval deals documents to processes, caches answers and scores them; this file makes prompts in batches of similar
length, runs the sampler, and says what went wrong with which document. Both request methods are generators that give
answers in the order asked, a few batches at a time, so lmms-eval's cache keeps what is done when a run is killed.
"""

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from ..answering import DEMO_MODEL, load
from ..decisions import CLOSE, decision
from ..errors import UserError, WrongValue
from ..generation.choices import read_choices
from ..generation.sampler import SamplerOutput
from ..sequence import Sequence
from ..serving.engine import refusal
from ..serving.together import Question, answer_together
from .extraction import choices_in
from .gen_kwargs import Settings, settings_of
from .likelihood import are_greedy, log_likelihoods
from .prompts import chat_prompt, messages_of, original_prompt
from .request import CHOICES, READ
from .scoring import forgive

BAD_DOCUMENT = ("error", "skip")
ON_BAD_DOCUMENT = "LLADA_V_ON_BAD_DOCUMENT"
WINDOW = 4  # batches that are prepared ahead and sorted by length together; a killed run loses at most these


class BadDocument(WrongValue):
    """A document that no prompt can be made of; the message names it."""


@dataclass
class Asked:
    """One request on its way.

    seed: of its random numbers. prompt: None for a bad document that is skipped.
    labels: where a choice is read, the ids of the texts that say each.
    """

    request: object
    settings: Settings
    seed: int
    prompt: Sequence | None = None
    labels: dict[str, list[list[int]]] = field(default_factory=dict)
    answer: GenerationResult | None = None


class Scored(str):
    """A log-likelihood and whether the answer is greedy, as a text that comes apart like a pair.

    lmms-eval 0.7.3 makes a text of every response that is not one, and its scoring then takes it apart like a pair.
    """

    def __new__(cls, number: float, is_greedy: bool):
        return super().__new__(cls, json.dumps([number, is_greedy]))

    def __iter__(self):
        return iter(json.loads(str(self)))


class Log:
    """A file with a line of JSON for each request of this process: seconds and tokens, or why it was skipped.

    path: where, ".rank0.jsonl" appended; None: nowhere.
    """

    def __init__(self, path: str | None, rank: int):
        self.path = None if path is None else Path(f"{path}.rank{rank}.jsonl")
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, request, **known) -> None:
        """Append what is known about a request."""
        self.append(request.task_name, request.doc_id, request.idx, known)

    def unscored(self, task: str, document: str, problem: str) -> None:
        """Append that an answer's scorer raised."""
        self.append(task, document, "score", {"unscored": problem})

    def append(self, task: str, document, idx, known: dict) -> None:
        """Append a line in one piece, as several threads score."""
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"task": task, "doc_id": document, "idx": idx} | known) + "\n")


class LladaV(lmms):
    """What chat and plain requests share: the model, documents, batches.

    pretrained: folder or hub name. device, dtype, attn_implementation: see `answering.load`; with several processes
        each takes accelerate's device.
    batch_size: documents answered, or masked rows scored, at once; halved when a device runs out of memory.
    continuous: an answer that is finished makes room for the next document at once (`serving.together`), in place of
        batches that wait for their slowest and are padded to their longest; settings that no engine steps stay in
        batches. None: on a CPU, where it was measured to be faster.
    reproduce_original: prompts token by token as the original's evaluation makes them, and its answers without the
        last full stop; needs the plain requests of --force_simple.
    on_bad_document: "error" stops at a document whose picture or video cannot be read, "skip" answers it with nothing
        and counts it. None: what the environment variable LLADA_V_ON_BAD_DOCUMENT says, else "error"; lmms-eval's cache
        holds for the same arguments alone, and a run that stopped at a document is to go on with "skip".
    read: "answers": the sampler writes one; "choices": of the answers that a question lists (options under letters, or
        yes and no) the most probable is read in one forward. A question that lists none is then a bad document.
    num_masks: see `likelihood.log_likelihoods`. seed: of random masks, and of answers with temperature.
    log: see `Log`.
    Raises ValueError for an argument it does not know, and what `answering.load` raises.
    """

    def __init__(
        self,
        pretrained: str = str(DEMO_MODEL),
        device: str | None = None,
        batch_size: int | str = 1,
        continuous: bool | None = None,
        dtype: str | None = None,
        attn_implementation: str | None = None,
        reproduce_original: bool = False,
        on_bad_document: str | None = None,
        read: str = READ[0],
        num_masks: int = 128,
        seed: int = 0,
        log: str | None = None,
        **unknown,
    ):
        super().__init__()
        if unknown:
            raise WrongValue(
                f"model_args has {', '.join(sorted(unknown))}; the model llada_v takes pretrained, device, batch_size, "
                "continuous, dtype, attn_implementation, reproduce_original, on_bad_document, read, num_masks, seed "
                "and log"
            )
        if read not in READ:
            raise WrongValue(f"read is {read!r}; choose one of {', '.join(READ)}")
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise WrongValue(f"batch_size is {batch_size!r}; give a whole number of at least 1")
        on_bad_document = on_bad_document or os.environ.get(ON_BAD_DOCUMENT, "error")
        if on_bad_document not in BAD_DOCUMENT:
            raise WrongValue(f"on_bad_document is {on_bad_document!r}; choose one of {', '.join(BAD_DOCUMENT)}")
        if reproduce_original and not self.is_simple:
            raise WrongValue("reproduce_original needs the benchmarks' plain prompts; add --force_simple")
        self.accelerator = Accelerator()
        if device is None or self.accelerator.num_processes > 1:
            device = self.accelerator.device
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.model, self.processor = load(pretrained, device, dtype, attn_implementation, reproduce_original)
        self.device = self.model.device
        self.batch_size = int(batch_size)
        self.is_continuous = self.device.type == "cpu" if continuous is None else continuous
        self.reproduce_original = reproduce_original
        self.on_bad_document = on_bad_document
        self.read = read
        self.num_masks = num_masks
        self.seed = seed
        self.log = Log(log, self._rank)
        forgive(self.log.unscored)

    # Documents

    def content_of(self, request):
        """What a prompt is made of, by the benchmark's own code: chat messages, or a text and its visuals.

        lmms-eval sends a chat model plain requests as well: for tasks that are given as a folder.
        """
        doc_id, task, split = request.args[-3:]
        document = self.task_dict[task][split][doc_id]
        if is_chat(request):
            return request.args[1](document)
        return request.args[0], request.args[2](document) or []

    def prompt_from(self, content, think_mode: str | None = None) -> Sequence:
        """The prompt of what `content_of` gave."""
        if isinstance(content, list):
            return chat_prompt(self.processor, content, think_mode)
        context, visuals = content
        if self.reproduce_original:
            return original_prompt(self.processor, context, visuals, think_mode)
        return chat_prompt(self.processor, messages_of(context, visuals), think_mode)

    def prepare(
        self, request, answer_length: int, think_mode: str | None = None, labels: dict | None = None
    ) -> Sequence | None:
        """The prompt of a request; None for a bad document that is skipped. Otherwise raises `BadDocument` for one.

        labels: filled with those that the question lists.
        """
        name = f"document {request.doc_id} of {request.task_name}"
        try:
            try:
                content = self.content_of(request)
            except (Exception, SystemExit) as error:  # benchmarks' code raises anything, and exits for a missing video
                raise BadDocument(f"{name} cannot be read: {type(error).__name__}: {error}") from error
            try:
                prompt = self.prompt_from(content, think_mode)
            except (UserError, OSError) as error:
                raise BadDocument(f"{name} cannot be used: {error}") from error
            limit = self.model.config.text_config.max_position_embeddings
            if len(prompt.input_ids) + answer_length > limit:
                raise BadDocument(
                    f"{name} is too long: {len(prompt.input_ids)} tokens with its pictures and {answer_length} for the "
                    f"answer, where the model has {limit} positions"
                )
            if labels is not None:
                labels |= self.labels_of(prompt, answer_length)
                if not labels:
                    raise BadDocument(f"{name} lists no answers to choose from; it is answered with read=answers")
            return prompt
        except BadDocument as error:
            if self.on_bad_document == "error":
                raise BadDocument(f"{error}; on_bad_document=skip goes on without it and counts it") from error
            logger.warning(f"skipped: {error}")
            self.log.write(request, skipped=str(error))
            return None

    def labels_of(self, prompt: Sequence, length: int) -> dict[str, list[list[int]]]:
        """What a question lists as ids: letters, and the options' texts where all differ and fit so many masks."""
        listed = choices_in(self.processor.decode(prompt.input_ids, skip_special_tokens=True))
        ids = {value: [self.processor.encode(text) for text in texts] for value, texts in listed.items()}
        every = [tuple(label) for labels in ids.values() for label in labels]
        if len(set(every)) == len(every) and all(0 < len(label) < length for label in every):
            return ids
        return {value: labels[:1] for value, labels in ids.items()}

    def halve(self, size: int, request, error: torch.OutOfMemoryError) -> None:
        """Go on with half the batch size. Raises ValueError where there is no half."""
        if size == 1:
            raise WrongValue(
                f"document {request.doc_id} of {request.task_name} does not fit into the device's memory, alone in its "
                "batch; give fewer gen_length, pictures or another device"
            ) from error
        torch.cuda.empty_cache()
        self.batch_size = size // 2
        logger.warning(f"out of memory with batches of {size}; going on with {self.batch_size}")

    # Answers

    def generate_until(self, requests: list) -> Iterator[GenerationResult]:
        """The answer to each request, in order."""
        asked = []
        length = self.model.generation_config.max_new_tokens
        draws: dict[tuple, int] = {}
        for request in requests:
            key = (request.task_name, request.doc_id)
            draws[key] = draws.get(key, -1) + 1  # the same document again is another draw
            settings = settings_of(kwargs_of(request), self.processor, length)
            asked.append(Asked(request, settings, self.seed + 1_000_003 * draws[key] + request.doc_id))
        with tqdm(total=len(asked), desc="answers", disable=self.rank != 0) as bar:
            for window in self.prepared(asked):
                self.answer_window(window, bar)
                yield from (item.answer for item in window)

    def prepared(self, asked: list[Asked]) -> Iterator[list[Asked]]:
        """Windows of requests with their prompts; the next is prepared while the caller answers the last."""
        size = WINDOW * self.batch_size
        windows = [asked[start : start + size] for start in range(0, len(asked), size)]

        def work(window: list[Asked]) -> list[Asked]:
            for item in window:
                labels = item.labels if self.read == CHOICES else None
                item.prompt = self.prepare(item.request, item.settings.answer_length, item.settings.think_mode, labels)
                if self.reproduce_original and item.prompt is not None and not item.prompt.visuals:
                    item.settings = item.settings.without_stops()  # as the original does for text alone
            return window

        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = pool.submit(work, windows[0]) if windows else None
            for index in range(len(windows)):
                window = ahead.result()
                ahead = pool.submit(work, windows[index + 1]) if index + 1 < len(windows) else None
                yield window

    def answer_window(self, window: list[Asked], bar) -> None:
        """Answer the requests of a window, in batches of equal settings, the longest prompts first."""
        todo = sorted((item for item in window if item.prompt), key=lambda item: -len(item.prompt.input_ids))
        for item in window:
            if item.prompt is None:
                item.answer = GenerationResult("", TokenCounts(output_tokens=0))
                bar.update()
        if self.is_continuous and self.read != CHOICES:
            apart = [item for item in todo if refusal(item.settings.sampler)]
            self.answer_continuously([item for item in todo if not refusal(item.settings.sampler)], bar)
            todo = apart
        batches: deque[list[Asked]] = deque()
        while todo:
            settings = todo[0].settings
            same = [item for item in todo if item.settings == settings]
            todo = [item for item in todo if item.settings != settings]
            # A random answer is drawn alone: its numbers then do not depend on its neighbours.
            size = 1 if settings.is_random else self.batch_size
            batches.extend(same[start : start + size] for start in range(0, len(same), size))
        while batches:
            batch = batches.popleft()
            batch, rest = batch[: self.batch_size], batch[self.batch_size :]
            try:
                (self.read_batch if self.read == CHOICES else self.answer_batch)(batch)
                bar.update(len(batch))
            except torch.OutOfMemoryError as error:
                self.halve(len(batch), batch[0].request, error)
                rest = batch + rest
            if rest:
                batches.appendleft(rest)

    def answer_continuously(self, todo: list[Asked], bar) -> None:
        """Answer requests of any settings, as many at once as a batch has; the next begins where one is finished."""
        while todo:
            questions = [
                Question(dict(self.processor.collate([item.prompt], "left", "pt")), item.settings.sampler, item.seed)
                for item in todo
            ]
            try:
                start = time.perf_counter()
                for found in answer_together(self.model, self.processor, questions, self.batch_size):
                    seconds, start = (time.perf_counter() - start) / len(found), time.perf_counter()
                    for number, answered in found:
                        self.note(todo[number], answered.text, len(answered.token_ids), answered.num_forwards, seconds)
                    bar.update(len(found))
            except torch.OutOfMemoryError as error:
                self.halve(self.batch_size, next(item for item in todo if item.answer is None).request, error)
            todo = [item for item in todo if item.answer is None]

    def answer_batch(self, batch: list[Asked]) -> None:
        """Answer a batch of equal settings."""
        settings = batch[0].settings
        start = time.perf_counter()
        inputs = self.processor.collate([item.prompt for item in batch], "left", "pt").to(self.device)
        generator = torch.Generator(self.device).manual_seed(batch[0].seed) if settings.is_random else None
        output = self.model.generate(
            **inputs,
            sampler=settings.sampler,
            generator=generator,
            tokenizer=self.processor.tokenizer,
            return_dict_in_generate=True,
        )
        assert isinstance(output, SamplerOutput)  # with return_dict_in_generate
        answers = [answer.tolist() for answer in output.answers]  # waits for the device, so it belongs to the time
        seconds = (time.perf_counter() - start) / len(batch)
        for item, ids, text in zip(batch, answers, output.texts, strict=True):
            self.note(item, text, len(ids), output.num_forwards, seconds)

    def note(self, item: Asked, text: str, num_tokens: int, num_forwards: int, seconds: float) -> None:
        """Keep an answer, and log what it took."""
        counts = {"input_tokens": len(item.prompt.input_ids), "output_tokens": num_tokens}
        item.answer = GenerationResult(self.trimmed(text), TokenCounts(**counts))
        self.log.write(item.request, seconds=seconds, num_forwards=num_forwards, **counts)

    def read_batch(self, batch: list[Asked]) -> None:
        """Read the choice of each of a batch of equal settings."""
        start = time.perf_counter()
        inputs = self.processor.collate([item.prompt for item in batch], "left", "pt").to(self.device)
        labels = [[label for texts in item.labels.values() for label in texts] for item in batch]
        found = read_choices(self.model, inputs, labels, batch[0].settings.answer_length)
        seconds = (time.perf_counter() - start) / len(batch)
        for item, logs in zip(batch, found, strict=True):
            one = decision(item.labels, logs, 1.0, CLOSE)
            item.answer = GenerationResult(one.value, TokenCounts(output_tokens=0))
            told = {"seconds": seconds, "input_tokens": len(item.prompt.input_ids), "output_tokens": 0}
            self.log.write(item.request, **told, probabilities=one.probabilities)

    def trimmed(self, text: str) -> str:
        """An answer's text as it is scored."""
        return (text.removesuffix(".") if self.reproduce_original else text).strip()

    def generate_until_multi_round(self, requests: list):
        """Not supported: the model answers one question at a time."""
        raise NotImplementedError("llada_v answers single questions; tasks of several rounds are not supported")

    # Log-likelihoods

    def loglikelihood(self, requests: list) -> Iterator[GenerationResult]:
        """For each request the log-likelihood of its answer in nats, and whether the sampler would write just that.

        The text of each is a `Scored`, with "not a number" for a bad document that is skipped. lmms-eval's own scoring
        of multiple choice takes the smallest number, because most of its models give losses: for such tasks, and only
        for them, the sign is turned.
        """
        for request in requests:
            if len(request.args) != 6:
                raise WrongValue(
                    f"task {request.task_name} asks for the likelihood of an answer without its question "
                    "(acc_mutual_info); that is not supported, remove the metric"
                )
        with tqdm(total=len(requests), desc="log-likelihoods", disable=self.rank != 0) as bar:
            for group in by_question(requests, self.batch_size):
                found = self.score(group)
                for request in (request for same in group for request in same):
                    number, is_greedy = found.get(id(request), (float("nan"), False))
                    bar.update()
                    yield GenerationResult(Scored(-number if takes_smallest(request) else number, is_greedy))

    def answer_ids(self, request) -> list[int]:
        """The ids of the answer to score: its text, and the end of the turn, which every answer had in training."""
        answer, _, doc_id, task, split = request.args[1:]
        if callable(answer):
            answer = answer(self.task_dict[task][split][doc_id])
        return [*self.processor.encode(str(answer).strip()), self.processor.config.eot_token_id]

    def score(self, group: list[list]) -> dict[int, tuple[float, bool]]:
        """id(request) -> (log-likelihood, is greedy) for requests in groups of one question each."""
        start = time.perf_counter()
        prompts, requests, prompt_of = [], [], []
        for same in group:
            prompt = self.prepare(same[0], max(len(self.answer_ids(request)) for request in same))
            if prompt is not None:
                prompts.append(prompt)
                requests += same
                prompt_of += [len(prompts) - 1] * len(same)
        if not prompts:
            return {}
        answers = [self.answer_ids(request) for request in requests]
        inputs = self.processor.collate(prompts, "left", "pt").to(self.device)
        found = None
        while found is None:
            size = self.batch_size
            try:
                likelihoods = log_likelihoods(self.model, inputs, answers, prompt_of, self.num_masks, size, self.seed)
                found = likelihoods, are_greedy(self.model, inputs, answers, prompt_of, size)
            except torch.OutOfMemoryError as error:
                self.halve(size, requests[0], error)
        seconds = (time.perf_counter() - start) / len(requests)
        results = {}
        for request, likelihood, is_greedy in zip(requests, *found, strict=True):
            self.log.write(request, seconds=seconds, **asdict(likelihood))
            results[id(request)] = (likelihood.log_likelihood, is_greedy)
        return results


class LladaVChat(LladaV):
    """The model for chat messages, which put pictures where the benchmark wants them."""

    is_simple = False


class LladaVPlain(LladaV):
    """The model for `--force_simple`, a text and its visuals: the original's prompts, and log-likelihoods."""

    is_simple = True


def is_chat(request) -> bool:
    """Whether a request to generate holds chat messages: (text, messages, settings, ...), not (text, settings, ...)."""
    return request.request_type != "loglikelihood" and callable(request.args[1])


def kwargs_of(request) -> dict:
    """The generation_kwargs of a request to generate."""
    return request.args[2 if is_chat(request) else 1]


def by_question(requests: list, size: int) -> Iterator[list[list]]:
    """Requests in order, those about one question together, up to `size` questions at a time."""
    groups: list[list] = []
    last = None
    for request in requests:
        question = (request.task_name, request.doc_id, request.args[0])
        if question == last:
            groups[-1].append(request)
            continue
        if len(groups) == size:
            yield groups
            groups = []
        groups.append([request])
        last = question
    if groups:
        yield groups


def takes_smallest(request) -> bool:
    """Whether the request belongs to a task for which lmms-eval takes the smallest number as the best."""
    task = getattr(request.args[2], "__self__", None)  # the method's owner
    return getattr(task, "OUTPUT_TYPE", None) == "multiple_choice" and not callable(task.config.process_results)
