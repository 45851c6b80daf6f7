#!/usr/bin/env python
"""Measures the engine and the server: throughput against one at a time and against equal steps only, and a soak.

python scripts/measure_serving.py throughput --shape tiny --requests 64
python scripts/measure_serving.py throughput --shape 8b --clients 1,8,32 --prompts 200,3700 --steps 32
python scripts/measure_serving.py together --questions 128 --at-once 8,16 --presets exact,fast
python scripts/measure_serving.py soak --minutes 30 --clients 8
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from llada_v import SamplerConfig
from llada_v.answering import device_of, dtype_of, load
from llada_v.benchmark.clients import NoTokenizer, serve_clients
from llada_v.benchmark.shapes import SHAPES, build
from llada_v.conversation import user_message
from llada_v.serving.engine import Engine, EngineConfig
from llada_v.serving.together import Question, answer_together
from llada_v.toyworld import make_scene
from llada_v.toyworld.records import heldout_questions, message_of
from llada_v.toyworld.scenes import draw
from llada_v.toyworld.stories import ALL_FAMILIES

QUESTIONS = ("How many objects are there?", "List everything.", "Is there a red star?")
WAYS = ("engine", "one at a time", "equal steps")


class EqualSteps(Engine):
    """What engines do that batch only requests at the same step: those of the longest waiting one's."""

    def choose(self):
        chosen = super().choose()
        key = lambda job: (job.steps_of_mine, int(job.call.scope), job.call.columns.shape)  # noqa: E731
        return [job for job in chosen if key(job) == key(chosen[0])]

    def advance(self, job, found):
        job.steps_of_mine = getattr(job, "steps_of_mine", -1) + 1
        super().advance(job, found)


