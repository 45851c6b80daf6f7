"""How an engine serves clients that each ask again as soon as they are answered, without a network between them."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..generation.config import SamplerConfig
from ..serving.engine import Engine, Event, Failed, Request, Step

MOST_SECONDS = 3600  # without an answer


class NoTokenizer:
    """In place of a processor, for prompts of random ids."""

    tokenizer = None


@dataclass(frozen=True)
class Served:
    """What clients see: requests and tokens a second, seconds of the median request and of the slowest in a hundred.

    forwards: the engine's model calls. cpu_milliseconds: of the process, a request.
    """

    requests_per_second: float
    tokens_per_second: float
    median: float
    slowest: float
    forwards: int
    cpu_milliseconds: float


def serve_clients(engine: Engine, prompts: Sequence[dict], sampler: SamplerConfig, clients: int) -> Served:
    """What `clients` at once see that share the prompts among them. Raises what fails a request."""
    waiting, lock, seconds, done = list(prompts), threading.Lock(), [], threading.Event()
    failed: list[BaseException] = []
    before = dict(engine.counts)

    def send():
        with lock:
            if not waiting:
                return
            inputs = waiting.pop()
        try:
            engine.submit(Request(inputs, sampler, listen))
        except Exception as error:
            fail(error)

    def fail(error: BaseException):
        failed.append(error)
        done.set()

    def listen(event: Event):
        if isinstance(event, Step):
            return
        if isinstance(event, Failed):
            return fail(event.error)
        seconds.append(event.seconds)
        if len(seconds) == len(prompts):
            done.set()
        threading.Thread(target=send).start()  # a client is no part of the engine's thread

    begun, spent = time.perf_counter(), time.process_time()
    for _ in range(clients):
        send()
    if not done.wait(MOST_SECONDS):
        raise TimeoutError(f"{len(seconds)} of {len(prompts)} requests were answered in {MOST_SECONDS} seconds")
    if failed:
        raise failed[0]
    passed, spent = time.perf_counter() - begun, time.process_time() - spent
    seconds.sort()
    return Served(
        len(seconds) / passed,
        (engine.counts["tokens"] - before["tokens"]) / passed,
        seconds[len(seconds) // 2],
        seconds[min(len(seconds) - 1, len(seconds) * 99 // 100)],
        engine.counts["forwards"] - before["forwards"],
        1000 * spent / len(seconds),
    )
