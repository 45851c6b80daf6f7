"""Data files to entries: every record once and in order, however the file is cut; what is wrong with a file is said."""

import io
import itertools
import json
import tarfile

import pytest
from PIL import Image

from llada_v.data import sources
from llada_v.data.sources import Entry, name_of, parsed, read_entries

RECORDS = [
    {"id": 1, "text": 'a "quoted" } ] , { [ \\ word', "deep": {"list": [1, [2, {"x": None}], "}"]}},
    {},
    {"id": "é – 漢字 🙂", "numbers": [1, -2.5, 1e-9, True, False, None], "line": "a\nb\tc"},
]


def texts_of(file) -> list[dict]:
    return [parsed(entry) for entry in read_entries(file)]


def numbers_of(file) -> list[int]:
    return [entry.number for entry in read_entries(file)]


# JSON arrays


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"ensure_ascii": False}], ids=str)
def test_an_array_reads_the_same_however_it_is_cut(tmp_path, monkeypatch, chunk, options):
    monkeypatch.setattr(sources, "CHUNK", chunk)
    file = tmp_path / "a.json"
    file.write_text("\ufeff \n" + json.dumps(RECORDS, **options) + "\n\n", encoding="utf-8")
    assert texts_of(file) == RECORDS
    assert numbers_of(file) == [0, 1, 2]


def test_an_entry_is_the_records_text_as_it_stands_in_the_file(tmp_path):
    (tmp_path / "a.json").write_text('[ {"a":  1} ,\n{"b": "\\ud83d"}]')
    assert [entry.text for entry in read_entries(tmp_path / "a.json")] == [b'{"a":  1}', b'{"b": "\\ud83d"}']


def test_an_array_is_never_held_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK", 1000)
    file = tmp_path / "a.json"
    file.write_text(json.dumps([{"id": number, "text": "word " * 20} for number in range(500)]))
    held = []
    read_more = sources.ArrayBuffer.read_more

    def watched(buffer):
        found = read_more(buffer)
        held.append(len(buffer.text))
        return found

    monkeypatch.setattr(sources.ArrayBuffer, "read_more", watched)
    assert len(texts_of(file)) == 500
    assert max(held) < 1500 < file.stat().st_size


BROKEN = [
    ("", "must hold an array of records, but it is empty"),
    ('{"id": 1}', "must hold an array of records, but it starts with '{'; JSON Lines end in .jsonl"),
    ("words", "must hold an array of records, but it starts with 'w'"),
    ("[", "is not valid JSON: the array is not closed .character 1."),
    ('[{"id": 1}', "is not valid JSON: the array is not closed"),
    ('[{"id": 1},', "is not valid JSON: the array is not closed"),
    ('[{"id": 1},]', "is not valid JSON: record 1: Expecting value .character 11."),
    ('[{"id": 1} {"id": 2}]', "is not valid JSON: expected ',' or ']', found '{'"),
    ('[{"id": 1}] x', "is not valid JSON: the array is closed, but 'x' follows"),
    ('[{"id": "a', "is not valid JSON: record 0: Unterminated string"),
    ('[{"id": 1}, {"id" 2}, ' + '{"id": 3}, ' * 50 + "{}]", "is not valid JSON: record 1: Expecting ':' delimiter"),
    ("[{}, 1]", r"must hold an array of records \(JSON objects\); number 1 is 1"),
    ("[]", "holds no record; expected at least one"),
]


@pytest.mark.parametrize("chunk", [4, 1 << 20])
@pytest.mark.parametrize("text, told", BROKEN)
def test_a_broken_array_is_refused_with_the_place(tmp_path, monkeypatch, chunk, text, told):
    monkeypatch.setattr(sources, "CHUNK", chunk)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=f"a.json {told}"):
        texts_of(tmp_path / "a.json")


def test_a_mistake_deep_in_a_file_is_found_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK", 100)
    good = json.dumps([{"id": number} for number in range(100)])[:-1]
    (tmp_path / "a.json").write_text(good + ", {'id': 1}]")
    with pytest.raises(ValueError, match=rf"record 100: .*character {len(good) + 3:,}"):
        texts_of(tmp_path / "a.json")


