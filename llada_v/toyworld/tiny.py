"""The tiny model before training: its tokenizer, learned from the small world's own texts, and its sizes.

The tokenizer is byte-level BPE like LLaDA's: digits stand alone, and so do the letters of words in capitals, because
the words on signs are spelled and not known by heart.
"""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from ..checkpoint.files import growing
from ..configuration_llada_v import LladaVConfig
from ..conversation import SYSTEM_PROMPT, TOKENS
from ..generation.presets import KEY
from ..modeling_llada_v import LladaVForConditionalGeneration
from ..processing_llada_v import LladaVProcessor
from .found import ICONS, Found
from .questions import DONT_KNOW, a, dense_caption, questions_about
from .scenes import Scene, make_scene
from .stories import FURTHER, LIST, Wanted, askable

TILE, PATCH = 72, 12  # pixels
VOCAB_SIZE = 800
CANVAS = 32  # tokens; the longest answer of the small world has 31 with its end
SPELLED = r"\p{Lu}(?!\p{Ll})|\p{N}|\n+"  # what BPE may not merge with its neighbours


def build_tokenizer(num_scenes: int = 600) -> PreTrainedTokenizerFast:
    """The tokenizer of the small world, deterministic: special tokens first, then bytes, then merges."""
    rng = random.Random("tokenizer")
    texts = [f"system\n\n{SYSTEM_PROMPT}", "user\n\n", "assistant\n\n", LIST, DONT_KNOW, *ICONS, *map(a, ICONS)]
    texts *= num_scenes
    for _ in range(num_scenes):
        scene = make_scene(rng)
        texts.append(dense_caption(scene) + "\n")
        texts += [f"{question.text}\n{question.answer}" for question in questions_about(scene, rng)]
        for style in FURTHER:
            story, questions = askable(style, "train", rng, Wanted())
            texts += [f"{q.text}\n{q.answer}" for q in questions + story.lists]
        texts += found_texts(rng)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPELLED), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(token, special=True, normalized=False) for token in TOKENS.values()]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    eos = TOKENS["eos_token_id"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=TOKENS["bos_token_id"],
        eos_token=eos,
        pad_token=eos,
        clean_up_tokenization_spaces=False,
        padding_side="right",
        model_max_length=2048,
    )


def found_texts(rng: random.Random) -> list[str]:
    """What is said about things that were found; made without them, so that no package is needed."""
    texts = []
    for kind, names in (("icon", ICONS), ("digit", "0123456789"), ("print", ("10",))):
        found = tuple(Found(name, "", 0, 0, 0, 0) for name in rng.sample(names, min(rng.randint(1, 2), len(names))))
        scene = Scene(kind, 0, 0, "white", found=found)
        texts += [dense_caption(scene), *(f"{q.text}\n{q.answer}" for q in questions_about(scene, rng))]
    return texts


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> LladaVConfig:
    """The published architecture with small numbers: 3.8 M parameters."""
    ids: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(token) for name, token in TOKENS.items()}
    return LladaVConfig(
        vision_config=dict(
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=TILE,
            patch_size=PATCH,
        ),
        text_config=dict(
            vocab_size=VOCAB_SIZE,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=4,
            max_position_embeddings=2048,
            initializer_range=0.07,  # about 1 / sqrt(hidden_size); 0.02 suits the width of the 8B model
            rope_base=10000.0,
        ),
        image_grid_pinpoints=[[TILE * rows, TILE * columns] for columns in (1, 2) for rows in (1, 2)],
        pad_token_id=ids["eos_token_id"],
        **ids,
    )


def build(folder: str | Path, seed: int = 0) -> None:
    """Write the tiny model with random weights, tokenizer and processor to a folder."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    config = tiny_config(tokenizer)
    model = LladaVForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        max_new_tokens=CANVAS,
        **{KEY: "fast"},
    )
    with growing(Path(folder)) as draft:
        model.save_pretrained(draft)
        LladaVProcessor(tokenizer, config).save_pretrained(draft)
