"""transformers' ModelTesterMixin for the whole model, with and without its head, and for the trunk."""

import copy
import unittest

import torch
from peer_tests.generation.test_utils import GenerationTesterMixin
from peer_tests.test_configuration_common import ConfigTester
from peer_tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor

from llada_v import LladaConfig, LladaVConfig, LladaVForConditionalGeneration, LladaVModel
from llada_v.anyres import Layout
from llada_v.modeling_llada import LladaModel

SIZES = dict(hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=2)
TEXT = SIZES | dict(vocab_size=99, num_key_value_heads=2, max_position_embeddings=512, rope_base=10000.0)
TEXT |= dict(pad_token_id=2)  # not the trunk's; the tests of transformers 5.17 look for it there
VISION = SIZES | dict(image_size=8, patch_size=4)
IDS = dict(image_token_id=6, mask_token_id=7, bos_token_id=1, eos_token_id=2, pad_token_id=2)
IDS |= dict(start_header_id=3, end_header_id=4, eot_token_id=5)


class WholeTester:
    base_model_class, config_class, text_config_class = LladaVModel, LladaVConfig, LladaConfig
    vocabulary = TEXT["vocab_size"]  # rows of the embedding; the ids of the tests lie in the first of them

    def __init__(self, parent):
        self.parent = parent
        self.batch_size, self.is_training, self.use_labels = 7, True, True
        self.num_image_tokens = 2 * 2 + 1
        self.seq_length = 7 + self.num_image_tokens
        self.vocab_size, self.hidden_size = TEXT["vocab_size"], SIZES["hidden_size"]
        self.num_hidden_layers, self.num_attention_heads = 2, 2
        self.image_size, self.patch_size = 8, 4

    def get_config(self):
        return LladaVConfig(vision_config=dict(VISION), text_config=TEXT | {"vocab_size": self.vocabulary}, **IDS)

    def prepare_config_and_inputs_for_common(self):
        ids = (ids_tensor([self.batch_size, self.seq_length], self.vocab_size - 10) + 10).clamp(max=98)
        ids[:, : self.num_image_tokens] = IDS["image_token_id"]
        return self.get_config(), {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": floats_tensor([self.batch_size, 3, 8, 8]),
            "image_sizes": torch.tensor([[8, 8]] * self.batch_size),
            "image_layouts": torch.tensor([[int(Layout.SQUARE), 1]] * self.batch_size),
        }


class WholeModelTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (LladaVModel, LladaVForConditionalGeneration)
    _is_composite = True
    test_all_params_have_gradient = False  # the published features never pass the tower's post_layernorm
    additional_model_inputs = ["pixel_values", "image_sizes", "image_layouts"]
    test_torch_exportable = False

    def setUp(self):
        self.model_tester = WholeTester(self)
        self.config_tester = ConfigTester(self, config_class=LladaVConfig, has_text_modality=False)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = copy.deepcopy(inputs_dict)
        if return_labels and model_class is LladaVForConditionalGeneration:
            inputs["labels"] = inputs["input_ids"].clone()
            inputs["generator"] = torch.Generator().manual_seed(0)  # or two calls would draw different noise
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_forward_default_config_values(self):
        self.model_tester.vocabulary = LladaConfig.vocab_size  # the default ids are those of the published vocabulary
        super().test_model_forward_default_config_values()


class TrunkTester:
    base_model_class, config_class = LladaModel, LladaConfig

    def __init__(self, parent):
        self.parent = parent
        self.batch_size, self.seq_length, self.vocab_size, self.hidden_size = 3, 7, 99, 32
        self.num_hidden_layers, self.num_attention_heads, self.is_training = 2, 2, False

    def get_config(self):
        return LladaConfig(**TEXT)

    def prepare_config_and_inputs_for_common(self):
        ids = ids_tensor([3, 7], 99)
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class TrunkTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (LladaModel,)
    test_torch_exportable = False

    def setUp(self):
        self.model_tester = TrunkTester(self)
        self.config_tester = ConfigTester(self, config_class=LladaConfig, has_text_modality=True, hidden_size=32)

    def test_config(self):
        self.config_tester.run_common_tests()
