"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: a frozen model that learns little.

Also around a frozen model in 4 bits (QLoRA, arXiv 2305.14314), which bitsandbytes keeps and computes with.
"""

import torch

from ..errors import NoPackage
from ..modeling_llada_v import LladaVForConditionalGeneration
from ..quantization import KEPT
from .recipe import Recipe

# Every linear layer inside the blocks of a part; embeddings and head stay as they are.
LINEARS = {
    "language_model": r"language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
    "vision_tower": r"vision_tower\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc\d)",
}


def import_peft():
    """The package. Raises ImportError with what to install."""
    try:
        import peft
    except ImportError as error:
        raise NoPackage("adapters need peft; install it with: bash init_env.sh train") from error
    return peft


def add_adapters(model: LladaVForConditionalGeneration, recipe: Recipe):
    """A peft model around the frozen one: adapters in the trained parts' blocks; the projector, if trained, as a whole.

    The adapters start as zero, so the model answers as before.
    """
    peft = import_peft()
    parts = [LINEARS[part] for part in recipe.train if part in LINEARS]
    settings = peft.LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=rf".*\.({'|'.join(parts)})",
        modules_to_save=["multi_modal_projector"] if "projector" in recipe.train else None,
    )
    # DeepSpeed wants one dtype for all that learns, and keeps float32 copies itself.
    adapted = peft.get_peft_model(model, settings, autocast_adapter_dtype=recipe.deepspeed is None)
    adapted.peft_config["default"].base_model_name_or_path = recipe.model
    return adapted


def quantization(recipe: Recipe):
    """transformers' settings for a frozen model in 4 bits; None where the recipe does not ask for it.

    Raises ImportError without bitsandbytes.
    """
    if recipe.quantize is None:
        return None
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise NoPackage("quantize 4bit needs bitsandbytes; install it with: bash init_env.sh quantize") from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if recipe.bf16 else torch.float32,
        llm_int8_skip_modules=list(KEPT),
    )
