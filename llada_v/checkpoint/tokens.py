"""The tokenizer of a folder, with LLaDA-V's special tokens: LLaDA's own, or another trunk's made to fit.

The format of LLaDA-V is written with seven tokens. A trunk that is not LLaDA-8B has the mask
and the two ends of a text under names of its own: they keep their ids and take ours. What it has no token for (the
header of a turn, its end, the placeholder of a picture) is added behind its last token, and training teaches it.
"""

import json
import shutil
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from ..errors import WrongValue
from ..json_text import read_json, usable
from .names import ILLADA_MODEL_TYPE

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
OPTIONAL_TOKENIZER_FILES = ("special_tokens_map.json", "chat_template*")
ILLADA_MASK = "<[MASK]>"  # id 5; the tokenizer's settings do not name it
ROWS_MULTIPLE = 128  # rows of an embedding that grows, so that its products stay aligned


def check_tokenizer_files(src: Path) -> None:
    """Raise ValueError naming the tokenizer file that a source lacks."""
    if not src.is_dir():
        raise WrongValue(f"there is no folder {src}")
    missing = [name for name in TOKENIZER_FILES if not (src / name).is_file()]
    if missing:
        raise WrongValue(
            f"{src} lacks {' and '.join(missing)}; copy it there from the model's original download (LLaDA-8B-Instruct "
            "for LLaDA-V, which has the same tokenizer)"
        )


def copy_tokenizer(
    src: Path, folder: Path, model_type: str | None, tokens: dict[str, str]
) -> tuple[PreTrainedTokenizerFast, list[str]]:
    """Write the tokenizer's files into a folder; the tokenizer, and the tokens that were added to it.

    tokens: the format's, by the name of the config's field for their ids.
    Raises ValueError where tokens are missing that a trunk of this type should have.
    """
    for pattern in TOKENIZER_FILES if model_type == ILLADA_MODEL_TYPE else TOKENIZER_FILES + OPTIONAL_TOKENIZER_FILES:
        for file in src.glob(pattern):
            shutil.copy(file, folder)
    if model_type == ILLADA_MODEL_TYPE:
        rename_tokens(folder, tokens)
    # Loaded from the new folder, where no config.json can name another class.
    with usable(f"the tokenizer of {src}"):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    missing = [token for token in tokens.values() if token not in tokenizer.get_vocab()]
    if missing and model_type != ILLADA_MODEL_TYPE:
        raise WrongValue(
            f"the tokenizer in {src} lacks {', '.join(missing)}; copy tokenizer.json and tokenizer_config.json there "
            "from the original LLaDA-8B-Instruct download"
        )
    tokenizer.add_special_tokens({"additional_special_tokens": missing})
    return tokenizer, missing


def rename_tokens(folder: Path, tokens: dict[str, str]) -> None:
    """Give iLLaDA's mask, start and end of a text our names in the tokenizer's files of a folder; their ids stay."""
    files = [folder / name for name in TOKENIZER_FILES]
    tokenizer, settings = map(read_json, files)
    known = {"mask_token_id": ILLADA_MASK}
    known |= {f"{name}_id": text_of(settings.get(name)) for name in ("bos_token", "eos_token")}
    ours = {theirs: tokens[name] for name, theirs in known.items() if theirs is not None}
    added = tokenizer.get("added_tokens", [])
    with usable(str(files[0])):
        contents = {token["content"] for token in added} | tokenizer["model"]["vocab"].keys()
        if lost := sorted(tokens[name] for name, theirs in known.items() if theirs not in contents):
            raise WrongValue(
                f"{folder} has no token that stands for {', '.join(lost)}: iLLaDA's mask is {ILLADA_MASK}, and "
                "tokenizer_config.json names its bos_token and eos_token"
            )
        if clash := sorted(name for theirs, name in ours.items() if name != theirs and name in contents):
            raise WrongValue(f"{folder} has tokens named {', '.join(clash)} that are not what LLaDA-V means by them")
        for token in added:
            token["content"] = ours.get(token["content"], token["content"])
        vocabulary = tokenizer["model"]["vocab"]
        tokenizer["model"]["vocab"] = {ours.get(token, token): number for token, number in vocabulary.items()}
    tokenizer["post_processor"] = None  # it adds tokens by their old names; the format adds its own
    kept = {name: settings[name] for name in ("model_max_length", "padding_side") if name in settings}
    end = tokens["eos_token_id"]
    ends = {"bos_token": tokens["bos_token_id"], "eos_token": end, "pad_token": end}
    for file, content in zip(files, (tokenizer, kept | ends), strict=True):
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def text_of(token) -> str | None:
    """A token as the settings of a tokenizer name it: a text, or an object with one."""
    return token.get("content") if isinstance(token, dict) else token


def rows_for(ids: dict[str, int], rows: int) -> int:
    """Rows of the embedding that hold all these ids: as many as there are, or more."""
    needed = max(ids.values()) + 1
    return rows if needed <= rows else -(-needed // ROWS_MULTIPLE) * ROWS_MULTIPLE
