"""transformers' keywords of forward and generate: each with the meaning that it can have, or refused by name."""

import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForMultimodalLM,
    GenerationConfig,
    TextStreamer,
    Trainer,
    TrainingArguments,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from llada_v import LladaVForConditionalGeneration, LladaVImageProcessor, LladaVModel, SamplerConfig
from llada_v.configuration_llada_v import IGNORE
from llada_v.sequence import PICTURE_INPUTS
from llada_v.training.noise import Draw, add_noise, diffusion_loss

PICTURE = Image.new("RGB", (100, 80), (200, 30, 30))
CHAT = [{"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "What colour?"}]}]


@pytest.fixture(scope="module")
def inputs(tiny_processor):
    options = dict(tokenize=True, return_dict=True, return_tensors="pt")
    return tiny_processor.apply_chat_template(CHAT, add_generation_prompt=True, **options)


# Auto classes


def test_every_auto_class_knows_the_folder(tiny_folder):
    assert type(AutoModel.from_pretrained(tiny_folder)) is LladaVModel
    assert type(AutoModelForMultimodalLM.from_pretrained(tiny_folder)) is LladaVForConditionalGeneration
    assert type(AutoImageProcessor.from_pretrained(tiny_folder)) is LladaVImageProcessor
    assert MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES["llada_v"] == "LladaVForConditionalGeneration"


# forward


def test_labels_run_the_training_objective(tiny_model, inputs):
    labels = inputs["input_ids"].clone()
    labels[:, :20] = IGNORE
    found = tiny_model(**inputs, labels=labels, generator=torch.Generator().manual_seed(3))
    generator, config = torch.Generator().manual_seed(3), tiny_model.config
    draw = Draw(torch.rand(1, generator=generator), torch.rand(labels.shape, generator=generator))
    labels = labels.masked_fill(labels == config.image_token_id, IGNORE)
    noised = add_noise(inputs["input_ids"], labels, config.mask_token_id, draw)
    assert noised.is_masked.any() and found.logits is None
    logits = tiny_model(**inputs | {"input_ids": noised.input_ids}, logits_at=noised.is_masked).logits
    expected = diffusion_loss(logits, labels, noised.is_masked, noised.p_mask)
    assert torch.allclose(found.loss, expected, rtol=1e-5)  # measured 0
    other = tiny_model(**inputs, labels=labels, generator=torch.Generator().manual_seed(4))
    assert other.loss != found.loss


def test_labels_draw_from_torch_where_no_generator_is_given(tiny_model, inputs):
    losses = []
    for _ in range(2):
        torch.manual_seed(5)
        losses.append(tiny_model(**inputs, labels=inputs["input_ids"]).loss)
    assert losses[0] == losses[1]
    state = torch.get_rng_state()
    tiny_model(**inputs)
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_and_attention_are_returned_on_request(tiny_folder, inputs):
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder, attn_implementation="eager")
    sizes, length = model.config.text_config, inputs["input_ids"].shape[1]
    found = model(**inputs, output_hidden_states=True, output_attentions=True, use_cache=True)
    assert len(found.hidden_states) == sizes.num_hidden_layers + 1 and len(found.attentions) == sizes.num_hidden_layers
    assert found.attentions[0].shape == (1, sizes.num_attention_heads, length, length)
    assert torch.equal(model.lm_head(found.hidden_states[-1]), found.logits)
    assert isinstance(model(**inputs, return_dict=False), tuple)
    assert model(**inputs).hidden_states is None


def test_logits_to_keep_are_the_last_or_those_named(tiny_model, inputs):
    whole = tiny_model(**inputs).logits
    for keep, at in ((3, slice(-3, None)), (torch.tensor([2, 5]), [2, 5])):
        found = tiny_model(**inputs, logits_to_keep=keep).logits
        assert found.shape == whole[:, at].shape and (found - whole[:, at]).abs().max() < 1e-5  # measured 2e-6


def test_picture_features_come_as_transformers_has_them(tiny_model, inputs):
    pictures = {name: inputs[name] for name in ("pixel_values", "image_sizes", "image_layouts")}
    found = tiny_model.get_image_features(**pictures)
    assert len(found.last_hidden_state) == len(inputs["pixel_values"]) and len(found.pooler_output) == 1
    assert torch.equal(torch.cat(found.pooler_output), tiny_model.encode_pictures(**pictures))
    assert isinstance(tiny_model.get_image_features(**pictures, return_dict=False), tuple)


def test_tiles_are_bytes_unless_floats_are_asked_for_and_the_features_are_equal(tiny_model, tiny_processor, inputs):
    options = dict(tokenize=True, return_dict=True, return_tensors="pt", do_rescale=True, do_normalize=True)
    floats = tiny_processor.apply_chat_template(CHAT, **options)["pixel_values"]
    tiles = inputs["pixel_values"]
    assert tiles.dtype == torch.uint8 and floats.dtype == torch.float32
    sizes = {name: inputs[name] for name in ("image_sizes", "image_layouts")}
    assert torch.equal(*[tiny_model.encode_pictures(pixels, **sizes) for pixels in (tiles, floats)])
    assert inputs.to(torch.bfloat16)["pixel_values"].dtype == torch.uint8  # so that no user's cast spoils them


def test_bytes_that_were_cast_too_early_are_refused(tiny_model, inputs):
    cast = {name: inputs[name].float() if name == "pixel_values" else inputs[name] for name in inputs}
    with pytest.raises(ValueError, match="hand them over as they are"):
        tiny_model(**cast)


def test_a_float_mask_is_added_to_the_scores(tiny_model, inputs):
    ids = torch.cat((inputs["input_ids"][:, -6:], inputs["input_ids"][:, -4:]), dim=1)
    seen = torch.ones(1, 1, 10, 10, dtype=torch.bool)
    seen[..., 7:] = False
    expected = tiny_model(ids, attention_mask=seen).logits
    for least in (torch.finfo(torch.float32).min, -torch.inf):
        added = torch.zeros(seen.shape).masked_fill(~seen, least)
        assert torch.equal(tiny_model(ids, attention_mask=added).logits, expected)
    with pytest.raises(ValueError, match="a float attention_mask is added to the scores"):
        tiny_model(ids, attention_mask=seen.float())


def test_embeddings_beside_ids_are_refused(tiny_model, inputs):
    embeds = tiny_model.get_input_embeddings()(inputs["input_ids"])
    with pytest.raises(ValueError, match="not both and not neither"):
        tiny_model(inputs["input_ids"], inputs_embeds=embeds)


def test_pictures_beside_embeddings_go_where_the_placeholders_row_stands(tiny_model, inputs):
    ids = inputs["input_ids"]
    others = {name: value for name, value in inputs.items() if name != "input_ids"}
    embeds = tiny_model.get_input_embeddings()(ids)
    assert torch.equal(tiny_model(inputs_embeds=embeds, **others).logits, tiny_model(ids, **others).logits)
    moved = embeds + (ids == tiny_model.config.image_token_id)[..., None]
    with pytest.raises(ValueError, match="the prompt has 0 image placeholders"):
        tiny_model(inputs_embeds=moved, **others)


def test_a_label_on_a_picture_masks_nothing_of_it(tiny_model, inputs):
    ids = inputs["input_ids"]
    losses = [
        tiny_model(**inputs, labels=labels, generator=torch.Generator().manual_seed(0)).loss
        for labels in (ids, ids.masked_fill(ids == tiny_model.config.image_token_id, 9))
    ]
    assert torch.equal(*losses)


def test_what_the_pictures_were_read_as_is_in_the_output(tiny_model, inputs):
    output = tiny_model(**inputs)
    features = tiny_model.get_image_features(*(inputs[name] for name in PICTURE_INPUTS))
    assert torch.equal(output.image_outputs.pooler_output[0], features.pooler_output[0])
    assert len(tiny_model(**inputs, return_dict=False)) == 2
    assert tiny_model(inputs["input_ids"][:, -4:]).image_outputs is None


def test_an_unknown_argument_of_forward_is_refused(tiny_model, inputs):
    with pytest.raises(TypeError, match="forward has no argument output_hiden_states"):
        tiny_model(**inputs, output_hiden_states=True)


def test_a_plain_trainer_lowers_the_loss(tiny_folder, tiny_processor, tmp_path):
    chat = [*CHAT, {"role": "assistant", "content": "It is red."}]
    encoded = tiny_processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    labels = encoded["input_ids"].masked_fill(encoded.pop("assistant_masks") == 0, IGNORE)

    def collate(rows):
        many = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        return many

    rows = [dict(encoded) | {"labels": labels}] * 50
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=5,
        num_train_epochs=2,
        learning_rate=2e-3,
        logging_steps=5,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder)
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collate)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2, losses


