"""Records as training reads them: pictures found, lengths exact, bad ones stopped or skipped, with their id."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from runs import small_recipe
from sample_data import KINDS, MIXED, turns, write_files

from llada_v.configuration_llada_v import IGNORE
from llada_v.data import measure
from llada_v.data.measure import MODALITIES, Encoding, Measurer
from llada_v.data.records import BadRecord, Records
from llada_v.toyworld.records import write_dataset
from llada_v.training.order import GroupedSampler, ShuffledSampler
from llada_v.training.recipe import load_recipe
from llada_v.training.records import Collator, RecordDataset
from llada_v.training.train import train

EOS = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The pictures and videos of MIXED."""
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def recipe(tiny_folder, folder, tmp_path):
    """A recipe over `data.json`, which `records_of` writes."""
    overrides = {
        "model": tiny_folder,
        "output": tmp_path / "run",
        "data": tmp_path / "data.json",
        "image_root": folder,
        "style": "chat",
        "train": "[vision_tower, projector, language_model]",
        "max_frames": "2",
        "workers": "0",
        "train_eos_padding": "false",
    }
    recipe = load_recipe("scripts/recipes/tiny/sft.yaml", {key: str(value) for key, value in overrides.items()})
    return recipe


@pytest.fixture
def dataset_of(recipe, tiny_processor, tmp_path):
    """Makes a dataset of records, with changes to the recipe."""

    def make(*records, **changes):
        file, text = tmp_path / "data.json", json.dumps(records)
        if not file.exists() or file.read_text() != text:  # a file written anew would have an index of its own
            file.write_text(text)
        return RecordDataset(replace(recipe, **changes), tiny_processor)

    return make


# Reading


def test_pictures_are_found_under_the_first_root_that_has_them(tmp_path):
    for root, names in (("a", ["x.png"]), ("b", ["x.png", "y.png"])):
        (tmp_path / root).mkdir()
        for name in names:
            Image.new("RGB", (5, 5)).save(tmp_path / root / name)
    (tmp_path / "data.json").write_text(json.dumps([{"image": ["x.png", "y.png"]}, {"id": "a7", "image": "z.png"}]))
    records = Records(str(tmp_path / "data.json"), [str(tmp_path / "a"), str(tmp_path / "b")], None, 0)
    with records.reading(0) as record:
        assert record["image"] == [tmp_path / "a" / "x.png", tmp_path / "b" / "y.png"]
    told = f"record 'a7' of .*data.json: no picture or video at z.png under any of {tmp_path}/a, {tmp_path}/b"
    with pytest.raises(BadRecord, match=told), records.reading(1):
        pass


