"""The mean of several models."""

import pytest
import torch
from runs import weights

from llada_v import LladaVForConditionalGeneration
from llada_v.answering import load
from llada_v.cli import main as cli
from llada_v.training.merging import average


@pytest.fixture
def shifted(tiny_folder, tmp_path):
    """A copy of the model's weights in bfloat16, each three more than it was."""
    model = LladaVForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 3
    model.save_pretrained(tmp_path / "shifted")
    return tmp_path / "shifted"


def test_every_weight_is_the_mean_of_all_models_in_the_dtype_of_the_last(tiny_folder, shifted, tmp_path, capsys):
    assert cli(["average", str(tmp_path / "mean"), str(tiny_folder), str(shifted), str(tiny_folder)]) == 0
    assert "the mean of 3 models" in capsys.readouterr().out
    ours, theirs, higher = weights(tmp_path / "mean"), weights(tiny_folder), weights(shifted)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert weight.dtype == theirs[name].dtype
        torch.testing.assert_close(weight, (2 * theirs[name] + higher[name].float()) / 3)
    assert len(load(tmp_path / "mean")[1].tokenizer) == len(load(tiny_folder)[1].tokenizer)


def test_models_of_other_shapes_and_a_folder_that_exists_are_refused(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="found 1 models to average; name at least two"):
        average([tiny_folder], tmp_path / "mean")
    with pytest.raises(ValueError, match="exists; name a folder to make"):
        average([tiny_folder, tiny_folder], tmp_path)
    config = LladaVForConditionalGeneration.from_pretrained(tiny_folder).config
    config.text_config.intermediate_size += 8
    LladaVForConditionalGeneration(config).save_pretrained(tmp_path / "wider")
    with pytest.raises(ValueError, match="mlp.*only equals have a mean"):
        average([tiny_folder, tmp_path / "wider"], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_a_mean_that_is_written_half_has_no_name_and_can_be_made_again(tiny_folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LladaVForConditionalGeneration, "save_pretrained", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            average([tiny_folder, tiny_folder], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
    average([tiny_folder, tiny_folder], tmp_path / "mean")
    assert [folder.name for folder in tmp_path.iterdir()] == ["mean"]
