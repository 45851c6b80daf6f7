"""Names of weights: one table a layout, and what renames by it."""

import re

PUBLISHED_MODEL_TYPE = "llava_llada"  # of published folders; `LladaVConfig.from_dict` translates their fields
ILLADA_MODEL_TYPE = "illada"  # of iLLaDA, whose weights have the names of LLADA_HF
EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"  # what has a row for each token

# Tables: (their prefix, our prefix). "{i}" is a layer number.
LLADA_HF = (
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.layers.", "model.language_model.layers."),
    ("model.norm.", "model.language_model.norm."),
    ("lm_head.", "lm_head."),
)
PUBLISHED = LLADA_HF + (
    ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("model.image_newline", "model.image_newline"),
)
THEIR_BLOCK, OUR_BLOCK = "model.transformer.blocks.{i}.", "model.language_model.layers.{i}."
LLADA_ORIGINAL = (
    ("model.transformer.wte.", "model.language_model.embed_tokens."),
    ("model.transformer.ln_f.", "model.language_model.norm."),
    ("model.transformer.ff_out.", "lm_head."),
    (THEIR_BLOCK + "q_proj.", OUR_BLOCK + "self_attn.q_proj."),
    (THEIR_BLOCK + "k_proj.", OUR_BLOCK + "self_attn.k_proj."),
    (THEIR_BLOCK + "v_proj.", OUR_BLOCK + "self_attn.v_proj."),
    (THEIR_BLOCK + "attn_out.", OUR_BLOCK + "self_attn.o_proj."),
    (THEIR_BLOCK + "ff_proj.", OUR_BLOCK + "mlp.gate_proj."),
    (THEIR_BLOCK + "up_proj.", OUR_BLOCK + "mlp.up_proj."),
    (THEIR_BLOCK + "ff_out.", OUR_BLOCK + "mlp.down_proj."),
    (THEIR_BLOCK + "attn_norm.", OUR_BLOCK + "input_layernorm."),
    (THEIR_BLOCK + "ff_norm.", OUR_BLOCK + "post_attention_layernorm."),
)
SIGLIP = (
    ("vision_model.", "model.vision_tower."),
    # A SiglipVisionModel saved by transformers 5 has no prefix.
    ("embeddings.", "model.vision_tower.embeddings."),
    ("encoder.", "model.vision_tower.encoder."),
    ("post_layernorm.", "model.vision_tower.post_layernorm."),
)
# What a SigLIP2 checkpoint holds and LLaDA-V has no use for; its last encoder layer "{i}" among it.
SIGLIP_DROPPED = (
    "text_model.",
    "logit_scale",
    "logit_bias",
    "vision_model.head.",
    "head.",
    "vision_model.encoder.layers.{i}.",
    "encoder.layers.{i}.",
)
OURS = (("", ""),)
BASE = (("", "model."),)  # ours, saved without the head
# What stands beside or in place of a quantized weight, by the method that a config's quantization_config names.
QUANTIZED = {
    "bitsandbytes": r"\.(weight\.((nested_)?(absmax|quant_map)|quant_state\.\w+)|SCB|weight_format)$",
    "torchao": r"\._weight_\w+$",
}
FRESH = ("model.multi_modal_projector.", "model.image_newline")  # what a conversion from LLaDA-8B makes new
# The published renames as `key_mapping` of transformers' from_pretrained; our own names match none of them.
KEY_MAPPING = {"^" + re.escape(theirs): ours for theirs, ours in PUBLISHED if theirs != ours}


def rename(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    """The name under the table's right-hand side; None where no row fits."""
    for theirs, ours in table:
        found = re.match(re.escape(theirs).replace(r"\{i\}", r"(\d+)"), name)
        if found:
            return (ours.format(i=found[1]) if found.groups() else ours) + name[found.end() :]
    return None


def inverse(table: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """The table read from right to left."""
    return tuple((ours, theirs) for theirs, ours in table)


def published_name(name: str) -> str | None:
    """The published checkpoint's name of one of our weights."""
    return rename(name, inverse(PUBLISHED))


def table_for(names) -> tuple[tuple[str, str], ...] | None:
    """The table of a folder with these names; None where it is none we know."""
    marks = {
        "model.language_model.": OURS,
        "language_model.": BASE,
        "model.transformer.": LLADA_ORIGINAL,
        "model.vision_tower.": PUBLISHED,
        "model.mm_projector.": PUBLISHED,
        "model.layers.": LLADA_HF,
    }
    for mark, table in marks.items():
        if any(name.startswith(mark) for name in names):
            return table
    return None
