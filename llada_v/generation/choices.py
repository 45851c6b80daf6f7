"""One of several answers, read with its probability: masks where the answer would stand, one forward, no sampling.

Labels are lists of ids, each ended by the end of the turn. Where several go on differently behind the same tokens p,
one position is read, the first behind p on a canvas that is masked from there on. A label's probability is the product
over those places:

    P(label) = prod over places p on its way of  exp z(v | p) / sum over tokens u that labels go on with of exp z(u | p)

v: its own token there; z: logits. That is what a draw from left to right, held to the labels, would give: exact where
the labels part at their first token, and otherwise the model's own chain from left to right. Places where only one
label goes on are not read.

`read_choices` reads prompts as `generate` does at its first step. `read_apart` reads many questions about the same
prompt: each is a row that sees the prompt and itself; the prompt sees no question, and passes the model once for all.
Knows ids and a model, no tokenizer. Letters: B prompts, L positions, P positions of a prompt, G of a canvas, N reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..errors import WrongValue
from .cache import KeyValueLayer
from .sampler import broken_model

MOST_LABELS = 1000
ROWS = 32  # prompts in one forward
MOST_KEYS = 2**18  # positions that the rows of one forward see, all together: each has the prompt's keys in front


@dataclass(frozen=True)
class Reads:
    """Where labels part.

    places: per read the tokens in front of it. tokens: per read those that labels go on with.
    ways: per label its (read, number of its token there).
    """

    places: list[tuple[int, ...]]
    tokens: list[list[int]]
    ways: list[list[tuple[int, int]]]

    def log_probabilities(self, logits: list[torch.Tensor]) -> torch.Tensor:
        """(labels,) float64 that sum to 1 as probabilities, from the logits of each read's tokens."""
        parts = [read.double().log_softmax(0) for read in logits]
        sums = [sum((parts[read][at] for read, at in way), torch.zeros((), dtype=torch.float64)) for way in self.ways]
        return torch.stack(sums)


def reads_of(labels: list[list[int]], end_id: int) -> Reads:
    """The reads that tell labels apart. end_id: ends each of them, and stands in none.

    Raises ValueError for fewer than two labels, too many, an empty one, or two that are equal.
    """
    if not 2 <= len(labels) <= MOST_LABELS:
        raise WrongValue(f"there are {len(labels)} labels to choose from; give 2 to {MOST_LABELS}")
    whole = [(*label, end_id) for label in labels]
    if any(end_id in label or not label for label in labels):
        raise WrongValue("a label has no tokens, or holds the end of the turn; each is an answer of at least one token")
    if len(set(whole)) < len(whole):
        raise WrongValue("two labels have the same tokens; give each once")
    goes_on: dict[tuple[int, ...], dict[int, int]] = {}
    for label in whole:
        for length, token in enumerate(label):
            ways = goes_on.setdefault(label[:length], {})
            ways.setdefault(token, len(ways))
    places = [place for place, ways in goes_on.items() if len(ways) > 1]
    number = {place: read for read, place in enumerate(places)}
    return Reads(
        places,
        [list(goes_on[place]) for place in places],
        [
            [
                (number[label[:length]], goes_on[label[:length]][token])
                for length, token in enumerate(label)
                if label[:length] in number
            ]
            for label in whole
        ],
    )


def canvases(reads: Reads, gen_length: int, mask_id: int) -> torch.Tensor:
    """(N, G) the canvas of each read. Raises ValueError where G cannot hold the place to be read."""
    longest = max(map(len, reads.places))
    if gen_length <= longest:
        raise WrongValue(
            f"gen_length is {gen_length}, and labels are told apart by token {longest + 1}; raise gen_length"
        )
    return torch.tensor([[*place, *[mask_id] * (gen_length - len(place))] for place in reads.places])


@torch.no_grad()
def read_choices(
    model, inputs: Mapping[str, torch.Tensor], labels: list[list[list[int]]], gen_length: int
) -> list[torch.Tensor]:
    """Per prompt the log-probability of each of its labels (labels,), float64 on the CPU.

    inputs: input_ids (B, L) that end where the answer begins, padded on the left, attention_mask and pictures (or
        `image_features`), as the processor makes them.
    labels: per prompt lists of ids. gen_length: masks of the answer's canvas; it changes the probabilities, as a model
        reads off it how long the answer may be.
    One forward for up to 32 reads; labels of several tokens may need several (see above).
    Raises ValueError for labels that cannot be told apart, a canvas that is too short, or a model that gives NaN.
    """
    config = model.config
    asked = [reads_of(given, config.eot_token_id) for given in labels]
    input_ids = inputs["input_ids"]
    if len(asked) != len(input_ids):
        raise WrongValue(f"there are {len(input_ids)} prompts and labels for {len(asked)}; give a list of labels each")
    features = inputs.get("image_features")
    if features is None and "pixel_values" in inputs:
        pictures = {key: inputs[key] for key in ("pixel_values", "image_sizes", "image_layouts") if key in inputs}
        features = model.encode_pictures(**pictures)
    prompts = model.model.embed(input_ids, features)  # (B, L, D)
    mask = inputs.get("attention_mask")
    in_front = torch.ones_like(input_ids) if mask is None else mask
    owner = torch.cat([torch.full((len(reads.places),), row) for row, reads in enumerate(asked)])
    canvas = torch.cat([canvases(reads, gen_length, config.mask_token_id) for reads in asked])
    at = torch.cat([torch.tensor([len(place) for place in reads.places]) for reads in asked])
    wanted = [tokens for reads in asked for tokens in reads.tokens]
    found: list[torch.Tensor] = []
    for rows in torch.arange(len(owner)).split(ROWS):
        front = owner[rows].to(input_ids.device)
        behind = model.get_input_embeddings()(canvas[rows].to(input_ids.device))
        is_read = torch.arange(gen_length) == at[rows, None]
        attended = torch.cat((in_front[front].bool(), is_read.new_ones(is_read.shape).to(input_ids.device)), dim=1)
        logits = model(
            inputs_embeds=torch.cat((prompts[front], behind), dim=1),
            attention_mask=attended,
            logits_at=torch.cat((torch.zeros_like(attended[:, : input_ids.shape[1]]), is_read.to(front.device)), dim=1),
        ).logits
        found += chosen_logits(logits, [wanted[row] for row in rows.tolist()])
    return shared_out(asked, found)


