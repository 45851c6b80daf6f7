"""LLaDA's trunk: a pre-norm Llama-style transformer that looks both ways.

It owns norm, rotary positions, attention and MLP, and knows neither pictures nor vocabularies nor sampling.
Shapes: B rows, L positions, Q asked-for positions (Q = L unless `positions` is given), D width, H heads, K width of one
head.

    block:  project (norm, q k v, rotary) -> attend (residual) -> feed_forward (residual)

`positions` names the positions whose output is wanted. The last block computes queries, attention output and MLP for
those alone: every other position only has to offer keys and values there. The result is the same, the last block
costs a fraction.
"""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_llada_v import LladaConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight, the quotient in float32 (arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        exact = x.float()
        exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * exact.to(x.dtype)


def rotary_tables(config: LladaConfig, position_ids: torch.Tensor, dtype: torch.dtype):
    """Cosine and sine of position x theta^(-2i/K), each (B, 1, L, K), the K/2 angles repeated (half-split layout).

    Angles are exact (float32); the tables are rounded to the activations' dtype before use, as the published
    weights saw them. Computed from the config at each call: a buffer would be rounded by a module-wide `.bfloat16()`.
    """
    exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=position_ids.device) / config.head_dim
    inv_freq = 1.0 / config.rope_base**exponent
    if config.rope_inv_freq == "bf16_rounded":
        inv_freq = inv_freq.bfloat16().float()
    angles = position_ids[:, None, :, None].float() * inv_freq
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn each pair (x_i, x_{i + K/2}) by its angle (arXiv 2104.09864)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def eager_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """softmax(q k / sqrt(K)) v with nothing fused: the plain form that the other back ends are tested against."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


class LladaAttention(nn.Module):
    """Bidirectional attention with rotary positions, through transformers' attention interface."""

    def __init__(self, config: LladaConfig):
        super().__init__()
        self.config = config
        self.scaling = config.head_dim**-0.5
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.is_causal = False  # read by sdpa and flash attention when there is no mask
        query_width = config.num_attention_heads * config.head_dim
        key_width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, key_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, key_width, bias=False)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=False)

    def split_heads(self, x):
        """(B, L, H * K) -> (B, H, L, K)."""
        return x.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)

    def forward(self, query, key, value, attention_mask):
        """Heads (B, H, Q, K) over keys and values (B, H, L, K) -> (B, Q, D)."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        mixed, _ = attend(self, query, key, value, attention_mask, scaling=self.scaling)
        return self.o_proj(mixed.flatten(2))


class LladaMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: LladaConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class LladaBlock(GradientCheckpointingLayer):
    """One layer: project, attend, feed forward."""

    def __init__(self, config: LladaConfig):
        super().__init__()
        self.self_attn = LladaAttention(config)
        self.mlp = LladaMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden, rotary, attention_mask, positions=None):
        """(B, L, D) -> (B, L, D), or (B, Q, D) at `positions` (B, Q)."""
        query, key, value = self.project(hidden, rotary, positions)
        if positions is not None:
            hidden = at_positions(hidden, positions)
        hidden = hidden + self.self_attn(query, key, value, attention_mask)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))

    def project(self, hidden, rotary, positions):
        """Rotated queries at `positions` and keys everywhere, and values, each (B, H, ., K)."""
        attention = self.self_attn
        normed, (cos, sin) = self.input_layernorm(hidden), rotary
        key = rotate(attention.split_heads(attention.k_proj(normed)), cos, sin)
        value = attention.split_heads(attention.v_proj(normed))
        if positions is not None:
            normed = at_positions(normed, positions)
            cos, sin = (at_positions(table[:, 0], positions)[:, None] for table in rotary)
        query = rotate(attention.split_heads(attention.q_proj(normed)), cos, sin)
        return query, key, value


def at_positions(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows of x (B or 1, L, D) at `positions` (B, Q) -> (B, Q, D)."""
    x = x.expand(positions.shape[0], -1, -1)
    return x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))


class LladaPreTrainedModel(PreTrainedModel):
    """What transformers must know to load, initialise and place the trunk."""

    config_class = LladaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LladaBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            init.normal_(module.weight, std=self.config.get_text_config().initializer_range)
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)


class LladaModel(LladaPreTrainedModel):
    """Embeddings in, the last hidden states out. No causal mask anywhere: every position sees every other."""

    def __init__(self, config: LladaConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LladaBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> BaseModelOutput:
        """Hidden states after the final norm.

        input_ids: (B, L) ids, or `inputs_embeds` (B, L, D) instead.
        attention_mask: (B, L), 1 = attend to this position; or (B, 1, L, L) bool, True = row may see column.
            None: everything sees everything.
        position_ids: (B, L) or (1, L); by default each row counts its attended positions from 0, so that padding on
            either side changes nothing.
        positions: (B, Q) indices whose states are wanted; None for all.
        Returns last_hidden_state (B, Q, D).
        Raises ValueError unless exactly one of input_ids and inputs_embeds is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, not both and not neither")
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = default_positions(attention_mask, hidden)
        rotary = rotary_tables(self.config, position_ids, hidden.dtype)
        mask = self.prepare_mask(attention_mask)
        # Flash attention unpads queries with the keys' mask, so there all positions are computed and picked at the end.
        pick_in_block = positions is not None and (mask is None or mask.dim() == 4 and mask.shape[2] == 1)
        for index, layer in enumerate(self.layers):
            is_last = index == len(self.layers) - 1
            hidden = layer(hidden, rotary, mask, positions if pick_in_block and is_last else None)
        if positions is not None and not pick_in_block:
            hidden = at_positions(hidden, positions)
        return BaseModelOutput(last_hidden_state=self.norm(hidden))

    def prepare_mask(self, attention_mask):
        """The mask in the form the attention back end takes; None where nothing is hidden.

        A padding mask stays (B, 1, 1, L): broadcast over queries, never L x L.
        """
        if attention_mask is None or bool(attention_mask.all()):
            return None
        if attention_mask.dim() == 4:
            return attention_mask.bool()
        if "flash" in self.config._attn_implementation:
            return attention_mask
        return attention_mask[:, None, None, :].bool()


def default_positions(attention_mask: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor:
    """Position ids (B, L) or (1, L) that count attended tokens from 0."""
    if attention_mask is not None and attention_mask.dim() == 2:
        return (attention_mask.long().cumsum(1) - 1).clamp_min(0)
    return torch.arange(hidden.shape[1], device=hidden.device)[None]
