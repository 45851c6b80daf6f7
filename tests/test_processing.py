"""Prompts and training records: ids and labels of the original, one placeholder per feature, one clear error each."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from published import PLACEHOLDER, golden, pattern
from transformers import PreTrainedTokenizerFast

from llada_v import LladaVConfig, LladaVProcessor
from llada_v.anyres import Layout
from llada_v.configuration_llada_v import IGNORE
from llada_v.conversation import CHAT_TEMPLATE, SYSTEM_PROMPT, picture_first, pieces_of, user_message
from llada_v.modeling_llada_v import LladaVModel
from llada_v.toyworld.tiny import tiny_config

LABELS = {record["name"]: record for record in golden("labels")}
PROMPTS = golden("prompts")
SQUARE = Image.new("RGB", (384, 384), "red")
FRAMES = [np.full((30, 40, 3), 9, np.uint8)] * 4
MASK_NOTHING = dict(return_tensors="pt", add_generation_prompt=True)


@pytest.fixture(scope="module")
def original(processor):
    """The processor that writes prompts as the original does."""
    return LladaVProcessor(processor.tokenizer, processor.config, reproduce_original=True)


def folded(ids, config) -> list[int]:
    """Ids with each picture's run of placeholders as one mark, as the figures have it."""
    kept = []
    for token in list(ids):
        token = PLACEHOLDER if token == config.image_token_id else int(token)
        if token != PLACEHOLDER or kept[-1:] != [PLACEHOLDER]:
            kept.append(token)
    return kept