def in_tar(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def test_a_tar_encodes_as_the_same_records_in_files_do(recipe, tiny_processor, folder, tmp_path, dataset_of):
    picked = [MIXED[number] for number in (0, 1, 3, 4)]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, record in enumerate(picked):
            names = [record.get("image", record.get("video"))]
            for name in np.atleast_1d(names[0]) if names[0] else []:
                suffix = name.rpartition(".")[2] if number != 3 else name  # that record names its files in full
                in_tar(tar, f"{number}.{suffix}", (folder / name).read_bytes())
            if number == 3:
                record = record | {"video": f"{number}.film.mp4"}
            elif number == 1:
                record = {key: value for key, value in record.items() if key != "image"}  # a bare jpg is its picture
            in_tar(tar, f"{number}.json", json.dumps(record).encode())
    found = RecordDataset(replace(recipe, data=str(tmp_path / "a.tar")), tiny_processor)
    expected = dataset_of(*picked)
    for number in range(len(picked)):
        ours, theirs = found[number], expected[number]
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_tars_record_and_its_files_must_agree_in_number(recipe, tiny_processor, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        in_tar(tar, "1.json", json.dumps({"id": "a7", "image": "nowhere.png", "conversations": turns()}).encode())
    dataset = RecordDataset(replace(recipe, data=str(tmp_path / "a.tar")), tiny_processor)
    with pytest.raises(BadRecord, match="'a7' of .*: it names 1 files as image, but the tar holds 0 beside it"):
        dataset[0]


# Bad records


BAD = [
    ({"conversations": []}, "the record has no conversations"),
    ({}, "the record has no conversations"),
    ({"conversations": [{"from": "human", "value": None}]}, "a turn has 'from'"),
    ({"conversations": turns() + turns()[1:]}, "turn 2 is from gpt; human and gpt take turns, so expected human"),
    ({"conversations": turns()[:1]}, "the last turn is from human; a record ends with an answer from gpt"),
    ({"conversations": turns(gpt=" ")}, "turn 1, an answer, is empty"),
    ({"conversations": turns("<image>"), "image": "nowhere.png"}, "no picture at .*nowhere.png"),
    ({"conversations": turns("<image>"), "image": "film.mp4"}, ".*film.mp4 is not a picture"),
    ({"conversations": turns("<image>"), "image": 3}, "a picture is a PIL image, a path or bytes, not int"),
    ({"conversations": turns("no mark"), "image": "wide.png"}, "the record has 0 <image> for 1 pictures"),
    ({"conversations": turns("<image> <image>"), "image": "wide.png"}, "the record has 2 <image> for 1 pictures"),
    ({"conversations": turns("<image>"), "video": ["film.mp4", "frames"]}, "a record has one video; this one names 2"),
    ({"conversations": turns("<image>"), "video": "wide.png"}, ".*wide.png cannot be decoded as a video"),
    ({"conversations": turns("word " * 2100)}, r"\d+ tokens are more than max_length 2048"),
]


@pytest.mark.parametrize("record, told", BAD)
def test_a_bad_record_raises_with_its_id(dataset_of, record, told):
    dataset = dataset_of({"id": "a7"} | record, record)
    for index, name in ((0, "'a7'"), (1, "1")):
        with pytest.raises(BadRecord, match=f"record {name} of .*data.json: {told}"):
            dataset[index]
    with pytest.raises(BadRecord, match=f"record 'a7' of .*data.json: {told}"):
        dataset.measures()


def test_a_line_that_is_not_json_raises_with_its_number(recipe, tiny_processor, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(MIXED[0]) + "\nno\n")
    dataset = RecordDataset(replace(recipe, data=str(tmp_path / "a.jsonl")), tiny_processor)
    with pytest.raises(BadRecord, match="record 2 of .*a.jsonl: it is not valid JSON"):
        dataset[1]


def test_a_record_at_the_limit_is_kept_whole(dataset_of):
    length = len(dataset_of(MIXED[1])[0]["input_ids"])
    assert len(dataset_of(MIXED[1], max_length=length)[0]["input_ids"]) == length
    with pytest.raises(BadRecord, match=f"{length} tokens are more than max_length {length - 1}; raise max_length or"):
        dataset_of(MIXED[1], max_length=length - 1)[0]


def test_a_bad_record_comes_out_of_a_loaders_process_as_one_line(dataset_of):
    loader = torch.utils.data.DataLoader(dataset_of({"id": "a7"}), batch_size=None, num_workers=1)
    with pytest.raises(BadRecord) as caught:
        next(iter(loader))
    assert str(caught.value).startswith("record 'a7' of ") and "Traceback" not in str(caught.value)


def test_a_skipped_record_trains_nothing_and_is_noted_once(dataset_of, tmp_path):
    dataset = dataset_of(MIXED[0], {"id": "a7"}, on_bad_record="skip", max_bad_share=0.5)
    for _ in range(2):
        skipped = dataset[1]
    assert skipped["labels"].tolist() == [IGNORE] and len(skipped["input_ids"]) == 1
    notes = [json.loads(line) for line in (tmp_path / "run" / "bad_records.jsonl").read_text().splitlines()]
    assert len(notes) == 1 and notes[0]["number"] == 1
    assert notes[0]["reason"].startswith("record 'a7' of ") and notes[0]["reason"].endswith("no conversations")


@pytest.mark.parametrize("train_eos_padding", [True, False])
def test_the_filler_of_a_skipped_record_has_no_label(dataset_of, train_eos_padding):
    dataset = dataset_of(MIXED[0], {}, on_bad_record="skip", max_bad_share=0.5)
    batch = Collator(EOS, train_eos_padding, pad_to_multiple_of=256)([dataset[0], dataset[1]])
    assert (batch["labels"][1] == IGNORE).all()
    assert (batch["labels"][0] == EOS).sum() == (train_eos_padding * (batch["input_ids"][0] == EOS)).sum()
    assert train_eos_padding or batch["attention_mask"][1].sum() == 1  # a row that sees nothing has no softmax


def test_more_bad_records_than_allowed_stop_the_run(dataset_of):
    dataset = dataset_of(MIXED[0], {}, MIXED[0], {}, on_bad_record="skip", max_bad_share=0.25)
    dataset[1]
    told = "2 of 4 records are bad, more than max_bad_share 0.25; .*run/bad_records.jsonl lists them"
    with pytest.raises(BadRecord, match=told):
        dataset[3]
    with pytest.raises(BadRecord, match=told):
        dataset_of(MIXED[0], {}, MIXED[0], {}, on_bad_record="skip", max_bad_share=0.25).measures()


def test_processes_count_bad_records_together(dataset_of):
    given = [MIXED[0], {}, MIXED[0], {}]
    first, second = (dataset_of(*given, on_bad_record="skip", max_bad_share=0.25) for _ in range(2))
    first[1]
    with pytest.raises(BadRecord, match="2 of 4 records are bad"):
        second[3]


# Lengths


def test_lengths_are_exactly_those_of_the_encoded_records(dataset_of):
    dataset = dataset_of(*MIXED)
    lengths, modalities = dataset.measures()
    assert lengths.tolist() == [len(dataset[number]["input_ids"]) for number in range(len(MIXED))]
    assert [MODALITIES[modality] for modality in modalities] == KINDS


def test_lengths_of_captions_are_exact_too(tmp_path, recipe, tiny_processor):
    toys = write_dataset(tmp_path / "toys", "train", 5, seed=0, style="caption")
    recipe = replace(recipe, data=str(toys / "records.json"), image_root=str(toys), style="caption")
    dataset = RecordDataset(recipe, tiny_processor)
    assert dataset.measures()[0].tolist() == [len(dataset[number]["input_ids"]) for number in range(5)]


def test_random_numbers_do_not_tell_whether_lengths_were_made_or_were_there(dataset_of):
    dataset, state = dataset_of(*MIXED), torch.get_rng_state()
    for _ in range(2):
        dataset.measures()
        assert torch.equal(torch.get_rng_state(), state)


def test_lengths_are_found_without_decoding(dataset_of, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *args: pytest.fail("a picture was decoded"))
    monkeypatch.setattr("decord.VideoReader.get_batch", lambda *args: pytest.fail("a video was decoded"))
    assert len(dataset_of(*MIXED).measures()[0]) == len(MIXED)


def test_lengths_are_found_once(dataset_of, monkeypatch):
    expected = dataset_of(*MIXED).measures()[0].tolist()
    monkeypatch.setattr(measure.Measurer, "measure", lambda *args: pytest.fail("measured again"))
    assert dataset_of(*MIXED).measures()[0].tolist() == expected


def test_lengths_are_found_again_for_other_settings(dataset_of):
    few = dataset_of(*MIXED, max_frames=1).measures()[0]
    assert (few[KINDS.index("video")] < dataset_of(*MIXED, max_frames=2).measures()[0][KINDS.index("video")]).all()


def test_lengths_count_the_tiles_that_a_limit_leaves(dataset_of):
    few = dataset_of(*MIXED, max_tiles=2)
    lengths = few.measures()[0].tolist()
    assert lengths == [len(few[number]["input_ids"]) for number in range(len(few))]
    assert lengths != dataset_of(*MIXED).measures()[0].tolist()


def test_several_processes_measure_the_same(dataset_of, monkeypatch):
    monkeypatch.setattr(measure, "CHUNK", 2)
    dataset = dataset_of(*MIXED)
    measurer = Measurer(dataset.records, dataset.processor, Encoding("chat", 2, 2048))
    alone, together = (
        [found for chunk in measure.measure_all(measurer, workers, "test") for found in chunk] for workers in (0, 2)
    )
    assert alone == together and len(alone) == len(MIXED)


def test_a_skipped_record_has_the_length_it_trains_with(dataset_of):
    given = [MIXED[0], {}, MIXED[1]]
    skipping = dict(on_bad_record="skip", max_bad_share=0.5)
    for _ in range(2):  # measured, then read back
        lengths, modalities = dataset_of(*given, **skipping).measures()
        assert lengths[1] == 1 and lengths[0] > 1
        assert modalities.tolist() == [0, 0, 1]
    with pytest.raises(BadRecord, match="record 1 of .*: the record has no conversations"):
        dataset_of(*given).measures()


# Orders


LENGTHS = np.array([(37 * number) % 101 for number in range(1010)])
ONE_KIND = np.zeros(1010, np.int8)
THREE_KINDS = np.arange(1010, dtype=np.int8) % 7 // 3  # of unequal numbers


@pytest.mark.parametrize("modalities", [ONE_KIND, THREE_KINDS], ids=["one kind", "three kinds"])
def test_an_epoch_is_a_permutation_that_can_be_repeated(modalities):
    sampler = GroupedSampler(LENGTHS, modalities, batch_size=4, seed=1)
    assert len(sampler) == 1010
    first = list(sampler)
    assert sorted(first) == list(range(1010)) and list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first and sorted(second) == list(range(1010))
    assert list(GroupedSampler(LENGTHS, modalities, batch_size=4, seed=2)) != first


def batches_of(order, size=4):
    return [order[start : start + size] for start in range(0, len(order), size)]


def test_records_of_a_step_are_taken_by_chance_and_the_longest_come_first():
    for seed in range(5):
        steps = [[int(LENGTHS[index]) for index in batch] for batch in batches_of(grouped(LENGTHS, seed))]
        assert all(step == sorted(step, reverse=True) for step in steps)
        spreads = [max(step) - min(step) for step in steps]
        assert sum(spreads) / len(spreads) > 50  # by chance about 60; sorted over many steps below 5


def test_long_answers_are_spread_over_the_steps_as_by_chance():
    """As in the original, whose order of lengths ends at a global batch."""
    lengths = np.where(np.random.default_rng(0).random(16_000) < 0.3, 1000, 100)
    by_chance = np.sqrt(0.3 * 0.7 / 16)
    for seed in range(3):
        shares = (lengths[np.array(grouped(lengths, seed, 16)).reshape(-1, 16)] == 1000).mean(1)
        assert shares.std() == pytest.approx(by_chance, rel=0.1)
        assert (shares == 0).mean() < 0.01


def test_records_that_are_padded_together_are_of_similar_length():
    order = grouped(LENGTHS, 0, 100)
    spread, by_chance = (
        np.mean([np.ptp(LENGTHS[rows]) for rows in batches_of(numbers)]) for numbers in (order, range(len(LENGTHS)))
    )
    assert spread < by_chance / 5


def grouped(lengths, seed, size=4):
    """An epoch of records of one kind."""
    return list(GroupedSampler(lengths, np.zeros(len(lengths)), size, seed))


def test_records_of_a_batch_are_of_one_modality_but_for_what_is_left_over():
    for seed in range(5):
        order = list(GroupedSampler(LENGTHS, THREE_KINDS, batch_size=4, seed=seed))
        mixed = [batch for batch in batches_of(order) if len(set(THREE_KINDS[batch])) > 1]
        assert len(mixed) <= 3  # at most three records of each kind are left over
        assert len(order[-2:]) == 2 and len(batches_of(order)[-1]) == 2  # the batch that is not full comes last


def test_fewer_records_than_a_batch_are_all_there():
    order = list(GroupedSampler(LENGTHS[:3], THREE_KINDS[:3], batch_size=4, seed=0))
    assert sorted(order) == [0, 1, 2]


def test_index_and_lengths_are_made_before_a_device_is_taken(tiny_folder, toys, tmp_path, monkeypatch):
    def taken(*args):
        raise InterruptedError("a device")

    monkeypatch.setattr("llada_v.training.train.training_arguments", taken)
    recipe = small_recipe(tiny_folder, toys, tmp_path / "run", index_folder=str(tmp_path / "index"))
    with pytest.raises(InterruptedError):
        train(replace(recipe, group_by_length=True))
    assert list((tmp_path / "index").glob("*/records.arrow")) and list((tmp_path / "index").glob("*/lengths.npy"))


def test_a_plain_order_is_a_permutation_that_can_be_repeated():
    sampler = ShuffledSampler(25_000, seed=1)
    first = list(sampler)
    assert len(sampler) == 25_000 and sorted(first) == list(range(25_000)) and list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first


@pytest.mark.parametrize("modalities", [ONE_KIND, THREE_KINDS], ids=["one kind", "three kinds"])
def test_records_in_order_move_within_fifty_batches_only(modalities):
    sampler = GroupedSampler(LENGTHS, modalities, batch_size=4, seed=3, in_order=True)
    order = list(sampler)
    assert sorted(order) == list(range(len(LENGTHS)))
    window = 4 * GroupedSampler.WINDOW
    assert [number // window for number in order] == sorted(number // window for number in order)
    assert order[:window] != list(range(window))
    mixed = [batch for batch in batches_of(order) if len(set(modalities[batch])) > 1]
    assert len(mixed) <= 2 * -(-len(order) // window)  # what is left over of a kind
