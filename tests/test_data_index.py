"""Mixtures take the records they say, and the index holds them all, is made once, and is never seen half made."""

import errno
import json
import multiprocessing
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from llada_v.data import index
from llada_v.data.index import make_once, open_index
from llada_v.data.mixture import Source, expand_braces, list_sources, select
from llada_v.data.sources import parsed


def write(file: Path, ids) -> Path:
    """A data file with a record for each id."""
    records = [{"id": id} for id in ids]
    is_lines = file.suffix == ".jsonl"
    file.write_text("\n".join(map(json.dumps, records)) if is_lines else json.dumps(records))
    return file


def ids_of(found) -> list:
    """The ids of all records of an index."""
    return [parsed(found[number].entry)["id"] for number in range(len(found))]


def indexed(folder, data, seed=0) -> list:
    """The ids of the records that `data` names."""
    return ids_of(open_index(list_sources(data, str(folder)), folder / "index", seed))


# Names


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("a.json", ["a.json"]),
        ("a{x,y, z}.json", ["ax.json", "ay.json", "az.json"]),
        ("{a,b}/{08..10}.tar", ["a/08.tar", "a/09.tar", "a/10.tar", "b/08.tar", "b/09.tar", "b/10.tar"]),
        ("{one}", ["one"]),
    ],
)
def test_braces_stand_for_several_names(pattern, names):
    assert expand_braces(pattern) == names


ENDLESS = ["{0..999999999}", "{1..999999999999}", "{a,b}" * 40, "{0..999}{0..999}", "{0..99999}{a,b}"]


@pytest.mark.parametrize("pattern", ENDLESS)
def test_braces_that_stand_for_very_many_names_are_one_error(tmp_path, pattern):
    with pytest.raises(ValueError, match=r"stands for [\d,]+ files, more than the 100,000 of one data set"):
        expand_braces(pattern)
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"datasets": [{"json_path": pattern}]}))
    with pytest.raises(ValueError, match="more than the 100,000 of one data set"):
        list_sources(str(tmp_path / "mix.yaml"), str(tmp_path))


def test_very_many_names_one_by_one_are_one_error_too(tmp_path):
    entry = {"json_path": "a{0..99999}.json"}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"datasets": [entry, dict(entry)]}))
    for data in (str(tmp_path / "mix.yaml"), [entry["json_path"]] * 2):
        with pytest.raises(ValueError, match="more than the 100,000 of one data set"):
            list_sources(data, str(tmp_path))


def test_a_number_of_thousands_of_digits_is_one_error():
    with pytest.raises(ValueError, match="has a number of more than 18 digits"):
        expand_braces("{0..%s}" % ("9" * 5000))


@pytest.mark.parametrize("pattern", ["a{b", "a}b", "{3..1}", "{a,{b,c}}"])
def test_braces_that_stand_for_nothing_are_refused(pattern):
    with pytest.raises(ValueError, match="has braces that stand for nothing; write {a,b} or {000..012}"):
        expand_braces(pattern)


