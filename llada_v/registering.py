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

CONFIGS, PROCESSORS = (f"transformers.models.auto.{name}_auto" for name in ("configuration", "processing"))


class StandIn:
    """Stands for a class of ours until one of its attributes is asked for."""

    def __init__(self, name: str):
        self.__name__ = name

    def __getattr__(self, attribute: str):
        register()
        return getattr(getattr(import_module(__package__), self.__name__), attribute)


CONFIG, PROCESSOR = StandIn("LladaVConfig"), StandIn("LladaVProcessor")


def put_config(module) -> None:
    """The stand-in of the config, by both model types."""
    for model_type in ("llada_v", PUBLISHED_MODEL_TYPE):
        module.CONFIG_MAPPING.register(model_type, CONFIG)


def put_processor(module) -> None:
    """The stand-in of the processor, which transformers finds by the name in `processor_config.json`."""
    module.PROCESSOR_MAPPING.register(CONFIG, PROCESSOR)


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

        spec.loader.exec_module = execute_both
        return spec


def announce() -> None:
    """Put the stand-ins into transformers' mappings, now or when there are any."""
    later = {}
    for name, put in ((CONFIGS, put_config), (PROCESSORS, put_processor)):
        if name in sys.modules:
            put(sys.modules[name])
        else:
            later[name] = put
    if later:
        sys.meta_path.insert(0, Waiting(later))


def register() -> None:
    """Put the real classes into the mappings of transformers' Auto classes."""
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, AutoProcessor

    from .configuration_llada_v import LladaVConfig
    from .modeling_llada_v import LladaVForConditionalGeneration
    from .processing_llada_v import LladaVProcessor

    for model_type in (LladaVConfig.model_type, PUBLISHED_MODEL_TYPE):
        CONFIG_MAPPING.register(model_type, LladaVConfig, exist_ok=True)
    AutoModelForImageTextToText.register(LladaVConfig, LladaVForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(LladaVConfig, LladaVProcessor, exist_ok=True)