@dataclass(frozen=True)
class Asked:
    """A question behind a shared prompt: its ids up to where the answer begins, and the labels' ids."""

    ids: list[int]
    labels: list[list[int]]


def read_alone(
    model,
    prompts: list[list[int]],
    labels: list[list[list[int]]],
    gen_length: int,
    features: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """As `read_choices`, each prompt in a row of its own, all about the same pictures.

    prompts: ids. features: (F, D) of the pictures, or None. labels, gen_length: see `read_choices`.
    """
    pictures = {} if features is None else {"image_features": features}
    found = []
    for ids, given in zip(prompts, labels, strict=True):
        inputs = {"input_ids": torch.tensor([ids], device=model.device)} | pictures
        found += read_choices(model, inputs, [given], gen_length)
    return found


@torch.no_grad()
def read_apart(
    model, prompt_ids: list[int], questions: list[Asked], gen_length: int, image_features: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """Per question the log-probability of each of its labels, as `read_choices`; the prompt is computed once.

    prompt_ids: what all stand behind, with its pictures' placeholders. image_features: (F, D) of those.
    A question's numbers do not depend on the others, nor on their order. They differ from `read_choices`, where the
    prompt sees the question, too. Two forwards: the prompt, then all questions; more where they do not fit into one.
    Raises ValueError as `read_choices`, and for an attention back end with which this was not tried.
    """
    config, device = model.config, model.device
    if "flash" in str(config._attn_implementation):
        raise WrongValue(
            f"questions behind a prompt that is kept were not tried with {config._attn_implementation}; load with "
            "attn_implementation='sdpa', or ask each question in a row of its own"
        )
    asked = [reads_of(question.labels, config.eot_token_id) for question in questions]
    prompt = model.model.embed(torch.tensor([prompt_ids], device=device), image_features)  # (1, P, D)
    kept = Kept(model.config.text_config.num_hidden_layers)
    trunk = model.model.language_model
    trunk(inputs_embeds=prompt, cache=kept)
    branches = [
        (question.ids + canvas, len(question.ids) + len(place), tokens)
        for question, reads in zip(questions, asked, strict=True)
        for canvas, place, tokens in zip(
            canvases(reads, gen_length, config.mask_token_id).tolist(), reads.places, reads.tokens, strict=True
        )
    ]
    size = max(1, MOST_KEYS // (len(prompt_ids) + max(len(ids) for ids, _, _ in branches)))
    found: list[torch.Tensor] = []
    for part in (branches[start : start + size] for start in range(0, len(branches), size)):
        lengths = torch.tensor([len(ids) for ids, _, _ in part])
        behind = torch.arange(int(lengths.max()))
        ids = torch.tensor([ids + [config.pad_token_id] * (len(behind) - len(ids)) for ids, _, _ in part])
        is_there = behind < lengths[:, None]  # (N, C)
        hidden = trunk(
            inputs_embeds=model.get_input_embeddings()(ids.to(device)),
            attention_mask=torch.cat((is_there.new_ones(len(part), len(prompt_ids)), is_there), dim=1),
            position_ids=(len(prompt_ids) + behind)[None],
            wanted=behind == torch.tensor([place for _, place, _ in part])[:, None],
            cache=kept,
        ).last_hidden_state
        found += chosen_logits(model.lm_head(hidden), [tokens for _, _, tokens in part])
    return shared_out(asked, found)


class Kept:
    """Keys and values of a prompt in every layer, for rows behind it. The trunk asks it as it asks a `cache.Cache`."""

    gives_all = False

    def __init__(self, num_layers: int):
        self.layers = [KeptLayer() for _ in range(num_layers)]


class KeptLayer(KeyValueLayer):
    """Of one layer: what the first call leaves stands in front of every row of the others."""

    def store(self, key, value, fresh):
        """Keys and values of the whole sequence (R, H, L, K)."""
        if self.key is None:
            self.key, self.value = key, value
            return key, value
        front = (part.expand(len(key), -1, -1, -1) for part in (self.key, self.value))
        return tuple(torch.cat(parts, dim=2) for parts in zip(front, (key, value), strict=True))


def chosen_logits(logits: torch.Tensor, tokens: list[list[int]]) -> list[torch.Tensor]:
    """The logits (N, V) of each read's tokens, float32 on the CPU, fetched at once."""
    width = max(map(len, tokens))
    index = torch.tensor([[*row, *[row[0]] * (width - len(row))] for row in tokens], device=logits.device)
    found = logits.gather(1, index).float().cpu()
    if not found.isfinite().all():
        raise WrongValue(broken_model(found, "where a choice is read"))
    return [row[: len(some)] for row, some in zip(found, tokens, strict=True)]


def shared_out(asked: list[Reads], found: list[torch.Tensor]) -> list[torch.Tensor]:
    """Each question's log-probabilities, from the logits of all reads in order."""
    rest = iter(found)
    return [reads.log_probabilities([next(rest) for _ in reads.places]) for reads in asked]
