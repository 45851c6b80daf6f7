"""transformers' ImageProcessingTestMixin and VideoProcessingTestMixin for the two processors of pixels."""

import unittest

from peer_tests.test_image_processing_common import ImageProcessingTester, ImageProcessingTestMixin

from llada_v import LladaVImageProcessor


class Tester(ImageProcessingTester):
    def __init__(self, parent):
        super().__init__(parent, size={"height": 36, "width": 36}, patch_size=12, layout="square")

    def _get_image_processing_classes(self):
        return {"pil": LladaVImageProcessor}


class ImageProcessorTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = Tester
