"""Our classes for transformers' Auto classes, without importing transformers before it is used.

`announce` puts stand-ins into the mappings of `AutoConfig` and `AutoProcessor`, at once where transformers has loaded
them, else right after it does: Python asks every finder of `sys.meta_path` for a module that is imported for the first
time. A stand-in that is used brings the real classes. They are not imported earlier, for transformers may be in the
middle of importing what they are made of.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

from .checkpoint.names import PUBLISHED_MODEL_TYPE

KINDS = ("configuration", "processing", "image_processing", "video_processing")
CONFIGS, PROCESSORS, IMAGES, VIDEOS = (f"transformers.models.auto.{kind}_auto" for kind in KINDS)


class StandIn(type):
    """A class that stands for the one of ours with its name until an attribute or an instance is asked for."""

    def __new__(mcs, name: str):
        return super().__new__(mcs, name, (), {})

    def __init__(cls, name: str):
        super().__init__(name, (), {})

    def __getattr__(cls, attribute: str):
        return getattr(cls.real(), attribute)

    def __call__(cls, *args, **kwargs):
        return cls.real()(*args, **kwargs)

    def real(cls) -> type:
        """The class that it stands for."""
        register()
        return getattr(import_module(__package__), cls.__name__)


CONFIG, PROCESSOR = StandIn("LladaVConfig"), StandIn("LladaVProcessor")


def put_config(module) -> None:
    """The stand-in of the config, by both model types."""
    for model_type in ("llada_v", PUBLISHED_MODEL_TYPE):
        module.CONFIG_MAPPING.register(model_type, CONFIG)


def put_processor(module) -> None:
    """The stand-in of the processor, which transformers finds by the name in `processor_config.json`."""
    module.PROCESSOR_MAPPING.register(CONFIG, PROCESSOR)


def put_images(module) -> None:
    """The stand-in of the image processor, found by its name as well."""
    module.IMAGE_PROCESSOR_MAPPING.register(CONFIG, {"pil": StandIn("LladaVImageProcessor")})


def put_videos(module) -> None:
    """The stand-in of the video processor."""
    module.VIDEO_PROCESSOR_MAPPING.register(CONFIG, of_videos(module, StandIn("LladaVVideoProcessor")))


def of_videos(module, processor: type):
    """The processor as that mapping has it: by back end, or alone in older versions of transformers."""
    is_by_backend = any(isinstance(entry, dict) for entry in module.VIDEO_PROCESSOR_MAPPING_NAMES.values())
    return {"pil": processor, "torchvision": processor} if is_by_backend else processor


class Waiting(MetaPathFinder):
    """Runs a function on a module right after it was imported for the first time."""

    def __init__(self, functions: dict):
        self.functions = functions

    def find_spec(self, fullname, path, target=None):
        """The spec that the other finders have, with the function behind the module's own code."""
        function = self.functions.pop(fullname, None)
        spec = find_spec(fullname) if function else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_both(module):
            execute(module)
            function(module)

        spec.loader.exec_module = execute_both  # type: ignore[method-assign]  # what this finder is for
        return spec


def announce() -> None:
    """Put the stand-ins into transformers' mappings, now or when there are any."""
    later = {}
    puts = {CONFIGS: put_config, PROCESSORS: put_processor, IMAGES: put_images, VIDEOS: put_videos}
    for name, put in puts.items():
        if name in sys.modules:
            put(sys.modules[name])
        else:
            later[name] = put
    if later:
        sys.meta_path.insert(0, Waiting(later))


def register() -> None:
    """Put the real classes into the mappings of transformers' Auto classes."""
    from transformers import (
        CONFIG_MAPPING,
        AutoImageProcessor,
        AutoModel,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
    )
    from transformers.models.auto import modeling_auto

    from .configuration_llada_v import LladaConfig, LladaVConfig
    from .image_processing_llada_v import LladaVImageProcessor, LladaVVideoProcessor
    from .modeling_llada import LladaModel
    from .modeling_llada_v import LladaVForConditionalGeneration, LladaVModel
    from .processing_llada_v import LladaVProcessor

    for model_type in (LladaVConfig.model_type, PUBLISHED_MODEL_TYPE):
        CONFIG_MAPPING.register(model_type, LladaVConfig, exist_ok=True)
    CONFIG_MAPPING.register(LladaConfig.model_type, LladaConfig, exist_ok=True)
    AutoModel.register(LladaConfig, LladaModel, exist_ok=True)
    AutoModel.register(LladaVConfig, LladaVModel, exist_ok=True)
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto.register(LladaVConfig, LladaVForConditionalGeneration, exist_ok=True)
    # What transformers looks up by name, such as its server: the mappings above do not reach these.
    modeling_auto.MODEL_MAPPING_NAMES[LladaVConfig.model_type] = LladaVModel.__name__
    modeling_auto.MODEL_MAPPING_NAMES[LladaConfig.model_type] = LladaModel.__name__
    for names in (
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    ):
        names[LladaVConfig.model_type] = LladaVForConditionalGeneration.__name__
    AutoImageProcessor.register(LladaVConfig, slow_image_processor_class=LladaVImageProcessor, exist_ok=True)
    videos = import_module(VIDEOS)  # its Auto class cannot be imported without torchvision
    videos.VIDEO_PROCESSOR_MAPPING.register(LladaVConfig, of_videos(videos, LladaVVideoProcessor), exist_ok=True)
    AutoProcessor.register(LladaVConfig, LladaVProcessor, exist_ok=True)