def record_of(human: str, gpt: str = "Yes.", **pictures) -> dict:
    return {"conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}], **pictures}


def question(text: str = "What?", images=(), videos=()) -> list[dict]:
    """A conversation that asks once."""
    parts = [{"type": "image", "image": image} for image in images]
    parts += [{"type": "video", "video": video} for video in videos]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def count_of(processor, ids) -> int:
    """Placeholders among the ids."""
    return int((torch.as_tensor(ids) == processor.config.image_token_id).sum())


# The figures of the original


@pytest.mark.parametrize("name", LABELS)
def test_ids_and_labels_of_a_record_are_those_of_the_original(processor, name):
    record = LABELS[name]
    count = sum(turn["value"].count("<image>") for turn in record["conversations"])
    pictures = {"image": [SQUARE] * count} if record["has_image"] else {}
    style = "caption" if record["plain"] else "chat"
    encoded = processor.encode_record({"conversations": record["conversations"]} | pictures, style=style)
    ids, labels = encoded["input_ids"], encoded["labels"]
    is_picture = ids == processor.config.image_token_id
    assert (labels[is_picture] == IGNORE).all()
    assert folded(ids, processor.config) == record["input_ids"]
    # One label a picture: the first of its run.
    is_first = ~is_picture | (torch.cat((torch.tensor([True]), ~is_picture[:-1])))
    assert labels[is_first].tolist() == record["labels"]


@pytest.mark.parametrize("index", range(len(PROMPTS)))
def test_prompts_are_those_of_the_original(original, index):
    record, messages = PROMPTS[index], []
    for human, gpt in record["turns"]:
        has_picture = "<image>" in human
        text = human.replace("<image>\n", "")
        messages += question(text, images=[SQUARE] * has_picture)
        messages += [{"role": "assistant", "content": gpt}] if gpt else []
    assert original.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == record["prompt"]
    encoded = original.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert folded(encoded["input_ids"][0], original.config) == record["input_ids"]


def test_a_prompt_reads_like_the_training_data(processor):
    encoded = processor.encode_record(record_of("<image>\nWhat?", image=SQUARE))
    messages = [*question("What?", [SQUARE]), {"role": "assistant", "content": "Yes."}]
    prompt = processor.apply_chat_template(messages, return_tensors="pt", tokenize=True, return_dict=True)
    assert torch.equal(prompt["input_ids"][0], encoded["input_ids"])
    assert torch.equal(prompt["pixel_values"], encoded["pixel_values"])


def test_the_token_behind_a_picture_is_kept_unless_the_original_is_asked_for(processor, original):
    newline, first = processor.encode("\n")[0], processor.encode("What")[0]
    for written, expected in ((processor, [newline, first]), (original, [first])):
        ids = folded(
            written.apply_chat_template(question("What?", [SQUARE]), tokenize=True, return_dict=True)["input_ids"][0],
            written.config,
        )
        start = ids.index(PLACEHOLDER) + 1
        assert ids[start : start + len(expected)] == expected


# Where <image> stands


@pytest.mark.parametrize(
    "text, expected",
    [
        ("What is <image> this?  ", "<image>\nWhat is  this?"),  # the space on either side of it stays
        ("What? <image>", "<image>\nWhat?"),
        (" <image>", "<image>"),
        ("<image>What?", "<image>What?"),
        ("<image>\n What? ", "<image>\n What? "),
        ("A <image> and <image>", "A <image> and <image>"),
        (" no picture ", " no picture "),
    ],
)
def test_a_single_picture_moves_to_the_front_of_its_message(text, expected):
    pieces = picture_first(pieces_of(text, has_pictures=True))
    assert "".join("<image>" if piece is None else piece for piece in pieces) == expected


def test_the_rule_holds_for_each_message_of_a_record(processor):
    turns = [("human", "One <image>"), ("gpt", "See <image> here"), ("human", "<image> or <image>?"), ("gpt", "a")]
    conversations = [{"from": role, "value": text} for role, text in turns]
    encoded = processor.encode_record({"conversations": conversations, "image": [SQUARE] * 4})
    text = processor.decode(folded_text(encoded["input_ids"], processor))
    for content in ("user<|end_header_id|>\n\n@\nOne", "assistant<|end_header_id|>\n\n@\nSee  here", "\n\n@ or @?"):
        assert content in text


def folded_text(ids, processor) -> list[int]:
    """Ids with an @ for each picture."""
    at = processor.encode("@")[0]
    return [at if token == PLACEHOLDER else token for token in folded(ids, processor.config)]


def test_pictures_in_front_of_a_question_stand_as_in_training(processor):
    def written(*content):
        return processor.apply_chat_template([{"role": "user", "content": list(content)}], tokenize=False)

    picture, text = {"type": "image", "image": SQUARE}, {"type": "text", "text": "What?"}
    assert "\n\n<image>\nWhat?<|eot_id|>" in written(picture, text)
    assert "\n\n<image>\nWhat?<|eot_id|>" in written(text, picture)
    assert "\n\n<image> <image>\nWhat?<|eot_id|>" in written(picture, picture, text)
    assert "\n\n<image>\nWhat?<|eot_id|>" in written(picture, {"type": "text", "text": "\nWhat?"})


def test_a_left_over_of_the_data_is_removed(processor):
    clean = processor.encode_record(record_of("Hi"))["input_ids"]
    assert torch.equal(processor.encode_record(record_of("QA_GT_caption_based_noisyHi"))["input_ids"], clean)


# How many placeholders


def test_one_picture_has_full_resolution(processor, original):
    for written in (processor, original):
        encoded = written.apply_chat_template(
            question(images=[SQUARE]), return_tensors="pt", tokenize=True, return_dict=True
        )
        assert count_of(written, encoded["input_ids"]) == 1485
        assert encoded["pixel_values"].shape == (2, 3, 384, 384)
        assert encoded["image_sizes"].tolist() == [[384, 384]]
        assert encoded["image_layouts"].tolist() == [[Layout.ANYRES, 2]]


def test_several_pictures_have_one_tile_each(processor, original):
    pictures = [SQUARE, pattern(500, 100, 1)]
    for written, count, layout in ((processor, 730, Layout.SQUARE), (original, 729, Layout.FLAT)):
        encoded = written.apply_chat_template(
            question(images=pictures), return_tensors="pt", tokenize=True, return_dict=True
        )
        assert count_of(written, encoded["input_ids"]) == 2 * count
        assert encoded["pixel_values"].shape == (2, 3, 384, 384)
        assert encoded["image_sizes"].tolist() == [[384, 384], [100, 500]]
        assert encoded["image_layouts"].tolist() == [[layout, 1]] * 2


@pytest.mark.parametrize("most, tiles, features", [(None, 7, 3640), (4, 3, 1998), (1, 1, 730)])
def test_a_limit_of_tiles_makes_a_picture_shorter_and_the_model_lays_it_out_the_same(processor, most, tiles, features):
    picture = Image.new("RGB", (1000, 600))
    options = {} if most is None else {"max_tiles": most}
    found = processor.apply_chat_template(
        [user_message("What?", [picture])], tokenize=True, return_dict=True, return_tensors="pt", **options
    )
    assert len(found["pixel_values"]) == tiles
    assert (found["input_ids"] == processor.config.image_token_id).sum() == features
    packed = SimpleNamespace(config=processor.config, newline_like=lambda features: torch.zeros(4))
    layout = Layout(int(found["image_layouts"][0, 0]))
    assert len(LladaVModel.pack(packed, torch.zeros(tiles, 729, 4), layout, 600, 1000)) == features
    record = {
        "image": picture,
        "conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "a"}],
    }
    assert len(processor.encode_record(record, max_tiles=most)["pixel_values"]) == tiles


def test_a_limit_of_tiles_is_saved_with_the_processor(tiny_processor, tmp_path):
    tiny_processor.save_pretrained(tmp_path)
    LladaVProcessor.from_pretrained(tmp_path, max_tiles=2).save_pretrained(tmp_path)
    limited = LladaVProcessor.from_pretrained(tmp_path)
    assert limited.image_processor.max_tiles == 2
    assert len(limited.image_processor(Image.new("RGB", (144, 144)))["pixel_values"]) == 2
    with pytest.raises(ValueError, match="max_tiles is 0; it must be a whole number of at least 1"):
        limited.image_processor(Image.new("RGB", (144, 144)), max_tiles=0)


def test_a_list_of_one_picture_is_one_picture(processor):
    one, listed = (processor.encode_record(record_of("<image>\nHi", image=image)) for image in (SQUARE, [SQUARE]))
    assert torch.equal(one["input_ids"], listed["input_ids"]) and count_of(processor, one["input_ids"]) == 1485


def test_a_caption_record_has_one_plain_tile(processor):
    encoded = processor.encode_record(record_of("<image>", "red", image=pattern(500, 100, 1)), style="caption")
    assert count_of(processor, encoded["input_ids"]) == 729
    assert encoded["image_layouts"].tolist() == [[Layout.FLAT, 1]]


def test_a_video_has_fourteen_rows_a_frame(processor):
    encoded = processor.apply_chat_template(
        question(videos=[FRAMES]), return_tensors="pt", tokenize=True, return_dict=True
    )
    assert count_of(processor, encoded["input_ids"]) == 4 * 14 * 15
    assert encoded["pixel_values"].shape == (4, 3, 384, 384)
    assert encoded["image_sizes"].tolist() == [[30, 40]]
    assert encoded["image_layouts"].tolist() == [[Layout.VIDEO, 4]]


def test_a_video_record_has_a_capped_number_of_frames(processor, tmp_path):
    for number in range(40):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number:02d}.png")  # twenty seconds
    record = record_of("<image>\nWhat?", video=tmp_path.name)
    for max_frames, frames in ((0, 20), (32, 20), (5, 5)):
        encoded = processor.encode_record(record, image_root=tmp_path.parent, max_frames=max_frames)
        assert encoded["image_layouts"].tolist() == [[Layout.VIDEO, frames]]
        assert count_of(processor, encoded["input_ids"]) == frames * 14 * 15