def test_what_is_not_text_is_refused_by_name(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"id": "\xff"}]')
    with pytest.raises(ValueError, match="a.json is not UTF-8 text"):
        texts_of(tmp_path / "a.json")


# JSON Lines


def test_lines_are_numbered_as_an_editor_does(tmp_path):
    lines = "\ufeff" + "\n\n".join(json.dumps(record) for record in RECORDS) + "\r\n  \n"
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    assert texts_of(tmp_path / "a.jsonl") == RECORDS
    assert numbers_of(tmp_path / "a.jsonl") == [1, 3, 5]


@pytest.mark.parametrize(
    "line, told",
    [
        (b"no", "it is not valid JSON"),
        (b"\xff\xfe{", "it is not UTF-8 text .byte 0 is 0xff.; convert its file"),
        (b"[1]", "a record is a JSON object"),
    ],
)
def test_a_line_that_is_no_record_is_an_entry_that_cannot_be_parsed(tmp_path, line, told):
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 1}\n' + line + b'\n{"id": 3}\n')
    first, bad, last = read_entries(tmp_path / "a.jsonl")
    assert (parsed(first), parsed(last), bad.number) == ({"id": 1}, {"id": 3}, 2)
    with pytest.raises(ValueError, match=told):
        parsed(bad)


# Tars


def png(size) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size).save(stream, "png")
    return stream.getvalue()


def write_tar(file, members, mode="w"):
    with tarfile.open(file, mode) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


def test_a_tars_samples_are_its_files_side_by_side(tmp_path):
    members = [
        ("a/1.jpg", png((3, 4))),
        ("a/1.json", b'{"id": 1}\n'),
        ("a/2.json", b'{"id": 2}'),
        ("a/2.left.png", png((5, 6))),
        ("a/2.right.png", png((7, 8))),
        ("a/2.txt", b"for its reader to refuse"),
        ("b/2.json", b'{"id": 3}'),
    ]
    file = write_tar(tmp_path / "a.tar", members)
    first, second, third = read_entries(file)
    assert [parsed(entry)["id"] for entry in (first, second, third)] == [1, 2, 3]
    assert [[blob.name for blob in entry.blobs] for entry in (first, second, third)] == [
        ["1.jpg"],
        ["2.left.png", "2.right.png", "2.txt"],
        [],
    ]
    raw = file.read_bytes()
    for blob, content in zip(first.blobs + second.blobs, (members[0], *members[3:6]), strict=True):
        assert raw[blob.offset : blob.offset + blob.size] == content[1]


def test_a_sample_without_a_record_is_refused_by_name(tmp_path):
    file = write_tar(tmp_path / "a.tar", [("s/1.jpg", png((3, 4))), ("s/2.json", b"{}")])
    with pytest.raises(ValueError, match="a.tar has no s/1.json beside the other files of that sample"):
        list(read_entries(file))


@pytest.mark.parametrize("mode", ["w:gz", "cut"])
def test_a_tar_that_cannot_be_read_by_offsets_is_refused_by_name(tmp_path, mode):
    file = write_tar(tmp_path / "a.tar", [("1.json", b'{"id": 1}' * 500)], "w" if mode == "cut" else mode)
    if mode == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match="a.tar cannot be read as an uncompressed tar"):
        list(read_entries(file))


LEFT_BEHIND = ["._1.json", "a/._1.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/a/._1.png", "@eaDir/1.png"]


def test_what_desktops_leave_in_a_tar_is_passed_over(tmp_path):
    members = [(name, b"junk") for name in LEFT_BEHIND]
    members += [("./a/1.json", b'{"id": 1}'), *members[:4], ("./a/1.png", png((3, 4))), *members[4:]]
    (entry,) = read_entries(write_tar(tmp_path / "a.tar", members))
    assert parsed(entry) == {"id": 1} and [blob.name for blob in entry.blobs] == ["1.png"]


def test_a_record_that_is_there_twice_is_refused(tmp_path):
    file = write_tar(tmp_path / "a.tar", [("1.json", b"{}"), ("1.json", b"{}")])
    with pytest.raises(ValueError, match="a.tar has 1.json twice"):
        list(read_entries(file))