def test_several_files_are_one_data_set_in_the_order_given(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.json", [f"{name}{number}" for number in range(2)])
    write(tmp_path / "d.jsonl", ["d"])
    assert indexed(tmp_path, [f"{tmp_path}/{{c,a}}.json", f"{tmp_path}/d.jsonl"]) == ["c0", "c1", "a0", "a1", "d"]


# Strategies


@pytest.mark.parametrize(
    "strategy, expected",
    [
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        ("first:3", [0, 1, 2]),
        ("first:20%", [0, 1]),  # 1.4 rounded up
        ("end:2", [5, 6]),
        ("end:100%", [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_a_mixture_takes_the_end_it_names(tmp_path, strategy, expected):
    assert list(select(strategy, 7, [0])) == expected
    write(tmp_path / "a.json", range(7))
    mixture = {"datasets": [{"json_path": str(tmp_path / "a.json"), "sampling_strategy": strategy}]}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump(mixture))
    assert indexed(tmp_path, str(tmp_path / "mix.yaml")) == expected


def test_a_random_choice_depends_on_the_seed_alone(tmp_path):
    write(tmp_path / "a.json", range(1000))
    entry = {"json_path": str(tmp_path / "a.json"), "sampling_strategy": "random:10%"}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"datasets": [entry]}))
    first, again, other = (indexed(tmp_path, str(tmp_path / "mix.yaml"), seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == len(set(first)) == 100 and first == sorted(first)


def test_a_random_choice_favours_no_record():
    counts = Counter(number for seed in range(2000) for number in select("random:2", 8, [seed]))
    assert set(counts) == set(range(8))
    assert max(abs(count - 500) for count in counts.values()) < 100  # five standard deviations


@pytest.mark.parametrize("strategy", ["half", "first", "first:-1", "first:1.5", "random:x", "middle:3"])
def test_an_unknown_strategy_is_refused(strategy):
    with pytest.raises(ValueError, match="write all, first:N, end:N or random:N, with N a number of records or P%"):
        select(strategy, 7, [0])


@pytest.mark.parametrize("strategy", ["first:0", "end:0%", "random:101%"])
def test_nothing_and_more_than_everything_are_refused(strategy):
    with pytest.raises(ValueError, match="it must be at least 1, at most 100%"):
        select(strategy, 7, [0])


@pytest.mark.parametrize("strategy", ["first:8", "end:8", "random:8"])
def test_more_records_than_there_are_are_refused(tmp_path, strategy):
    write(tmp_path / "a.json", range(7))
    source = Source(tmp_path / "a.json", strategy, ())
    with pytest.raises(ValueError, match=f"'{strategy}' asks for 8 of 7 records; lower it, or say all"):
        open_index([source], tmp_path / "index", 0)
    assert not list((tmp_path / "index").glob("*/"))


# Mixtures


def test_a_mixture_may_name_image_roots_of_its_own(tmp_path):
    write(tmp_path / "a.json", [1])
    (tmp_path / "own").mkdir()
    entry = {"json_path": str(tmp_path / "a.json")}
    entries = [entry, entry | {"image_root": str(tmp_path / "own")}]
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump({"datasets": entries}))
    found = list_sources(str(tmp_path / "mix.yaml"), [str(tmp_path), "."])
    assert [source.image_roots for source in found] == [(str(tmp_path), "."), (str(tmp_path / "own"),)]


def test_a_mixture_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "mix.yaml").write_bytes("datasets: [{json_path: é.json}]".encode("latin-1"))
    with pytest.raises(ValueError, match="mix.yaml is not UTF-8 text"):
        list_sources(str(tmp_path / "mix.yaml"), str(tmp_path))


@pytest.mark.parametrize(
    "text, told",
    [
        ("datasets: [", "is not valid YAML"),
        ("- json_path: a.json", "is not a mixture: expected 'datasets', a list of entries with 'json_path'"),
        ("datasets: []", "is not a mixture"),
        ("datasets: [a.json]", "is not a mixture"),
        ("datasets: [{path: a.json}]", "an entry has the keys json_path, sampling_strategy, image_root"),
        ("datasets: [{json_path: a.json, weight: 2}]", "an entry has the keys json_path, sampling_strategy"),
        ("datasets: [{json_path: a.json, sampling_strategy: 3}]", "an entry has the keys json_path"),
        ("datasets: [{json_path: a.json, image_root: 3}]", "an entry has the keys json_path"),
        ("datasets: [{json_path: mix.yaml}]", "names the mixture mix.yaml; a mixture names data files alone"),
        ("datasets: [{json_path: 'm{a,b}.yaml'}]", "names the mixture m{a,b}.yaml; a mixture names data files alone"),
        ("datasets: &a [*a]", "is not valid YAML: an alias stands for a list or mapping; write it out"),
        (
            "a: &a [x, x]\nb: &b [*a, *a]\ndatasets: [*b, *b]",
            "is not valid YAML: an alias stands for a list or mapping",
        ),
        ("datasets: " + "[" * 5000, "is not valid YAML: it is nested too deep"),
        ("datasets: []\ndatasets: []", "is not valid YAML: the key 'datasets' is there twice"),
    ],
)
def test_a_file_that_is_no_mixture_is_refused(tmp_path, text, told):
    (tmp_path / "mix.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"mix.yaml:? {told}"):
        list_sources(str(tmp_path / "mix.yaml"), str(tmp_path))


def test_what_is_missing_is_named_before_anything_is_read(tmp_path):
    write(tmp_path / "a.json", [1])
    with pytest.raises(FileNotFoundError, match="no data file at .*b.json; see data/README.md"):
        list_sources([f"{tmp_path}/a.json", f"{tmp_path}/b.json"], str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no file .*b.yaml; see data/README.md"):
        list_sources(f"{tmp_path}/b.yaml", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no image root at .*pictures; image_root names the folders"):
        list_sources(f"{tmp_path}/a.json", [str(tmp_path), f"{tmp_path}/pictures"])
    with pytest.raises(ValueError, match="a.csv: a data file ends in .json, .jsonl, .tar, a mixture of them in .yaml"):
        list_sources(f"{tmp_path}/a.csv", str(tmp_path))
    with pytest.raises(ValueError, match="data names no file; give at least one"):
        list_sources([], str(tmp_path))


# The index


def test_the_index_holds_every_record_through_many_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "BATCH_BYTES", 100)
    ids = [f"record {number}" for number in range(300)]
    found = open_index(list_sources(str(write(tmp_path / "a.json", ids)), str(tmp_path)), tmp_path / "index", 0)
    assert ids_of(found) == ids
    assert found.table.data.table.column(0).num_chunks > 50


def test_an_index_is_made_once_and_again_when_a_file_changes(tmp_path, monkeypatch):
    written = []
    write_table = index.write_table
    monkeypatch.setattr(index, "write_table", lambda *given: written.append(given) or write_table(*given))
    file = write(tmp_path / "a.json", [1, 2])
    assert indexed(tmp_path, str(file)) == indexed(tmp_path, str(file)) == [1, 2]
    assert len(written) == 1
    write(file, [3])
    assert indexed(tmp_path, str(file)) == [3]
    os.utime(file, (0, 0))
    assert indexed(tmp_path, str(file)) == [3]
    assert len(written) == 3


def test_the_index_lies_beside_the_data_unless_told_otherwise(tmp_path):
    (tmp_path / "data").mkdir()
    sources = list_sources(str(write(tmp_path / "data" / "a.json", [1])), str(tmp_path))
    assert open_index(sources, None, 0).folder.parent == tmp_path / "data" / ".index"
    assert open_index(sources, tmp_path / "elsewhere", 0).folder.parent == tmp_path / "elsewhere"


def test_a_broken_file_leaves_no_index(tmp_path):
    (tmp_path / "a.json").write_text('[{"id": 1}, {"id": 2}')
    for _ in range(2):
        with pytest.raises(ValueError, match="a.json is not valid JSON"):
            indexed(tmp_path, str(tmp_path / "a.json"))
    assert [file.suffix for file in (tmp_path / "index").iterdir()] in ([], [".lock"])


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
@pytest.mark.parametrize("place", ["mkdir", "build"])
def test_a_folder_that_cannot_be_written_is_said_so(tmp_path, monkeypatch, number, place):
    def refuse(folder, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(folder))

    if place == "mkdir":
        monkeypatch.setattr(Path, "mkdir", refuse)
    told = f"cannot write to {tmp_path}/index, where .*: {os.strerror(number)}; name another folder as index_folder"
    with pytest.raises(OSError, match=told):
        make_once(tmp_path / "index" / "a", refuse)
    monkeypatch.undo()
    assert {file.name for file in tmp_path.glob("index/*")} <= {"a.lock"}


def test_what_cannot_be_read_is_not_called_a_folder_that_cannot_be_written(tmp_path):
    def build(draft):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "data.json"))

    with pytest.raises(PermissionError, match="data.json"):
        make_once(tmp_path / "a", build)


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    left = tmp_path / "a.draft-host-1"
    left.mkdir()
    make_once(tmp_path / "a", lambda draft: draft.mkdir())
    assert (tmp_path / "a").is_dir() and not left.exists()


def build_slowly(folder, started, goes_on, results):
    """In a process: have a folder made, and count who makes it."""

    def build(draft):
        (folder / f"built-{os.getpid()}").touch()
        started.set()
        goes_on.wait(60)
        draft.mkdir()

    make_once(folder / "index", build)
    results.put((folder / "index").is_dir())


def test_of_several_processes_one_builds_and_the_others_wait(tmp_path):
    processes = multiprocessing.get_context("fork")
    started, goes_on, results = processes.Event(), processes.Event(), processes.Queue()
    arguments = (tmp_path, started, goes_on, results)
    started_all = [processes.Process(target=build_slowly, args=arguments) for _ in range(3)]
    for process in started_all:
        process.start()
    assert started.wait(60)
    assert results.empty()
    goes_on.set()
    assert [results.get(timeout=60) for _ in started_all] == [True] * 3
    for process in started_all:
        process.join(60)
    assert len(list(tmp_path.glob("built-*"))) == 1


def test_numbers_may_be_numpys_own(tmp_path):
    write(tmp_path / "a.json", [1, 2])
    found = open_index(list_sources(str(tmp_path / "a.json"), str(tmp_path)), None, 0)
    assert parsed(found[np.int64(1)].entry)["id"] == 2


def build_for_ever(folder):
    """In a process: begin to have a folder made."""

    def build(draft):
        draft.mkdir()
        time.sleep(600)

    make_once(folder / "index", build)


def test_a_lock_is_gone_with_a_killed_process(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=build_for_ever, args=(tmp_path,))
    process.start()
    while not list(tmp_path.glob("index.draft-*")):
        time.sleep(0.01)
    process.kill()
    process.join(60)
    make_once(tmp_path / "index", lambda draft: draft.mkdir())
    assert {file.name for file in tmp_path.iterdir()} - {"index.lock"} == {"index"}
