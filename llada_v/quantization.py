"""Weights of the trunk in fewer bits, through torchao: a step is bound by reading them.

Only the trunk's linear layers change. Tower, projector, embeddings and head keep their dtype: they are a small share of
the weights, and the head decides between tokens.
"""

from .errors import NoPackage, WrongValue

BITS = ("int8", "int4")
KEPT = ("lm_head", "model.vision_tower", "model.multi_modal_projector")
GROUP = 128  # weights that share one scale in int4; divides every width of the published model


def quantize(model, bits: str) -> None:
    """Turn the weights of the trunk's linear layers into 8 or 4 bits, in place; activations keep their dtype.

    The model can be saved, and loads again as any other.
    int8 runs on CPU and GPU; int4 is a kernel for bfloat16 on a GPU.
    Raises ValueError for other bits, for int4 on another device or dtype or with a width that its groups do not divide;
    ImportError without torchao.
    """
    if bits not in BITS:
        raise WrongValue(f"bits is {bits!r}; choose one of {', '.join(BITS)}")
    import torch  # here, for the command line lists `BITS` and waits for nothing

    trunk = model.model.language_model
    if bits == "int4":
        if trunk.device.type != "cuda" or trunk.dtype != torch.bfloat16:
            raise WrongValue(
                f"the model is {trunk.dtype} on {trunk.device}, but int4 weights run in bfloat16 on a GPU; use int8"
            )
        widths = {module.in_features for module in trunk.modules() if isinstance(module, torch.nn.Linear)}
        odd = sorted(width for width in widths if width % GROUP)
        if odd:
            raise WrongValue(f"int4 keeps groups of {GROUP} weights, which do not divide a width of {odd[0]}; use int8")
    try:
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise NoPackage(
            f"{bits} weights need torchao; install it with: bash init_env.sh quantize, or pip install torchao"
        ) from error
    from transformers import TorchAoConfig
    from transformers.quantizers import AutoHfQuantizer

    if bits == "int8":
        config = Int8WeightOnlyConfig()
    else:
        config = Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
    quantize_(trunk, config)
    # What transformers needs to save the model and load it again.
    model.config.quantization_config = TorchAoConfig(config, modules_to_not_convert=list(KEPT))
    model.hf_quantizer = AutoHfQuantizer.from_config(model.config.quantization_config)
