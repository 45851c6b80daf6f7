"""What transformers promises holds here: saving and loading, Auto classes, pipelines, back ends, checkpointing."""

import copy
import json

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, pipeline

from llada_v import LladaVConfig, LladaVForConditionalGeneration, LladaVProcessor, SamplerConfig
from llada_v.modeling_llada import rotary_tables

PICTURE = Image.new("RGB", (100, 80), (200, 30, 30))
CHAT = [{"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": "What colour?"}]}]


@pytest.fixture(scope="module")
def batch(tiny_processor):
    """Two prompts of different lengths, padded on the left; one has a picture."""
    longer = [{"role": "user", "content": "How many objects are there?"}]
    return tiny_processor.apply_chat_template(
        [CHAT, longer], add_generation_prompt=True, return_tensors="pt", tokenize=True, return_dict=True
    )


def sizes(config) -> dict:
    """A config without what loading a model notes in it: where from, and in which dtype."""
    notes = ("_name_or_path", "dtype", "transformers_version", "architectures", "_attn_implementation_internal")
    kept = {name: value for name, value in config.to_dict().items() if name not in notes}
    for part in ("vision_config", "text_config"):
        kept[part] = {name: value for name, value in kept[part].items() if name not in notes}
    return kept


# Saving and loading


def test_a_saved_model_reads_back_bit_by_bit(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    read = LladaVForConditionalGeneration.from_pretrained(tmp_path)
    assert sizes(read.config) == sizes(tiny_model.config)
    expected, found = tiny_model.state_dict(), read.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_the_folder_says_how_long_an_answer_is_unless_it_is_silent(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    settings = json.loads(file.read_text())
    for length, expected in ((24, 24), (None, SamplerConfig.gen_length)):
        file.write_text(json.dumps(settings | {"max_new_tokens": length}))
        assert LladaVForConditionalGeneration.from_pretrained(tmp_path).generation_config.max_new_tokens == expected
    file.unlink()
    read = LladaVForConditionalGeneration.from_pretrained(tmp_path)
    assert read.generation_config.max_new_tokens == SamplerConfig.gen_length


def test_auto_classes_know_the_folder(tiny_folder, tiny_model, tiny_processor, batch):
    config = AutoConfig.from_pretrained(tiny_folder)
    assert type(config) is LladaVConfig and sizes(config) == sizes(tiny_model.config)
    processor = AutoProcessor.from_pretrained(tiny_folder)
    assert type(processor) is LladaVProcessor and processor.to_dict() == tiny_processor.to_dict()
    model = AutoModelForImageTextToText.from_pretrained(tiny_folder)
    assert type(model) is LladaVForConditionalGeneration
    assert torch.equal(model(**batch).logits, tiny_model(**batch).logits)


def test_a_config_survives_its_own_dictionary(tiny_model):
    config = tiny_model.config
    assert sizes(LladaVConfig(**config.to_dict())) == sizes(config)
    assert sizes(LladaVConfig.from_dict(config.to_diff_dict())) == sizes(config)


def test_a_model_on_the_meta_device_knows_its_shapes(tiny_model):
    with torch.device("meta"):
        model = LladaVForConditionalGeneration(tiny_model.config)
        hidden = torch.empty(2, 7, tiny_model.config.text_config.hidden_size)
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    assert model(inputs_embeds=hidden).logits.shape == (2, 7, tiny_model.config.text_config.vocab_size)


# Pipelines


@pytest.fixture(scope="module")
def pipe(tiny_folder):
    return pipeline("image-text-to-text", model=str(tiny_folder))


def text_of(model, processor, inputs, **settings) -> str:
    """What `generate` answers to one prompt, as text."""
    output = model.generate(**inputs, **settings, return_dict_in_generate=True)
    return processor.decode(output.answers[0], skip_special_tokens=True)


def test_a_pipeline_answers_a_chat(pipe, tiny_model, tiny_processor):
    inputs = tiny_processor.apply_chat_template(
        CHAT, add_generation_prompt=True, return_tensors="pt", tokenize=True, return_dict=True
    )
    found = pipe(text=CHAT, max_new_tokens=6, return_full_text=False)
    assert found[0]["generated_text"] == text_of(tiny_model, tiny_processor, inputs, max_new_tokens=6)
    whole = pipe(text=CHAT, max_new_tokens=6)[0]["generated_text"]
    assert whole[:1] == CHAT and whole[1]["role"] == "assistant"


def test_a_pipeline_answers_several_chats(pipe):
    other = [{"role": "user", "content": "How many objects are there?"}]
    found = pipe(text=[CHAT, other], max_new_tokens=6, return_full_text=False)
    for answered, chat in zip(found, (CHAT, other), strict=True):
        assert answered == pipe(text=chat, max_new_tokens=6, return_full_text=False)


def test_a_pipeline_answers_chats_in_batches_as_one_by_one(pipe):
    other = [{"role": "user", "content": "How many objects are there?"}]
    both = [{"role": "user", "content": [*CHAT[0]["content"][:1], *CHAT[0]["content"]]}]  # two pictures
    options = dict(max_new_tokens=6, return_full_text=False)
    for chats in ([CHAT, both, CHAT], [other, other]):
        said = [found[0]["generated_text"] for found in pipe(text=chats, batch_size=2, **options)]
        assert said == [pipe(text=chat, **options)[0]["generated_text"] for chat in chats]
    with pytest.raises(ValueError, match="different keys"):  # transformers joins no rows with pictures and without
        pipe(text=[CHAT, other], batch_size=2, **options)
    assert len(pipe(text=[CHAT, other], **options)) == 2


def test_a_pipeline_answers_finished_prompts_with_images(pipe, tiny_model, tiny_processor):
    text = tiny_processor.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    inputs = tiny_processor(text=text, images=PICTURE, return_tensors="pt")
    found = pipe(images=PICTURE, text=text, max_new_tokens=6, return_full_text=False)
    assert found[0]["generated_text"] == text_of(tiny_model, tiny_processor, inputs, max_new_tokens=6)
    texts, pictures = ["<image>What?", "<image> <image>Who?"], [[PICTURE], [PICTURE, PICTURE]]
    assert len(pipe(images=pictures, text=texts, max_new_tokens=6)) == 2


def test_a_pipeline_answers_text_alone(pipe):
    assert pipe(text="What?", max_new_tokens=4)[0]["generated_text"].startswith("What?")


def test_a_pipeline_continues_an_answer(pipe):
    started = [*CHAT, {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}]
    whole = pipe(text=started, max_new_tokens=4)[0]["generated_text"]
    assert len(whole) == 2 and whole[1]["content"][0]["text"].startswith("It is")


def test_a_pipeline_takes_a_sampler(pipe, tiny_model, tiny_processor):
    sampler = SamplerConfig(gen_length=8, steps=2, block_length=4)
    inputs = tiny_processor.apply_chat_template(
        CHAT, add_generation_prompt=True, return_tensors="pt", tokenize=True, return_dict=True
    )
    found = pipe(text=CHAT, generate_kwargs={"sampler": sampler}, return_full_text=False)
    assert found[0]["generated_text"] == text_of(tiny_model, tiny_processor, inputs, sampler=sampler)


def test_a_pipeline_without_settings_leaves_them_to_the_sampler(pipe, monkeypatch):
    generate, given = pipe.model.generate, []
    monkeypatch.setattr(
        pipe.model,
        "generate",
        lambda **kwargs: (
            given.append(kwargs) or generate(kwargs["input_ids"][:, :0].new_full((1, 3), 40), max_new_tokens=2)
        ),
    )
    pipe(text="What?")
    assert not {"max_new_tokens", "sampler"} & set(given[0])
    # Some versions of transformers hand the model its own settings back.
    settings = given[0].get("generation_config", pipe.model.generation_config)
    assert settings.max_new_tokens == pipe.model.generation_config.max_new_tokens


def test_a_published_folder_leaves_a_pipelines_length_to_the_sampler_too(small_model):
    assert small_model.generation_config.max_new_tokens == SamplerConfig.gen_length  # it has no generation_config.json


# Back ends and numbers


def test_eager_and_sdpa_agree_with_padding(tiny_folder, batch):
    logits = {}
    for name in ("eager", "sdpa"):
        model = LladaVForConditionalGeneration.from_pretrained(tiny_folder, attn_implementation=name)
        assert model.config.text_config._attn_implementation == name
        with torch.no_grad():
            logits[name] = model(**batch).logits[batch["attention_mask"].bool()]
    assert (logits["eager"] - logits["sdpa"]).abs().max() < 1e-5  # measured 7e-7, of logits up to 1


def test_padding_on_either_side_changes_no_logit(tiny_model, tiny_processor, batch):
    conversations = [CHAT, [{"role": "user", "content": "How many objects are there?"}]]
    options = dict(add_generation_prompt=True, return_tensors="pt", padding_side="right")
    right = tiny_processor.apply_chat_template(conversations, **options, tokenize=True, return_dict=True)
    found = tiny_model(**right).logits[right["attention_mask"].bool()]
    expected = tiny_model(**batch).logits[batch["attention_mask"].bool()]
    assert (found - expected).abs().max() < 1e-5  # measured 6e-7


def test_logits_where_asked_are_those_of_everywhere(tiny_model, batch):
    wanted = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    wanted[0, -5:], wanted[1, -1] = True, True
    found = tiny_model(**batch, logits_at=wanted).logits
    assert found.shape == (6, tiny_model.config.text_config.vocab_size)
    assert (found - tiny_model(**batch).logits[wanted]).abs().max() < 1e-5  # measured 0


def test_gradient_checkpointing_gives_the_same_gradients(tiny_model, batch):
    gradients = []
    for checkpointing in (False, True):
        model = copy.deepcopy(tiny_model).requires_grad_(True).train()
        if checkpointing:
            # transformers is renaming it.
            name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
            getattr(model, f"{name}_checkpointing_enable")()
            assert getattr(model, f"is_{name}_checkpointing")
        model(**batch).logits.logsumexp(-1).sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    plain, recomputed = gradients
    assert {name for name, gradient in plain.items() if gradient is None} == {
        name for name in plain if "post_layernorm" in name
    }
    for name, gradient in plain.items():
        assert (gradient is None) == (recomputed[name] is None)
        assert gradient is None or torch.equal(gradient, recomputed[name]), name


def test_rounded_rotary_frequencies_change_the_logits(tiny_model, batch):
    model = copy.deepcopy(tiny_model)
    model.model.language_model.config.rope_inv_freq = "bf16_rounded"
    difference = (model(**batch).logits - tiny_model(**batch).logits).abs().max()
    assert 1e-6 < difference < 1  # measured 2e-4
    positions = torch.tensor([[4000]])
    published = LladaVConfig().text_config
    exact = rotary_tables(published, positions, torch.float32)[0]
    published.rope_inv_freq = "bf16_rounded"
    assert (rotary_tables(published, positions, torch.float32)[0] - exact).abs().max() > 1


def test_exact_rotary_frequencies_stay_exact_in_a_bfloat16_model(tiny_model, batch):
    model, seen = copy.deepcopy(tiny_model).bfloat16(), []
    layer = model.model.language_model.layers[0]
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    model(**batch)
    handle.remove()
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    expected = rotary_tables(tiny_model.config.text_config, positions, torch.float32)
    for found, table in zip(seen[0], expected, strict=True):
        assert found.dtype == torch.bfloat16 and torch.equal(found, table.bfloat16())