def test_a_picture_wins_over_a_video(processor):
    encoded = processor.encode_record(record_of("<image>\nWhat?", image=SQUARE, video="nowhere.mp4"))
    assert encoded["image_layouts"].tolist() == [[Layout.ANYRES, 2]]


# Counts that do not match


COUNTS = [("no mark", 0, 1), ("<image> mark", 1, 2), ("<image> <image>", 2, 1), ("<image> <image> <image>", 3, 2)]


@pytest.mark.parametrize("text, written, given", COUNTS)
def test_a_record_needs_one_mark_a_picture(processor, text, written, given):
    with pytest.raises(ValueError, match=f"the record has {written} <image> for {given} pictures"):
        processor.encode_record(record_of(text, image=[SQUARE] * given))


@pytest.mark.parametrize("text, written, given", [*COUNTS, ("<image>", 1, 0)])
def test_a_finished_prompt_needs_one_mark_a_picture(processor, text, written, given):
    with pytest.raises(ValueError, match=f"the text has {written} <image> for {given} pictures"):
        processor(text=text, images=[SQUARE] * given)


@pytest.mark.parametrize("given", [0, 1, 2])
def test_a_mark_written_into_a_message_is_text(processor, given):
    encoded = processor.apply_chat_template(
        question("What is <image>?", images=[SQUARE] * given), tokenize=True, return_dict=True
    )
    assert "What is <image>?<|eot_id|>" in processor.decode(encoded["input_ids"][0])
    features = [0, 1485, 2 * 730][given]
    assert count_of(processor, encoded["input_ids"]) == features


