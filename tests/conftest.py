"""What several test files share: the small published checkpoint and the model read from it."""

import pytest
import torch
from make_tokenizer import hf_tokenizer
from published import PUBLISHED_CONFIG, small_weights, write_folder

from llada_v import LladaVForConditionalGeneration


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
