"""transformers' words for `generate`, and its GenerationConfig, in terms of a `SamplerConfig`.

Each word is followed with the meaning that it can have for a sampler that reveals tokens in any order, or refused by
name; none is ignored. Knows no model and no transformers: a GenerationConfig is an object with fields.
"""

from dataclasses import dataclass

from ..errors import WrongType, WrongValue
from .config import SamplerConfig
from .presets import KEY

OF_SAMPLER = ("max_new_tokens", "max_length", "do_sample", "temperature", "eos_token_id", "stop_strings")
# What changes nothing: values that ask for what is done anyway. use_cache is about the keys of a causal model.
NEUTRAL = {
    "use_cache": (True, False),
    "top_k": (0,),
    "top_p": (1,),
    "typical_p": (1,),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "repetition_penalty": (1,),
    "encoder_repetition_penalty": (1,),
    "length_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "diversity_penalty": (0,),
}
# Fields of a GenerationConfig that are about its file, or that `generate` has as arguments.
ABOUT = {
    "transformers_version",
    "bos_token_id",
    "decoder_start_token_id",
    "return_dict_in_generate",
    "output_attentions",
    KEY,
}
ABOUT |= {"output_hidden_states", "output_scores", "output_logits"}
NEVER: tuple[str, ...] = ("inputs_embeds", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn")
NEVER += ("assistant_model",)
NEVER += ("negative_prompt_ids", "negative_prompt_attention_mask", "custom_generate", "synced_gpus", "past_key_values")
NEVER += ("output_attentions", "output_hidden_states", "output_scores", "output_logits", "bos_token_id")
NO_EFFECT = {"mm_token_type_ids", "trust_remote_code"}  # what a processor may give beside the ids, what a hub asks


@dataclass(frozen=True)
class Asked:
    """What a call of `generate` asks for.

    sampler: the settings of an answer. num_return_sequences: answers to each prompt. pad_token_id: what stands behind
        an answer in `sequences`.
    """

    sampler: SamplerConfig
    num_return_sequences: int
    pad_token_id: int


def read_keywords(keywords: dict, sampler: SamplerConfig | None, given, own, prompt_length: int, config) -> Asked:
    """The settings of a call.

    keywords: beside the named arguments of `generate`; None is as if left out. They win over `given`, a
        GenerationConfig of the call, and that over the model's `own`. With a `sampler` neither config counts.
    prompt_length: columns of the prompts, which max_length counts in. config: the model's, for its ids.
    Raises TypeError for an unknown word, ValueError for one that is not followed or contradicts another.
    """
    keywords = {name: value for name, value in keywords.items() if value is not None and name not in NO_EFFECT}
    known = fields_of(own).keys() | set(OF_SAMPLER) | set(NEVER)
    if unknown := sorted(keywords.keys() - known):
        raise WrongType(f"generate has no argument {', '.join(unknown)}")
    check_neutral(keywords)
    num = keywords.get("num_return_sequences", 1)
    pad_token_id = keywords.get("pad_token_id", config.eos_token_id)
    if sampler is not None:
        if both := [name for name in OF_SAMPLER if name in keywords]:
            raise WrongValue(f"give sampler or {', '.join(both)}, not both: the sampler has fields for it")
    else:
        settings: dict = {}
        for source in (own, given):
            if source is not None:
                asked = fields_of(source)
                check_neutral({name: value for name, value in asked.items() if name not in ABOUT})
                # A length of prompt and answer may be transformers' default, and the end of a text is none of an
                # answer: both are a wish where a config of the call has others than the model's own.
                for name in ("max_length", "eos_token_id"):
                    if asked.get(name) in (fields_of(type(source)()).get(name), fields_of(own).get(name)):
                        asked.pop(name, None)
                if not asked.get("do_sample"):
                    asked.pop("temperature", None)  # transformers' too, where nothing is drawn
                settings |= {name: value for name, value in asked.items() if value is not None}
        if "max_length" in keywords or "max_length" in settings and fields_of(given).get("max_new_tokens") is None:
            settings.pop("max_new_tokens", None)
        settings |= keywords
        sampler = sampler_of(settings, prompt_length, config)
        num = settings.get("num_return_sequences", 1)
        pad_token_id = settings.get("pad_token_id", pad_token_id)
    if isinstance(num, bool) or not isinstance(num, int) or num < 1:
        raise WrongValue(f"num_return_sequences is {num!r}; it must be a whole number of at least 1")
    if num > 1 and not sampler.temperature and sampler.remasking != "random":
        raise WrongValue(f"num_return_sequences is {num}, but without chance all answers are one; set a temperature")
    return Asked(sampler, num, pad_token_id)


def sampler_of(settings: dict, prompt_length: int, config) -> SamplerConfig:
    """The sampler of transformers' words."""
    length = settings.get("max_new_tokens")
    if "max_length" in settings and length is None:
        length = settings["max_length"] - prompt_length
        if length < 1:
            raise WrongValue(
                f"max_length is {settings['max_length']}, but the prompt has {prompt_length} tokens; raise it, or give "
                "max_new_tokens, which counts the answer alone"
            )
    temperature = settings.get("temperature")
    if settings.get("do_sample") is False:
        if temperature not in (None, 0, 1):
            raise WrongValue(f"temperature is {temperature}, but do_sample is False; leave one of them out")
        temperature = 0
    elif settings.get("do_sample"):
        temperature = 1.0 if temperature is None else temperature
    stops = settings.get("eos_token_id")
    if stops is not None:
        ids = stops if isinstance(stops, (list, tuple)) else [stops]
        never = set(config.never_generated_ids()) - {config.eos_token_id}
        if wrong := [token for token in ids if token in never]:
            raise WrongValue(f"eos_token_id has {wrong[0]}, which no answer contains; leave it out")
        # The end of the text stands for the end of the turn: no answer contains it.
        stops = [[config.eot_token_id if token == config.eos_token_id else token] for token in ids]
    texts = settings.get("stop_strings")
    return SamplerConfig(
        **({} if length is None else {"gen_length": length}),
        temperature=float(temperature or 0),
        stop_token_ids=stops,
        stop_strings=[texts] if isinstance(texts, str) else texts,
    )


def check_neutral(asked: dict) -> None:
    """Raise ValueError naming what is asked for and cannot be followed."""
    followed = {*OF_SAMPLER, "num_return_sequences", "pad_token_id"}
    wrong = [
        f"{name}={value!r}" if isinstance(value, (str, int, float)) else f"{name} (a {type(value).__name__})"
        for name, value in asked.items()
        if name not in followed and not is_empty(value) and value not in NEUTRAL.get(name, ())
    ]
    if wrong:
        raise WrongValue(
            f"{', '.join(sorted(wrong))}: not for a sampler that reveals tokens in any order; leave it out (a "
            "SamplerConfig has its settings)"
        )


def is_empty(value) -> bool:
    """None, False, or nothing in a list."""
    return value is None or value is False or (isinstance(value, (list, tuple, dict)) and not value)


def fields_of(generation_config) -> dict:
    """The fields of a GenerationConfig, its private ones left out."""
    if generation_config is None:
        return {}
    to_dict = getattr(generation_config, "to_dict", None)
    found = to_dict() if to_dict else vars(generation_config)
    return {name: value for name, value in found.items() if not name.startswith("_")}
