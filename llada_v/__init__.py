"""LLaDA-V: a masked-diffusion model that answers questions about pictures (arXiv 2505.16933).

Letters for shapes, the same everywhere: B rows, L positions, G positions of the answer, T tiles, N pictures,
F picture features, D width, V vocabulary, M masked positions.
"""

from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageTextToText, AutoProcessor

from .checkpoint.configs import PUBLISHED_MODEL_TYPE
from .configuration_llada_v import LladaConfig, LladaVConfig
from .generation.config import SamplerConfig
from .modeling_llada_v import LladaVForConditionalGeneration, LladaVModel
from .processing_llada_v import LladaVProcessor

AutoConfig.register("llada_v", LladaVConfig)
CONFIG_MAPPING.register(PUBLISHED_MODEL_TYPE, LladaVConfig)  # translated by LladaVConfig.from_dict
AutoModelForImageTextToText.register(LladaVConfig, LladaVForConditionalGeneration)
AutoProcessor.register(LladaVConfig, LladaVProcessor)

__version__ = "0.1.0"

__all__ = [
    "LladaConfig",
    "LladaVConfig",
    "LladaVForConditionalGeneration",
    "LladaVModel",
    "LladaVProcessor",
    "SamplerConfig",
]
