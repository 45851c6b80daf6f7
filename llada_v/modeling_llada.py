"""LLaDA's trunk: a pre-norm Llama-style transformer that looks both ways.

It owns norm, rotary positions, attention and MLP, and knows neither pictures nor vocabularies nor sampling.
Shapes: B rows, L positions, Q asked-for positions (Q = L unless `wanted` is given), M of them in all rows, D width,
H heads, K width of one head.

    block:  norm -> q k v, rotary -> attend (residual) -> norm -> feed forward (residual)

`wanted` names the positions whose output is wanted. The last block computes queries, attention output and MLP for
those alone: every other position only has to offer keys and values there. The result is the same, the last block
costs a fraction.

A cache (`generation.cache`) holds keys and values of positions that a call does not run, and may hold what a block adds
to positions that it does not compute. It is an argument: there is one block for all.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.output_capturing import capture_outputs

from .configuration_llada_v import LladaConfig
from .errors import WrongType, WrongValue
from .packed import PackedRows

POSITIONS_MULTIPLE = 32
WHERE = ("subfolder", "revision", "cache_dir", "token", "local_files_only", "force_download")  # of from_pretrained


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

    def forward(self, query, key, value, attention_mask, mix=None):
        """Heads (B, H, Q, K) over keys and values (B, H, L, K) -> (B, Q, D), and the weights (B, H, Q, L).

        Only the back end "eager" has weights; the others give None.
        mix: in place of the back end, what makes (B, Q, H, K) of this module, query, key and value.
        """
        if mix is not None:
            return self.o_proj(mix(self, query, key, value).flatten(2)), None
        mixed, weights = self.attend(query, key, value, attention_mask)
        return self.o_proj(mixed.flatten(2)), weights

    def attend(self, query, key, value, attention_mask=None):
        """The back end's (B, Q, H, K), and its weights."""
        if query.shape[2] == 0:  # a cache or a draft asks for nothing; fused back ends refuse that
            return query.transpose(1, 2), None
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        if isinstance(attention_mask, PackedRows):
            return attention_mask.attend(attend, self, query, key, value, self.scaling), None
        return attend(self, query, key, value, attention_mask, scaling=self.scaling)

    def weights_of(self, query, key):
        """softmax(q k / sqrt(K)), (B, H, Q, L) float32, of chosen queries and all keys: what fused back ends hide."""
        key = key.repeat_interleave(self.num_key_value_groups, dim=1)
        return ((query @ key.transpose(2, 3)).float() * self.scaling).softmax(-1)


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
    """One layer: attend, feed forward."""

    def __init__(self, config: LladaConfig):
        super().__init__()
        self.self_attn = LladaAttention(config)
        self.mlp = LladaMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden, rotary, attention_mask, positions=None, cache=None):
        """(B, L, D) -> (B, L, D), or (B, Q, D) at `positions` (B, Q).

        cache: this layer's part of a cache. Then L are the positions that this call runs, the mask covers all that have
            keys, and the cache may name those of the L that are computed (`fresh`); the others keep what they got.
        """
        attention, normed = self.self_attn, self.input_layernorm(hidden)
        value = attention.split_heads(attention.v_proj(normed))
        fresh = None if cache is None else cache.select(value)
        if fresh is not None:
            normed, rotary = at_positions(normed, fresh), turned_at(rotary, fresh)
            value = attention.split_heads(at_positions(value.transpose(1, 2).flatten(2), fresh))
        key = rotate(attention.split_heads(attention.k_proj(normed)), *rotary)
        if cache is not None:
            key, value = cache.store(key, value, fresh)
        if positions is not None:
            normed, rotary = at_positions(normed, positions), turned_at(rotary, positions)
            hidden = at_positions(hidden, positions)
        query = rotate(attention.split_heads(attention.q_proj(normed)), *rotary)
        added, _ = attention(query, key, value, attention_mask, None if cache is None else cache.mix)
        hidden = hidden + (added if cache is None else cache.fill("attention", added, fresh))
        added = self.mlp(self.post_attention_layernorm(hidden if fresh is None else at_positions(hidden, fresh)))
        return hidden + (added if cache is None else cache.fill("mlp", added, fresh))