# generate


def test_lengths_are_those_of_the_answer_or_of_all(tiny_model, inputs):
    length = inputs["input_ids"].shape[1]
    expected = tiny_model.generate(**inputs, sampler=SamplerConfig(gen_length=5))
    for words in (
        {"max_new_tokens": 5},
        {"max_length": length + 5},
        {"generation_config": GenerationConfig(max_new_tokens=5)},
        {"generation_config": GenerationConfig(max_length=length + 5)},
        {"generation_config": GenerationConfig(max_length=length + 3), "max_new_tokens": 5},
    ):
        found = tiny_model.generate(**inputs, **words)
    assert torch.equal(found, expected[:, : found.shape[1]])
    with pytest.raises(ValueError, match=f"max_length is 9, but the prompt has {length} tokens"):
        tiny_model.generate(**inputs, max_length=9)


def test_sampling_is_asked_for_in_transformers_words(tiny_model, inputs):
    def drawn(**words):
        return tiny_model.generate(**inputs, max_new_tokens=6, generator=torch.Generator().manual_seed(1), **words)

    expected = tiny_model.generate(
        **inputs, sampler=SamplerConfig(gen_length=6, temperature=0.7), generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(drawn(do_sample=True, temperature=0.7), expected)
    assert torch.equal(drawn(generation_config=GenerationConfig(do_sample=True, temperature=0.7)), expected)
    greedy = tiny_model.generate(**inputs, max_new_tokens=6)
    assert torch.equal(drawn(do_sample=False), greedy)
    several = drawn(do_sample=True, temperature=3.0, num_return_sequences=3)
    assert several.shape[0] == 3 and len({tuple(row.tolist()) for row in several}) > 1
    with pytest.raises(ValueError, match="without chance all answers are one"):
        drawn(num_return_sequences=2)
    with pytest.raises(ValueError, match="temperature is 0.7, but do_sample is False"):
        drawn(do_sample=False, temperature=0.7)


def test_stops_and_filler_are_asked_for_in_transformers_words(tiny_model, tiny_processor, inputs):
    whole = tiny_model.generate(**inputs, sampler=SamplerConfig(gen_length=6, stop_token_ids=[]))
    length = inputs["input_ids"].shape[1]
    stop = int(whole[0, length + 2])
    found = tiny_model.generate(**inputs, max_new_tokens=6, eos_token_id=stop)
    assert stop not in found[0, length:] and found.shape[1] < length + 6  # no longer than the longest answer
    wish = GenerationConfig(eos_token_id=stop, max_new_tokens=6)
    assert torch.equal(tiny_model.generate(**inputs, generation_config=wish), found)
    cut = SamplerConfig(gen_length=6, stop_token_ids=[[stop]])
    filled = tiny_model.generate(**inputs, sampler=cut, pad_token_id=9)
    assert filled.shape[1] == length + 6 and (filled[0, found.shape[1] :] == 9).all()
    expected = tiny_model.generate(
        **inputs, sampler=SamplerConfig(gen_length=6, stop_strings=["a"]), tokenizer=tiny_processor.tokenizer
    )
    words = dict(stop_strings="a", tokenizer=tiny_processor.tokenizer, max_new_tokens=6)
    assert torch.equal(tiny_model.generate(**inputs, **words), expected)


def test_a_streamer_gets_the_finished_answer(tiny_model, tiny_processor, inputs, capsys):
    output = tiny_model.generate(**inputs, max_new_tokens=6, return_dict_in_generate=True)
    streamer = TextStreamer(tiny_processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    tiny_model.generate(**inputs, max_new_tokens=6, streamer=streamer)
    expected = tiny_processor.decode(output.answers[0], skip_special_tokens=True)
    assert capsys.readouterr().out.strip() == expected.strip()
    with pytest.raises(ValueError, match="a streamer shows one answer"):
        tiny_model.generate(torch.tensor([[40], [41]]), max_new_tokens=2, streamer=streamer)


@pytest.mark.parametrize(
    "words",
    [{"top_k": 5}, {"top_p": 0.9}, {"num_beams": 2}, {"repetition_penalty": 1.2}, {"output_scores": True}]
    + [{"logits_processor": [print]}, {"inputs_embeds": torch.ones(1, 2, 192)}, {"generation_config": {"top_k": 5}}],
    ids=lambda words: next(iter(words)),
)
def test_what_cannot_be_followed_is_refused_by_name(tiny_model, words):
    if "generation_config" in words:
        words = {"generation_config": GenerationConfig(**words["generation_config"])}
    name = "top_k" if "generation_config" in words else next(iter(words))
    with pytest.raises(ValueError, match=f"{name}.*not for a sampler that reveals tokens in any order"):
        tiny_model.generate(torch.tensor([[40]]), **words)


def test_what_asks_for_nothing_is_taken(tiny_model):
    neutral = dict(
        num_beams=1, top_p=1.0, use_cache=True, logits_processor=[], repetition_penalty=1.0, synced_gpus=False
    )
    expected = tiny_model.generate(torch.tensor([[40]]), max_new_tokens=2)
    assert torch.equal(tiny_model.generate(torch.tensor([[40]]), max_new_tokens=2, **neutral), expected)


def test_an_unknown_word_is_refused(tiny_model):
    with pytest.raises(TypeError, match="generate has no argument max_tokns"):
        tiny_model.generate(torch.tensor([[40]]), max_tokns=2)