# What a record must not be


DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
ODD = {
    "a lone surrogate": (b'{"a": ["\\udc80"]}', r"it holds half a character, '\\udc80' \(a lone surrogate\)"),
    "nested": (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "it is not valid JSON: it is nested more than 64 deep"),
    "nested past the parser's end": (DEEP, "it is nested more than 64 deep"),
    "not a number": (b'{"a": NaN}', "it is not valid JSON: NaN is no number of JSON; write null"),
    "infinite": (b'{"a": -Infinity}', "-Infinity is no number of JSON"),
    "huge": (b'{"a": 1e999}', "1e999 is no number of JSON"),
    "too many digits": (b'{"a": ' + b"1" * 5000 + b"}", "it is not valid JSON: .*4300 digits"),
    "a key twice": (b'{"a": {"b": 1, "b": 2}}', "the key 'b' is there twice"),
    "Latin-1": ('{"a": "é"}'.encode("latin-1"), "it is not UTF-8 text .byte 7 is 0xe9.; .* iconv -f LATIN1 -t UTF-8"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_would_break_or_lose_something_later_is_one_bad_record(tmp_path, name):
    text, told = ODD[name]
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 1}\n' + text + b'\n{"id": "\\ud83d\\ude00"}\n')
    first, odd, last = read_entries(tmp_path / "a.jsonl")
    assert parsed(first) == {"id": 1} and parsed(last) == {"id": "\U0001f600"}
    with pytest.raises(ValueError, match=told):
        parsed(odd)


@pytest.mark.parametrize("name", set(ODD) - {"nested past the parser's end", "Latin-1"})
def test_in_an_array_too_only_the_odd_record_is_bad(tmp_path, name):
    (tmp_path / "a.json").write_bytes(b"[{}, " + ODD[name][0] + b', {"id": 3}]')
    first, odd, last = read_entries(tmp_path / "a.json")
    assert parsed(last) == {"id": 3}
    with pytest.raises(ValueError, match=ODD[name][1]):
        parsed(odd)


def test_a_record_nested_past_the_parsers_end_is_refused(tmp_path):
    """By the place in the array where Python's parser gives up, by the record where, as from 3.13 on, it reads on."""
    (tmp_path / "a.json").write_bytes(b"[{}, " + DEEP + b"]")
    with pytest.raises(ValueError, match="it is nested more than 64 deep"):
        for entry in read_entries(tmp_path / "a.json"):
            parsed(entry)


@pytest.mark.parametrize(
    "text, name", [(b'{"id": "a7"}', "'a7'"), (b'{"id": null}', "3"), (b"[]", "3"), (b"no", "3"), (DEEP, "3")]
)
def test_errors_call_a_record_by_its_id_or_else_its_number(text, name):
    assert name_of(Entry(text, 3)) == name
    assert len(name_of(Entry(b'{"id": "' + b"a" * 1000 + b'"}', 3))) == 80


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_another_encoding_is_one_error_that_says_how_to_convert(tmp_path, suffix, encoding):
    file = tmp_path / f"a{suffix}"
    file.write_bytes(('{"id": 1}\n' * 3).encode(encoding))
    kind, order = encoding[:6].upper(), encoding[7:].upper()
    told = f"{file} is {kind} text, not UTF-8; convert it: iconv -f {kind}{order} -t UTF-8 {file} > NEW"
    with pytest.raises(ValueError) as caught:
        list(read_entries(file))
    assert str(caught.value) == told


# Any file


def test_a_missing_or_unknown_file_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data file at .*a.json; see data/README.md"):
        next(read_entries(tmp_path / "a.json"))
    with pytest.raises(ValueError, match="a.csv is not a kind of data file that can be read; expected one of .json, "):
        next(read_entries(tmp_path / "a.csv"))


def test_a_file_is_read_no_further_than_asked(tmp_path):
    (tmp_path / "a.json").write_text('[{"id": 1}, {"id": 2}, wrong')
    first = list(itertools.islice(read_entries(tmp_path / "a.json"), 2))
    assert first == [Entry(b'{"id": 1}', 0), Entry(b'{"id": 2}', 1)]
