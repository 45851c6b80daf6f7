"""What several test files share: the small published checkpoint, the tiny model, and what is read from them."""

from importlib.util import find_spec

import pytest
import torch
from make_tokenizer import hf_tokenizer
from published import PUBLISHED_CONFIG, small_weights, write_folder

from llada_v import LladaVConfig, LladaVForConditionalGeneration, LladaVProcessor
from llada_v.toyworld import tiny
from llada_v.toyworld.records import write_dataset

pytest_plugins = ["skips"]
collect_ignore = [] if find_spec("transformers.decision") else ["test_system_one.py"]  # of transformers 5.23 and later


@pytest.fixture(scope="session")
def published_folder(tmp_path_factory):
    """A folder in the published layout with the weights of the golden figures, in three shards."""
    folder = tmp_path_factory.mktemp("golden") / "published"
    return write_folder(folder, PUBLISHED_CONFIG, small_weights(), num_shards=3)


@pytest.fixture(scope="session")
def small_model(published_folder):
    """The model of the golden figures, float32 on the CPU. Do not change it."""
    model = LladaVForConditionalGeneration.from_pretrained(published_folder, dtype=torch.float32)
    return model.requires_grad_(False)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """A folder with the files of the test tokenizer, whose ids are LLaDA's."""
    folder = tmp_path_factory.mktemp("tokenizer")
    hf_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def processor():
    """A processor with the sizes and ids of the published 8B model."""
    return LladaVProcessor(hf_tokenizer(), LladaVConfig())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A folder with the tiny model of the small world, random weights. Do not change it."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny.build(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_folder):
    """The model of that folder. Do not change it."""
    return LladaVForConditionalGeneration.from_pretrained(tiny_folder).requires_grad_(False).eval()


@pytest.fixture(scope="session")
def tiny_processor(tiny_folder):
    """The processor of that folder. Do not change it."""
    return LladaVProcessor.from_pretrained(tiny_folder)


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    """A folder with fourteen records of the small world."""
    return write_dataset(tmp_path_factory.mktemp("data") / "toys", "train", 14, seed=0, style="instruct", max_turns=2)