def at_positions(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows of x (B or 1, L, D) at `positions` (B, Q) -> (B, Q, D)."""
    x = x.expand(positions.shape[0], -1, -1)
    return x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))


def turned_at(rotary, positions: torch.Tensor):
    """The rotary tables (B or 1, 1, L, K) at `positions` (B, Q)."""
    cos, sin = (at_positions(table[:, 0], positions)[:, None] for table in rotary)
    return cos, sin


def gather_positions(wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (B, Q) of the true entries of `wanted` (B, L), and (M,) where these stand in B x Q: the rest is filler.

    Q is the largest number of true entries in a row, rounded up so that few different shapes occur (kernels are built
    per shape); a shorter row is filled with positions of its own.
    """
    counts = wanted.sum(1)
    width = min(wanted.shape[1], -(-max(1, int(counts.max())) // POSITIONS_MULTIPLE) * POSITIONS_MULTIPLE)
    positions = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
    is_wanted = torch.arange(width, device=wanted.device)[None] < counts[:, None]
    return positions, is_wanted.flatten().nonzero()[:, 0]


class LladaPreTrainedModel(PreTrainedModel):
    """What transformers must know to load, initialise and place the trunk."""

    config_class: type[PreTrainedConfig] = LladaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LladaBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": LladaBlock, "attentions": LladaAttention}

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            init.normal_(module.weight, std=self.config.get_text_config().initializer_range)
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)


class LladaModel(LladaPreTrainedModel):
    """Embeddings in, the last hidden states out. No causal mask anywhere: every position sees every other."""

    config: LladaConfig

    def __init__(self, config: LladaConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LladaBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """transformers' own, of what this class has saved. Raises ValueError for a published language model: its sizes
        and weights have other names, and it would come out random.
        """
        config = kwargs.get("config")
        if not isinstance(config, PreTrainedConfig):
            where = {name: kwargs[name] for name in WHERE if kwargs.get(name) is not None}
            config = cls.config_class.from_pretrained(config or pretrained_model_name_or_path, **where)
        if theirs := sorted({"d_model", "rope_theta"} & config.to_dict().keys()):
            raise WrongValue(
                f"{pretrained_model_name_or_path} is a published language model (its config.json has "
                f"{' and '.join(theirs)}); make a LLaDA-V of it with `llada-v convert`"
            )
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        wanted: torch.Tensor | None = None,
        cache=None,
        compiled: bool = False,
        use_cache: bool | None = None,
        lengths: Sequence[int] | None = None,
        **recorded,
    ) -> BaseModelOutput:
        """Hidden states after the final norm.

        input_ids: (B, L) ids, or `inputs_embeds` (B, L, D) instead.
        attention_mask: (B, L), 1 = attend to this position; or (B, 1, L, L), True = row may see column, or floats that
            are added to the scores, 0 = may see and below that (a large negative number) = may not.
            None: everything sees everything.
        position_ids: (B, L) or (1, L); by default each row counts its attended positions from 0, so that padding on
            either side changes nothing.
        wanted: (B, L) bool, the positions whose states are wanted; None for all.
        cache: a `generation.cache.Cache`, told what this call runs: then the inputs are those positions, and the mask
            covers the whole sequence. Give position_ids with it.
        compiled: run the layers through torch.compile, on a GPU with CUDA graphs.
        lengths: the only row is rows of so many tokens, one behind the other; each sees itself alone and counts its
            positions from 0, as if it stood in a batch without filler. There is no mask then.
        use_cache: has no effect; keys that later positions change cannot be kept from left to right.
        recorded: transformers' output_hidden_states, output_attentions (with attn_implementation="eager") and
            return_dict. All layers' states are those of all positions, but the last layer's where `wanted`.
        Masks, positions and `wanted` may be on the CPU: what is read of them then costs no wait for the device.
        Returns last_hidden_state (B, L, D), or (M, D) where wanted, row by row in order of position.
        Raises ValueError unless exactly one of input_ids and inputs_embeds is given, and for lengths that do not fit.
        """
        check_recorded(recorded)
        if (input_ids is None) == (inputs_embeds is None):
            raise WrongValue("give either input_ids or inputs_embeds, not both and not neither")
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        device = hidden.device
        packed = None if lengths is None else pack(lengths, hidden, attention_mask, cache)
        if packed is not None and position_ids is None:
            position_ids = packed.positions()
        if position_ids is None:
            position_ids = default_positions(attention_mask, hidden)
        rotary = self.rotary(position_ids.to(device, non_blocking=True), hidden.dtype)
        mask = packed or self.prepare_mask(attention_mask)
        mask = mask.to(device, non_blocking=True) if isinstance(mask, torch.Tensor) else mask
        positions, places = (None, None) if wanted is None else self.gather_positions(wanted)
        if positions is not None:
            positions, places = (part.to(device, non_blocking=True) for part in (positions, places))
        # Flash attention unpads queries with the keys' mask, so there all positions are computed and picked at the end.
        picks_in_block = mask is None or isinstance(mask, torch.Tensor) and mask.dim() == 4 and mask.shape[2] == 1
        picks_in_block &= cache is None or not cache.gives_all
        layers = cache and cache.layers
        run = partial(compiled_run(device.type), self) if compiled else self.run
        hidden = run(hidden, rotary, mask, positions if picks_in_block else None, layers)
        if positions is not None and not picks_in_block:
            hidden = at_positions(hidden, positions)
        return BaseModelOutput(last_hidden_state=hidden if places is None else hidden.flatten(0, 1)[places])

    gather_positions = staticmethod(gather_positions)

    def rotary(self, position_ids: torch.Tensor, dtype: torch.dtype):
        """`rotary_tables` of this trunk."""
        return rotary_tables(self.config, position_ids, dtype)

    def run(self, hidden, rotary, attention_mask, positions, caches):
        """Every layer and the final norm; the last layer at `positions` alone. caches: one a layer, or None."""
        for index, layer in enumerate(self.layers):
            is_last = index == len(self.layers) - 1
            cache = None if caches is None else caches[index]
            hidden = layer(hidden, rotary, attention_mask, positions if is_last else None, cache)
        return self.norm(hidden)

    def prepare_mask(self, attention_mask):
        """The mask in the form the attention back end takes; None where nothing is hidden.

        A padding mask stays (B, 1, 1, L): broadcast over queries, never L x L.
        """
        if attention_mask is None:
            return None
        if attention_mask.dim() == 4:
            attention_mask = visible(attention_mask)
        if bool(attention_mask.all()):
            return None
        if attention_mask.dim() == 4:
            return attention_mask
        if "flash" in self.config._attn_implementation:
            return attention_mask
        return attention_mask[:, None, None, :].bool()


@cache
def compiled_run(kind: str) -> Callable:
    """`LladaModel.run` through torch.compile, for all models and answers on devices of that kind.

    On a GPU with CUDA graphs, which need one shape each. Elsewhere lengths are unknown numbers from the start: as known
    ones, everything would be built a second time for the second prompt.
    """
    is_graph = kind == "cuda"
    return torch.compile(
        LladaModel.run, mode="reduce-overhead" if is_graph else None, dynamic=None if is_graph else True
    )


def pack(lengths: Sequence[int], hidden: torch.Tensor, attention_mask, cache) -> PackedRows:
    """The rows of these lengths. Raises ValueError where they are not those of `hidden` (1, L, D), or are not alone."""
    if attention_mask is not None or cache is not None:
        raise WrongValue("lengths say what each token sees; leave attention_mask and cache out")
    if hidden.shape[0] != 1 or sum(lengths) != hidden.shape[1]:
        raise WrongValue(
            f"lengths are those of rows of {sum(lengths)} tokens in one, but the input is {tuple(hidden.shape[:2])}; "
            "put the rows one behind the other, without filler"
        )
    return PackedRows(lengths, hidden.device)


def visible(mask: torch.Tensor) -> torch.Tensor:
    """A mask (B, 1, L, L) as bool, True where row may see column.

    Floats are added to attention scores: 0 is seen, below half the dtype's least is not; weights between are refused.
    """
    if not mask.is_floating_point():
        return mask.bool()
    hidden = mask <= torch.finfo(mask.dtype).min / 2
    if not bool(((mask == 0) | hidden).all()):
        raise WrongValue(
            "a float attention_mask is added to the scores: 0 where a row may see a column, the dtype's least number "
            "or -inf where not; this one holds others. Give a bool mask, True where it may see"
        )
    return ~hidden


def check_recorded(recorded: dict) -> None:
    """Raise TypeError for a keyword that is not one of transformers' for outputs."""
    known = {"output_hidden_states", "output_attentions", "return_dict"}
    if unknown := sorted(name for name, value in recorded.items() if name not in known and value is not None):
        raise WrongType(f"forward has no argument {', '.join(unknown)}")


def default_positions(attention_mask: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor:
    """Position ids (B, L) or (1, L) that count attended tokens from 0."""
    if attention_mask is not None and attention_mask.dim() == 2:
        return (attention_mask.long().cumsum(1) - 1).clamp_min(0)
    return torch.arange(hidden.shape[1], device=hidden.device)[None]