def prompts_of(args, model, processor):
    """Inputs for the engine: of the small world, or random ids of some lengths."""
    chance = random.Random(args.seed)
    if processor is not None:
        found = []
        for number in range(args.requests):
            images = [draw(make_scene(random.Random(number)))] if number % 4 else []
            message = user_message(chance.choice(QUESTIONS), images)
            inputs = processor.apply_chat_template(
                [message], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
            found.append(dict(inputs))
        return found
    lengths = [int(word) for word in args.prompts.split(",")]
    most = min(model.config.special_token_ids().values())
    return [{"input_ids": torch.randint(0, most, (1, chance.choice(lengths)))} for _ in range(args.requests)]


def throughput(args):
    """A table: ways by clients."""
    device = device_of(args.device)
    if args.shape == "tiny":
        model, processor = load(device=args.device)
    else:
        model, processor = build(args.shape, device, dtype_of(None, device)), None
    prompts = prompts_of(args, model, processor)
    sampler = SamplerConfig(
        gen_length=args.gen_length,
        block_length=args.block_length,
        steps=args.steps,
        cache="prompt",
        refresh_interval=args.refresh_interval,
        stop_token_ids=[],
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    lengths = sorted(inputs["input_ids"].shape[1] for inputs in prompts)
    print(
        f"{args.shape}, {name}, torch {torch.__version__}; {len(prompts)} prompts of {lengths[0]}-{lengths[-1]} tokens"
    )
    print(f"answers of {args.gen_length} tokens in {args.steps or args.gen_length} steps; best of {args.rounds}\n")
    print(
        "| clients | way | requests/s | tokens/s | seconds p50 | p99 | forwards | CPU ms a request | waits p50, p99 |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    config = EngineConfig(pool_tokens=args.pool_tokens, tick_tokens=args.tick_tokens, queue_length=1000)
    for clients in [int(word) for word in args.clients.split(",")]:
        for way in args.ways.split(","):
            kind = EqualSteps if way == "equal steps" else Engine
            most = 1 if way == "one at a time" else 32
            limits = EngineConfig(**{**vars(config), "max_running": most})
            engine = kind(model, processor or NoTokenizer(), limits).start()
            serve_clients(engine, prompts[: min(len(prompts), 4)], sampler, clients)  # the first calls are slow
            engine.waits.clear()
            best = max(
                (serve_clients(engine, prompts, sampler, clients) for _ in range(args.rounds)),
                key=lambda found: found.requests_per_second,
            )
            waits = sorted(engine.waits)
            at = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
            engine.close()
            rates = f"{best.requests_per_second:.2f} | {best.tokens_per_second:.0f}"
            row = f"{rates} | {best.median:.3f} | {best.slowest:.3f} | {best.forwards} | {best.cpu_milliseconds:.0f}"
            print(f"| {clients} | {way} | {row} | {at[0]}, {at[1]} |", flush=True)
            del engine


def together(args):
    """Held-out questions of the tiny model in batches, and where each that is finished makes room for the next."""
    model, processor = load(device=args.device)
    items = heldout_questions(args.questions, args.seed, ALL_FAMILIES[: args.families])
    asked = [dict(inputs_for(processor, [item])) for item in items]

    trunk, forwards = model.model.language_model, 0
    compute = trunk.run

    def counted(*given, **named):
        nonlocal forwards
        forwards += 1
        return compute(*given, **named)

    trunk.run = counted

    def in_batches(sampler, size):
        texts = []
        for start in range(0, len(items), size):
            inputs = inputs_for(processor, items[start : start + size]).to(model.device)
            found = model.generate(
                **inputs, sampler=sampler, tokenizer=processor.tokenizer, return_dict_in_generate=True
            )
            texts += found.texts
        return texts

    def continuous(sampler, size):
        questions = [Question(inputs, sampler) for inputs in asked]
        found = dict(pair for pairs in answer_together(model, processor, questions, size) for pair in pairs)
        return [found[number].text for number in range(len(items))]

    print("| preset | at once | way | forwards | CPU s | seconds |\n|---|---|---|---|---|---|")
    for preset in args.presets.split(","):
        sampler = SamplerConfig.preset(preset, gen_length=32)
        for size in [int(word) for word in args.at_once.split(",")]:
            texts = []
            for way, run in (("batches", in_batches), ("continuous", continuous)):
                spent, begun, forwards = time.process_time(), time.perf_counter(), 0
                answers = run(sampler, size)
                spent, passed = time.process_time() - spent, time.perf_counter() - begun
                texts.append(answers)
                print(f"| {preset} | {size} | {way} | {forwards} | {spent:.1f} | {passed:.1f} |", flush=True)
            print(f"{sum(a != b for a, b in zip(*texts, strict=True))} answers differ", file=sys.stderr)


def inputs_for(processor, items):
    """What the processor makes of held-out questions."""
    conversations = [[message_of(visual, question)] for visual, question, _ in items]
    return processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def resident(pid):
    """MiB that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def soak(args):
    """Clients that ask a server of its own for some minutes; the slope of its memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "llada_v", "serve", "--port", str(port), *args.server],
        stderr=open(args.log, "w"),
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_ready(url)
        counts = {"answers": 0, "errors": 0, "cancelled": 0}
        end = time.monotonic() + 60 * args.minutes
        threads = [
            threading.Thread(target=client, args=(url, number, end, counts, args.pause))
            for number in range(args.clients)
        ]
        for thread in threads:
            thread.start()
        points = []
        begun = time.monotonic()
        while time.monotonic() < end:
            time.sleep(min(5, max(0.1, end - time.monotonic())))
            points.append((time.monotonic() - begun, resident(server.pid)))
        for thread in threads:
            thread.join()
        settled = [(at, size) for at, size in points if at > points[-1][0] * 0.2]
        mean_at = sum(at for at, _ in settled) / len(settled)
        mean = sum(size for _, size in settled) / len(settled)
        slope = sum((at - mean_at) * (size - mean) for at, size in settled) / sum(
            (at - mean_at) ** 2 for at, _ in settled
        )
        print(json.dumps(counts))
        lives = "lives" if server.poll() is None else "has ended"
        print(f"{args.minutes:g} minutes, {args.clients} clients: {points[0][1]:.0f} MiB, then {points[-1][1]:.0f}")
        print(f"behind the first fifth {60 * slope:+.2f} MiB a minute; the server {lives}")
    finally:
        server.terminate()
        print(f"ended with status {server.wait(60)}")


def wait_ready(url):
    """Until the server takes requests."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server does not begin")


def client(url, number, end, counts, pause):
    """Asks about pictures, one request after the other; some streams are left in their middle."""
    import base64
    import io

    chance = random.Random(number)
    while time.monotonic() < end:
        stream = io.BytesIO()
        draw(make_scene(random.Random(chance.randrange(10**6)))).save(stream, "PNG")
        shown = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
        content = [
            {"type": "image_url", "image_url": {"url": shown}},
            {"type": "text", "text": chance.choice(QUESTIONS)},
        ]
        body = {"messages": [{"role": "user", "content": content}], "temperature": chance.choice((0, 0.7))}
        is_stream, leaves = chance.random() < 0.5, chance.random() < 0.1
        if is_stream:
            body |= {"stream": True, "diffusing": True}
        request = urllib.request.Request(
            f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                if is_stream and leaves:
                    response.read(200)
                    counts["cancelled"] += 1
                else:
                    text = response.read()
                    counts["answers" if b"[DONE]" in text or b'"usage"' in text else "errors"] += 1
        except OSError as error:
            print(f"client {number}: {error}", file=sys.stderr)
            counts["errors"] += 1
        time.sleep(pause)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("throughput")
    one.set_defaults(run=throughput)
    one.add_argument("--shape", default="tiny", choices=SHAPES)
    one.add_argument("--device")
    one.add_argument("--clients", default="1,4,8,16,32")
    one.add_argument("--ways", default=",".join(WAYS))
    one.add_argument("--requests", type=int, default=64)
    one.add_argument("--prompts", default="200,800,3700", help="lengths of random prompts, for mid and 8b")
    one.add_argument("--gen-length", type=int, default=32)
    one.add_argument("--block-length", type=int)
    one.add_argument("--steps", type=int)
    one.add_argument("--refresh-interval", type=int, default=8)
    one.add_argument("--pool-tokens", type=int, default=65536)
    one.add_argument("--tick-tokens", type=int, default=8192)
    one.add_argument("--rounds", type=int, default=1)
    one.add_argument("--seed", type=int, default=0)
    batch = verbs.add_parser("together")
    batch.set_defaults(run=together)
    batch.add_argument("--device")
    batch.add_argument("--questions", type=int, default=128)
    batch.add_argument("--families", type=int, default=8, help="how many of the families, in their order")
    batch.add_argument("--at-once", default="8,16")
    batch.add_argument("--presets", default="exact,fast")
    batch.add_argument("--seed", type=int, default=5)
    other = verbs.add_parser("soak")
    other.set_defaults(run=soak)
    other.add_argument("--minutes", type=float, default=30)
    other.add_argument("--clients", type=int, default=8)
    other.add_argument("--pause", type=float, default=0.0, help="seconds between two requests of a client")
    other.add_argument("--log", default=os.devnull)
    other.add_argument("server", nargs="*", help="options of llada-v serve, behind --")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
