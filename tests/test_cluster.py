"""The server as a Ray Serve deployment: it streams, and a replica that is killed is replaced.

pytest -m cluster; needs the extra `cluster` and port 8000.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from llada_v.shipped import ROOT

pytestmark = pytest.mark.cluster
URL = "http://127.0.0.1:8000"


def until(holds, seconds):
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end
        time.sleep(0.3)
    return found


def is_ready():
    try:
        return urllib.request.urlopen(f"{URL}/ready", timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


def replicas():
    """Processes of replicas, by their names."""
    found = subprocess.run(["pgrep", "-f", "ray::ServeReplica:default:llada-v"], capture_output=True, text=True)
    return {int(word) for word in found.stdout.split()}


def stream():
    """When each event of an answer came, in seconds since the first."""
    question = {"role": "user", "content": "What is 3 + 4? /think"}
    body = {"messages": [question], "stream": True, "diffusing": True, "diffusion": {"preset": "exact"}}
    request = urllib.request.Request(
        f"{URL}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    times, lines = [], []
    for line in urllib.request.urlopen(request, timeout=60):
        if line.startswith(b"data:"):
            times.append(time.monotonic())
            lines.append(line)
    assert lines[-1].strip() == b"data: [DONE]"
    return [moment - times[0] for moment in times]


def test_two_replicas_stream_and_a_killed_one_is_replaced(tmp_path):
    command = [Path(sys.executable).parent / "serve", "run", "llada_v.serving.cluster:entry"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        until(is_ready, 180)
        before = until(lambda: len(replicas()) == 2 and replicas(), 60)
        times = stream()
        assert len(times) > 10 and times[len(times) // 2] < 0.9 * times[-1]
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(replicas() - {killed}) == 2, 120)
        for _ in range(4):
            stream()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def test_arguments_that_cannot_be_are_refused_by_name():
    from llada_v.serving.cluster import entry

    for given, told in (
        ({"modle": "x"}, "unknown argument modle"),
        ({"replicas": "two"}, "replicas is 'two'"),
        ({"replicas": "3", "most_replicas": "2"}, "1 <= replicas"),
    ):
        with pytest.raises(ValueError, match=told):
            entry(given)
