"""transformers' ImageProcessingTestMixin for the processor of pictures."""

import unittest

from peer_tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin

from llada_v import LladaVImageProcessor


class Pictures(ImageProcessingTester):
    """Pictures of many sizes. What the mixin reads of it stands here: not all versions have its constructor."""

    batch_size, num_channels, min_resolution, max_resolution = 7, 3, 30, 400
    size = {"height": 36, "width": 36}

    def __init__(self):
        pass


class ImageProcessorTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processing_classes = {"pil": LladaVImageProcessor}
    image_processor_dict = {"size": Pictures.size, "patch_size": 12, "layout": "square"}

    def setUp(self):
        self.image_processor_tester = Pictures()