def test_a_mark_in_a_record_without_pictures_is_plain_text(processor):
    for record in (record_of("What does <image> do?"), record_of("What does <image> do?", image=None, video=None)):
        encoded = processor.encode_record(record)
        assert "user<|end_header_id|>\n\nWhat does <image> do?<|eot_id|>" in processor.decode(encoded["input_ids"])
        assert set(encoded) == {"input_ids", "labels"}


# Finished prompts


def test_finished_prompts_take_their_pictures_in_order(processor):
    other = pattern(300, 200, 1)
    texts = ["<image>one", "none", "<image> <image>two"]
    batch = processor(text=texts, images=[other, SQUARE, other], return_tensors="pt")
    assert [count_of(processor, row) for row in batch["input_ids"]] == [1261, 0, 1460]
    assert batch["image_layouts"].tolist() == [[Layout.ANYRES, 2], [Layout.SQUARE, 1], [Layout.SQUARE, 1]]
    nested = processor(text=texts, images=[[other], [], [SQUARE, other]], return_tensors="pt")
    assert all(torch.equal(batch[key], nested[key]) for key in batch)


def test_a_finished_prompt_is_written_as_it_is(processor):
    text = processor.apply_chat_template(question(images=[SQUARE]), add_generation_prompt=True, tokenize=False)
    expected = processor.apply_chat_template(question(images=[SQUARE]), **MASK_NOTHING, tokenize=True, return_dict=True)
    found = processor(text=text, images=SQUARE, return_tensors="pt")
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_finished_prompt_takes_a_video(processor):
    found = processor(text="<image>What?", videos=[FRAMES], return_tensors="pt")
    assert found["image_layouts"].tolist() == [[Layout.VIDEO, 4]]
    with pytest.raises(ValueError, match="give images or videos, not both"):
        processor(text="<image>What?", images=[SQUARE], videos=[FRAMES])


@pytest.mark.parametrize("text", [None, "", []])
def test_pictures_without_text_are_refused(processor, text):
    with pytest.raises(ValueError, match="the processor needs text"):
        processor(text=text, images=[SQUARE])


# Conversations


def test_the_system_prompt_of_training_is_put_in_front_unless_there_is_one(processor):
    text = processor.apply_chat_template(question(), tokenize=False)
    assert text.startswith(f"<|startoftext|><|start_header_id|>system<|end_header_id|>\n\n{SYSTEM_PROMPT}<|eot_id|>")
    mine = [{"role": "system", "content": "Be brief."}, *question()]
    text = processor.apply_chat_template(mine, tokenize=False)
    assert text.startswith("<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>")
    assert text.count("system") == 1


def test_a_string_and_a_list_of_parts_are_the_same_content(processor):
    string, parts = [{"role": "user", "content": "What?"}], question("What?")
    assert processor.apply_chat_template(string, tokenize=True, return_dict=True) == processor.apply_chat_template(
        parts, tokenize=True, return_dict=True
    )


def test_an_assistants_turn_is_opened_only_when_asked_for(processor):
    opening = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert processor.apply_chat_template(question(), tokenize=False).endswith("What?<|eot_id|>")
    opened = processor.apply_chat_template(question(), tokenize=False, add_generation_prompt=True)
    assert opened.endswith("What?<|eot_id|>" + opening)


