"""transformers' ProcessorTesterMixin for the processor, with the tiny model's files."""

import unittest
from pathlib import Path

import numpy as np
from peer_tests.test_processing_common import ProcessorTesterMixin
from PIL import Image

import llada_v
from llada_v import LladaVProcessor

FOLDER = Path(llada_v.__file__).parent.parent / "model" / "llada-v-tiny"


class ProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = LladaVProcessor
    model_id = str(FOLDER)
    # One row a picture or video; pixel_values has one a tile.
    images_input_name = videos_input_name = "image_sizes"

    # The prompts of the tests with their pictures, in tokens of this tokenizer.
    images_text_kwargs_max_length = videos_text_kwargs_max_length = 600
    images_text_kwargs_override_max_length = videos_text_kwargs_override_max_length = 590
    images_unstructured_max_length = videos_unstructured_max_length = 580
    chat_template_max_length = 100

    def prepare_images_inputs(self, batch_size=None, nested=False):
        """Pictures of a usual shape: on the tiny model's few canvases, 30 x 400 pixels leave no feature."""
        picture = Image.fromarray(np.random.default_rng(0).integers(255, size=(60, 80, 3), dtype=np.uint8))
        if batch_size is None:
            return picture
        return [[picture]] * batch_size if nested else [picture] * batch_size

    def _check_modality_outputs(self, inputs, modality):
        self.assertLessEqual(inputs["pixel_values"][0][0].mean(), 0)

    def test_apply_chat_template_video_frame_sampling(self):
        self.videos_input_name = "pixel_values"  # one row a frame
        super().test_apply_chat_template_video_frame_sampling()

    @property
    def video_sampling_expectations(self):
        """Frames are the first axis, and 32 are taken evenly where nothing is said."""
        return [
            {"num_frames": 3, "fps": None, "expected_dim": 0, "output_length": 3},
            {"num_frames": None, "fps": 5, "expected_dim": 0, "output_length": 6},
            {"do_sample_frames": False, "fps": 10, "expected_dim": 0, "output_length": 11},
            {"do_sample_frames": False, "expected_dim": 0, "output_length": 11},
            {"expected_dim": 0, "output_length": 32},
        ]
