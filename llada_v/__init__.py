"""LLaDA-V: a masked-diffusion model that answers questions about pictures (arXiv 2505.16933).

Letters for shapes, the same everywhere: B rows, L positions, G positions of the answer, T tiles, N pictures,
F picture features, D width, V vocabulary, M masked positions.

Importing the package is quick: what a name needs is imported when it is first used (PEP 562). transformers' Auto
classes and pipelines know our folders as soon as the package is imported, see `registering`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .registering import announce, register

if TYPE_CHECKING:
    from .answering import Answer, PictureMemory, answer, load
    from .configuration_llada_v import LladaConfig, LladaVConfig
    from .decisions import Decision, decide, fit_temperature
    from .generation.config import SamplerConfig
    from .generation.sampler import SamplerOutput, SamplerState
    from .image_processing_llada_v import LladaVImageProcessor, LladaVVideoProcessor
    from .modeling_llada_v import LladaVForConditionalGeneration, LladaVModel
    from .processing_llada_v import LladaVProcessor

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Decision",
    "LladaConfig",
    "LladaVConfig",
    "LladaVForConditionalGeneration",
    "LladaVImageProcessor",
    "LladaVModel",
    "LladaVProcessor",
    "LladaVVideoProcessor",
    "PictureMemory",
    "SamplerConfig",
    "SamplerOutput",
    "SamplerState",
    "answer",
    "decide",
    "fit_temperature",
    "load",
]
MODULES = {
    "answering": ("Answer", "PictureMemory", "answer", "load"),
    "configuration_llada_v": ("LladaConfig", "LladaVConfig"),
    "decisions": ("Decision", "decide", "fit_temperature"),
    "generation.config": ("SamplerConfig",),
    "generation.sampler": ("SamplerOutput", "SamplerState"),
    "image_processing_llada_v": ("LladaVImageProcessor", "LladaVVideoProcessor"),
    "modeling_llada_v": ("LladaVForConditionalGeneration", "LladaVModel"),
    "processing_llada_v": ("LladaVProcessor",),
}


def __getattr__(name: str):
    """A public name, imported where it is first used."""
    module = next((module for module, names in MODULES.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
    if name.startswith("Llada"):
        register()
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


announce()