def test_the_last_message_can_be_continued(processor):
    messages = [*question(), {"role": "assistant", "content": "It is"}]
    assert processor.apply_chat_template(messages, tokenize=False).endswith("It is<|eot_id|>")
    text = processor.apply_chat_template(messages, tokenize=False, continue_final_message=True)
    assert text.endswith("assistant<|end_header_id|>\n\nIt is")
    ids = processor.apply_chat_template(messages, continue_final_message=True, tokenize=True, return_dict=True)[
        "input_ids"
    ][0]
    assert processor.decode(ids) == text
    with pytest.raises(ValueError, match="add_generation_prompt or continue_final_message"):
        processor.apply_chat_template(
            messages, add_generation_prompt=True, continue_final_message=True, tokenize=True, return_dict=True
        )


def test_ids_decode_to_the_text_that_tokenize_false_returns(processor):
    text = processor.apply_chat_template(question(), add_generation_prompt=True, tokenize=False)
    assert (
        processor.decode(
            processor.apply_chat_template(question(), add_generation_prompt=True, tokenize=True, return_dict=True)[
                "input_ids"
            ][0]
        )
        == text
    )


def test_input_ids_alone_can_be_had(processor):
    whole = processor.apply_chat_template(question(), **MASK_NOTHING, tokenize=True, return_dict=True)
    assert torch.equal(
        processor.apply_chat_template(question(), **MASK_NOTHING, return_dict=False, tokenize=True), whole["input_ids"]
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_its_rows_with_filler_on_one_side(processor, side):
    conversations = [question("A long question it is?", [SQUARE]), question("What?"), question(images=[SQUARE, SQUARE])]
    batch = processor.apply_chat_template(
        conversations, **MASK_NOTHING, padding_side=side, tokenize=True, return_dict=True
    )
    alone = [
        processor.apply_chat_template(one, **MASK_NOTHING, tokenize=True, return_dict=True) for one in conversations
    ]
    longest = max(one["input_ids"].shape[1] for one in alone)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, longest)
    for row, mask, one in zip(batch["input_ids"], batch["attention_mask"], alone, strict=True):
        length = one["input_ids"].shape[1]
        assert torch.equal(row[mask.bool()], one["input_ids"][0])
        assert (row[~mask.bool()] == processor.config.pad_token_id).all()
        assert mask.tolist() == sorted(mask.tolist(), reverse=side == "right") and mask.sum() == length
    for key in ("pixel_values", "image_sizes", "image_layouts"):
        assert torch.equal(batch[key], torch.cat([one[key] for one in alone if key in one]))


def test_prompts_are_padded_on_the_left_by_default(processor):
    batch = processor.apply_chat_template(
        [question("A long question?"), question("What?")], tokenize=True, return_dict=True
    )
    assert batch["attention_mask"][1][0] == 0 and batch["attention_mask"][1][-1] == 1


def test_a_batch_of_texts_is_a_list(processor):
    texts = processor.apply_chat_template([question("A?"), question("B?")], tokenize=False)
    assert ["A?" in texts[0], "B?" in texts[1]] == [True, True]


def test_unequal_rows_need_padding(processor):
    with pytest.raises(ValueError, match="differ in length; padding=True makes a batch"):
        processor.apply_chat_template(
            [question("A long question?"), question("What?")], padding=False, tokenize=True, return_tensors="pt"
        )


def test_padding_can_come_in_processor_kwargs_which_stay_as_they_are(processor):
    options = {"padding_side": "right", "padding": True}
    batch = processor.apply_chat_template(
        [question("Long question?"), question("A?")], processor_kwargs=options, tokenize=True, return_dict=True
    )
    assert batch["attention_mask"][1][0] == 1
    assert options == {"padding_side": "right", "padding": True}


# Wrong conversations


def test_an_unknown_processor_option_is_named(processor):
    with pytest.raises(TypeError, match="unknown processor options: sise, truncate"):
        processor.apply_chat_template(
            question(),
            processor_kwargs={"truncate": True, "sise": 3, "padding": True},
            tokenize=True,
            return_dict=True,
        )


