"""Data elsewhere: the records, pictures and order of the same files here; what fails is tried again, then told."""

import io
import json
import re
import tarfile
import threading
import time
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from PIL import Image
from runs import losses, small_recipe

from llada_v.data import remote
from llada_v.data.index import open_index
from llada_v.data.mixture import list_sources
from llada_v.data.records import BadRecord, Records
from llada_v.data.remote import RemoteFile, place_of
from llada_v.data.sources import read_entries
from llada_v.errors import BadFile, MissingFile, NoPackage, WrongValue
from llada_v.training.train import train


class Handler(SimpleHTTPRequestHandler):
    """Files with ranges; answers the next `failures` GETs with a status of 503, all with `status` where that is set."""

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, has_body):
        server, path = self.server, self.path.partition("?")[0]
        file = server.root / path.lstrip("/")
        server.asked.append((self.command, self.headers.get("Range")))
        if server.delay:
            time.sleep(server.delay)
        status = server.status
        if not status and server.failures and has_body:
            server.failures -= 1
            status = 503
        if status or not file.is_file():
            self.send_response(status or 404)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        data = file.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")) if server.knows_ranges else None
        if found:
            data = data[int(found[1]) : int(found[2]) + 1]
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{file.stat().st_mtime_ns}"')
        self.end_headers()
        if has_body:
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of the folder `store`; waits between tries are short."""
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    (tmp_path / "store").mkdir()
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.root, found.asked, found.failures, found.status = tmp_path / "store", [], 0, 0
    found.delay, found.knows_ranges = 0.0, True
    found.url = f"http://user:secret@127.0.0.1:{found.server_port}"
    thread = threading.Thread(target=partial(found.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()


def write_tar(file, count=3, first=0):
    """A shard of records with a picture each."""
    with tarfile.open(file, "w") as tar:
        for number in range(first, first + count):
            picture = io.BytesIO()
            Image.new("RGB", (20 + number, 30), (number * 9 % 256, 0, 0)).save(picture, "PNG")
            turns = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": str(number)}]
            told = json.dumps({"id": number, "conversations": turns}).encode()
            for name, data in ((f"{number:03}.json", told), (f"{number:03}.png", picture.getvalue())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return file


def all_of(records):
    """Every record, as training reads it."""
    found = []
    for number in range(len(records)):
        with records.reading(number) as record:
            found.append(record)
    return found


def test_shards_on_a_server_have_the_records_and_pictures_of_the_same_shards_here(server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "READ_AHEAD", 1000)  # less than a shard has
    for number in range(2):
        write_tar(server.root / f"{number}.tar", first=3 * number)
    here = Records(str(server.root / "{0..1}.tar"), ".", None, 0)
    server.asked.clear()
    far = Records(f"{server.url}/{{0..1}}.tar?key=secret", ".", str(tmp_path / "index"), 0)
    assert all_of(far) == all_of(here) and far.index.digest() == here.index.digest()
    ranges = [asked for command, asked in server.asked if command == "GET"]
    assert all(ranges), "whole shards were fetched"
    index = far.index.folder
    assert "secret" not in (index / "index.json").read_text()
    server.asked.clear()
    assert Records(f"{server.url}/{{0..1}}.tar?key=other", ".", str(tmp_path / "index"), 0).index.folder == index
    assert {command for command, _ in server.asked} == {"HEAD"}  # the index is there already
    write_tar(server.root / "1.tar", count=2)
    assert Records(f"{server.url}/{{0..1}}.tar", ".", str(tmp_path / "index"), 0).index.folder != index


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_arrays_and_lines_with_their_pictures_in_an_object_store(tmp_path, suffix):
    store = fsspec.filesystem("memory")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    store.pipe_file("/data/pictures/a.png", (tmp_path / "a.png").read_bytes())
    turns = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": "é"}]
    record = {"id": "a", "image": "a.png", "conversations": turns}
    lines = [json.dumps(record, ensure_ascii=False), json.dumps(record | {"id": "b", "image": "b.png"})]
    text = f"[{', '.join(lines)}]" if suffix == ".json" else "\n".join(lines)
    store.pipe_file(f"/data/records{suffix}", text.encode())
    data = f"memory://data/records{suffix}"
    records = Records(data, [str(tmp_path), "memory://data/pictures"], str(tmp_path), 0)
    with records.reading(0) as found:
        assert found["image"] == [tmp_path / "a.png"] and found["conversations"][1]["value"] == "é"
    with Records(data, "memory://data/pictures/", str(tmp_path), 0).reading(0) as found:
        assert found["image"] == [(tmp_path / "a.png").read_bytes()]
    with pytest.raises(BadRecord, match=r"record 'b' of memory://data/\S+: no picture or video at b.png under any of"):
        with records.reading(1):
            pass
    with pytest.raises(WrongValue, match="is not on this machine; name a folder .* as index_folder"):
        open_index(list_sources(data, "."), None, 0)


def test_what_fails_is_tried_again_and_then_told_with_its_address_and_without_secrets(server, caplog):
    caplog.set_level("INFO")
    write_tar(server.root / "a.tar")
    file = RemoteFile(f"{server.url}/a.tar?signature=secret")
    server.failures = remote.TRIES - 1
    assert file.read(0, 512) == (server.root / "a.tar").read_bytes()[:512]
    assert caplog.text.count("trying again") == remote.TRIES - 1
    server.failures = 10 * remote.TRIES
    with pytest.raises(BadFile) as told:
        file.read(0, 512)
    assert re.match(rf"http://127.0.0.1:\d+/a.tar cannot be read \({remote.TRIES} tries\): 503", str(told.value))
    assert server.failures == 9 * remote.TRIES
    assert "secret" not in str(told.value) + caplog.text and told.value.__suppress_context__


@pytest.mark.parametrize("status", [401, 403])
def test_what_is_not_allowed_is_not_tried_again(server, status):
    write_tar(server.root / "a.tar")
    server.status = status
    with pytest.raises(BadFile, match=rf"/a.tar cannot be read: {status}"):
        RemoteFile(f"{server.url}/a.tar").read(0, 512)
    assert len(server.asked) == 1
    with pytest.raises(BadFile, match=rf"/a.tar cannot be read: {status}"):
        list_sources(f"{server.url}/a.tar", ".")


def test_what_takes_too_long_ends(server, monkeypatch):
    monkeypatch.setattr(remote, "SECONDS", 0.1)
    monkeypatch.setattr(remote, "TRIES", 2)
    write_tar(server.root / "a.tar")
    server.delay = 1.0
    start = time.monotonic()
    with pytest.raises(BadFile, match=r"/a.tar cannot be read \(2 tries\): no answer in 0.1 s"):
        RemoteFile(f"{server.url}/a.tar").read(0, 512)
    assert time.monotonic() - start < 1.0


def test_a_file_that_is_not_there_a_server_without_ranges_and_unknown_schemes(server, tmp_path):
    with pytest.raises(MissingFile, match=r"no data file at http://127.0.0.1:\d+/b.tar;"):
        list_sources(f"{server.url}/b.tar?key=secret", ".")
    with pytest.raises(MissingFile, match=r"no data file at memory://nowhere/b.tar;"):
        list_sources("memory://nowhere/b.tar", ".")
    write_tar(server.root / "a.tar")
    server.knows_ranges = False
    with pytest.raises(BadFile, match="sends the whole file where a part is asked for; copy it here first"):
        RemoteFile(f"{server.url}/a.tar").read(0, 512)
    with pytest.raises(WrongValue, match="nothing here reads nosuch://"):
        list_sources("nosuch://a/b.tar", ".")
    with pytest.raises(NoPackage, match="s3://bucket/b.tar: .*s3fs"):
        list_sources("s3://bucket/b.tar", ".")
    with pytest.raises(WrongValue, match="memory://a.yaml is a mixture elsewhere; copy it here"):
        list_sources("memory://a.yaml", ".")


def test_a_name_without_a_scheme_is_a_path(tmp_path):
    assert place_of(str(tmp_path)) == tmp_path == place_of(tmp_path)
    far = place_of("s3://user:secret@bucket/a b/c.tar?x=1")
    assert (str(far), far.suffix) == ("s3://bucket/a b/c.tar", ".tar")
    assert str(place_of("s3://bucket/images/") / "a/b.png") == "s3://bucket/images/a/b.png"


def test_a_mistake_of_a_program_is_not_taken_for_one_of_a_store(monkeypatch):
    fsspec.filesystem("memory").pipe_file("/a.jsonl", b"{}")
    monkeypatch.setattr(RemoteFile, "state", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_index(list_sources("memory://a.jsonl", "."), "index", 0)
    file = RemoteFile("memory://a.jsonl")
    with pytest.raises(ZeroDivisionError):
        file.ask(lambda *given: 1 / 0)
    assert [entry.text for entry in read_entries("memory://a.jsonl")] == [b"{}"]


@pytest.mark.slow
def test_a_run_on_shards_elsewhere_has_the_losses_of_one_on_shards_here_and_goes_on_the_same(
    server, tiny_folder, tmp_path
):
    """With two workers, each with its own connections; resumed from its checkpoint in the middle of an epoch."""
    for number in range(2):
        write_tar(server.root / f"{number}.tar", count=7, first=7 * number)
    changes = {"epochs": 2.0, "save_steps": 3, "workers": 2, "image_root": "."}
    here = small_recipe(tiny_folder, tmp_path, tmp_path / "here", data=str(server.root / "{0..1}.tar"), **changes)
    far = replace(here, data=f"{server.url}/{{0..1}}.tar", index_folder=str(tmp_path), output=str(tmp_path / "far"))
    train(here)
    server.failures = 2
    train(far)
    whole = losses(far.output)
    assert whole == losses(here.output) and len(whole) == 8
    for name in ("model.safetensors", "checkpoint-6", "checkpoint-8"):
        path = tmp_path / "far" / name
        path.rename(tmp_path / name)
    train(far)
    assert losses(far.output) == whole