@pytest.mark.parametrize("content", ["", "  \n", [], [{"type": "image", "image": SQUARE}]])
def test_an_empty_question_is_refused(processor, content):
    with pytest.raises(ValueError, match="the question is empty"):
        processor.apply_chat_template([{"role": "user", "content": content}], tokenize=True, return_dict=True)


@pytest.mark.parametrize("conversation", [[], [[]]])
def test_an_empty_conversation_is_refused(processor, conversation):
    with pytest.raises(ValueError, match="the conversation is empty"):
        processor.apply_chat_template(conversation, tokenize=True, return_dict=True)


@pytest.mark.parametrize("message", [{"role": "tool", "content": "a"}, {"from": "human", "value": "a"}])
def test_an_unknown_role_is_refused(processor, message):
    with pytest.raises(ValueError, match="it may be system, user or assistant"):
        processor.apply_chat_template([*question(), message], tokenize=True, return_dict=True)


def test_content_that_is_no_text_is_refused(processor):
    with pytest.raises(ValueError, match="a message has content None; it may be a string or a list of parts"):
        processor.apply_chat_template([{"role": "user", "content": None}], tokenize=True, return_dict=True)


def test_an_unknown_part_is_refused(processor):
    with pytest.raises(ValueError, match="a message part has type 'audio'; it may be text, image, image_url"):
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}], tokenize=True, return_dict=True
        )
    with pytest.raises(ValueError, match="a message part of type image has no 'image'"):
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}]}], tokenize=True, return_dict=True
        )


def test_a_part_may_name_its_file_by_path(processor, tmp_path):
    SQUARE.save(tmp_path / "a.png")
    content = [{"type": "image", "path": str(tmp_path / "a.png")}, {"type": "text", "text": "What?"}]
    found = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=True, return_dict=True)
    assert (
        found["input_ids"]
        == processor.apply_chat_template(question(images=[SQUARE]), tokenize=True, return_dict=True)["input_ids"]
    )


def test_images_and_videos_do_not_mix(processor):
    with pytest.raises(ValueError, match="has 1 images and 1 videos"):
        processor.apply_chat_template(question(images=[SQUARE], videos=[FRAMES]), tokenize=True, return_dict=True)


def test_an_unknown_padding_side_is_refused(processor):
    with pytest.raises(ValueError, match="padding_side is 'top'; choose left or right"):
        processor.apply_chat_template(question(), padding_side="top", tokenize=True, return_dict=True)


# Wrong records


@pytest.mark.parametrize("conversations", [None, []])
def test_a_record_without_conversations_is_refused(processor, conversations):
    with pytest.raises(ValueError, match="the record has no conversations"):
        processor.encode_record({"conversations": conversations})


@pytest.mark.parametrize(
    "turn", [{"from": "tool", "value": "a"}, {"role": "user", "content": "a"}, {"from": "human", "value": None}, "a"]
)
def test_a_turn_that_is_no_text_from_human_or_gpt_is_refused(processor, turn):
    with pytest.raises(ValueError, match="a turn has 'from' .human or gpt. and 'value' .a text.; this one is"):
        processor.encode_record({"conversations": [turn]})


def test_a_record_of_the_assistant_alone_is_refused(processor):
    with pytest.raises(ValueError, match="the record has no turn from human"):
        processor.encode_record({"conversations": [{"from": "gpt", "value": "Hello."}]})


def test_an_unknown_style_is_refused(processor):
    with pytest.raises(ValueError, match="style is 'poem'; choose chat or caption"):
        processor.encode_record(record_of("Hi"), style="poem")


@pytest.mark.parametrize(
    "record",
    [
        record_of("<image>"),
        record_of("Describe it.", image=SQUARE),
        record_of("<image>", image=[SQUARE, SQUARE]),
        {"conversations": 2 * record_of("<image>")["conversations"], "image": SQUARE},
    ],
)
def test_a_caption_record_has_one_picture_and_two_turns(processor, record):
    with pytest.raises(ValueError, match="a caption record has one picture, and two turns"):
        processor.encode_record(record, style="caption")


def test_records_are_not_written_with_the_originals_lost_tokens(original):
    with pytest.raises(ValueError, match="load the processor with reproduce_original=False to train"):
        original.encode_record(record_of("Hi"))


# Tokenizer and files


def test_a_tokenizer_that_disagrees_with_the_config_is_refused(processor, tiny_processor):
    with pytest.raises(ValueError, match="tokenizer and config disagree: '<.reserved_token_0.>' is id 6 .* is 126084"):
        LladaVProcessor(tiny_processor.tokenizer, LladaVConfig())
    with pytest.raises(ValueError, match="use the tokenizer the model was trained with"):
        LladaVProcessor(processor.tokenizer, tiny_config(tiny_processor.tokenizer))


@pytest.mark.parametrize("reproduce_original", [False, True])
def test_a_saved_processor_reads_back_the_same(tiny_processor, tmp_path, reproduce_original):
    config = tiny_config(tiny_processor.tokenizer)
    config.video_newline = "frame"
    saved = LladaVProcessor(tiny_processor.tokenizer, config, reproduce_original)
    saved.save_pretrained(tmp_path)
    read = LladaVProcessor.from_pretrained(tmp_path)
    assert read.to_dict() == saved.to_dict() and read.reproduce_original == reproduce_original
    assert read.config.special_token_ids() == config.special_token_ids() and read.config.video_newline == "frame"
    assert (
        read.apply_chat_template(question(), tokenize=True, return_dict=True)["input_ids"]
        == saved.apply_chat_template(question(), tokenize=True, return_dict=True)["input_ids"]
    )
    other = LladaVProcessor.from_pretrained(tmp_path, reproduce_original=not reproduce_original)
    assert other.reproduce_original != reproduce_original


def test_a_saved_processor_file_is_plain_json(tiny_folder):
    saved = json.loads((tiny_folder / "processor_config.json").read_text())
    assert saved["processor_class"] == "LladaVProcessor"
    assert saved["image_processor"]["image_processor_type"] == "LladaVImageProcessor"
    assert saved["video_processor"]["video_processor_type"] == "LladaVVideoProcessor"
    assert "config" not in saved and (tiny_folder / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_a_folder_of_earlier_days_reads_as_before(tiny_folder, tiny_processor, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder / name, tmp_path)
    earlier = {"processor_class": "LladaVProcessor", "config": tiny_processor.config.to_diff_dict()}
    (tmp_path / "processor_config.json").write_text(json.dumps(earlier))
    assert LladaVProcessor.from_pretrained(tmp_path).to_dict() == tiny_processor.to_dict()


@pytest.mark.parametrize("name, value", [("max_tile_features", 9), ("video_newline", "frame")])
def test_a_config_that_was_edited_alone_is_named(tiny_folder, tmp_path, name, value):
    shutil.copytree(tiny_folder, tmp_path / "edited")
    file = tmp_path / "edited" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=f"has {name.removeprefix('video_')} .* the model's config says {value!r}"):
        LladaVProcessor.from_pretrained(tmp_path / "edited")


def test_a_folder_without_tokenizer_files_is_said_so(tiny_folder, tmp_path):
    for name in ("config.json", "processor_config.json"):
        (tmp_path / name).write_text((tiny_folder / name).read_text())
    with pytest.raises(OSError, match=f"{tmp_path} has no tokenizer.json; put the tokenizer's files there"):
        LladaVProcessor.from_pretrained(tmp_path)


def test_a_tokenizer_alone_still_needs_a_config(tiny_folder, tmp_path):
    PreTrainedTokenizerFast.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    with pytest.raises(OSError, match=f"{tmp_path} has no config.json"):
        LladaVProcessor.from_pretrained(tmp_path)


def test_frames_in_memory_are_as_many_as_are_asked_for(tiny_processor):
    frames = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 40, 50, 3), np.uint8)
    chat = [{"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": "What?"}]}]

    def tiles(**options):
        return tiny_processor.apply_chat_template(
            chat, tokenize=True, return_dict=True, return_tensors="pt", **options
        )["pixel_values"]

    every = tiles()
    assert len(every) == len(tiles(do_sample_frames=False, num_frames=3)) == 12
    assert torch.equal(tiles(num_frames=3), every[[0, 5, 11]])
    with pytest.raises(ValueError, match="fps is 1, but these frames are in memory, without their times"):
        tiles(fps=1)
