"""Which turns of a conversation see each other: all of them, those before (dialogue-causal), or none (turns apart).

A system message and the first question and answer are turn 0, each later question and its answer the next one.
Inside a turn attention stays bidirectional.

The number of masks that stand for an answer tells its length, from which a model learns to answer where few answers are
possible ("first" or "second"), and finds nothing to go by when it is asked, in a canvas longer than any answer. So does
the place of a turn. So turns apart can stand as each does when asked alone: behind the pictures, the answer filled with
EOS to the length of all.
"""

import torch

from ..configuration_llada_v import IGNORE


def conversation_ids(labels: torch.Tensor, start_header_id: int, eot_token_id: int, assistant_id: int) -> torch.Tensor:
    """The turn (B, L) of each position, read off the labels of a batch (B, L), in which structural tokens are visible.

    A message goes from a start of header to the next end of turn; it is an answer where the label behind its start is
    `assistant_id`, the first token of that role. The turn grows where a question follows an answer. Positions between
    messages, and filler behind the last, belong to the turn before them.
    """
    position = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    is_start, is_end = labels == start_header_id, labels == eot_token_id
    # A start of header inside a message opens nothing.
    opens = is_start & ~is_true(is_start, last_before(is_start | is_end, position))
    next_label = torch.cat((labels[:, 1:], torch.full_like(labels[:, :1], eot_token_id)), dim=1)
    is_answer = opens & (next_label == assistant_id)
    follows_answer = is_true(is_answer, last_before(opens, position))
    return (opens & ~is_answer & follows_answer).cumsum(1)


def last_before(marks: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """The last marked position before each position (B, L); -1 where there is none."""
    last = torch.where(marks, position, -1).cummax(1).values
    return torch.cat((torch.full_like(last[:, :1], -1), last[:, :-1]), dim=1)


def is_true(marks: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """marks (B, L) at the positions `at` (B, L); False where that is -1."""
    return marks.gather(1, at.clamp_min(0)) & (at >= 0)


def dialogue_causal_mask(turns: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """(B, 1, L, L) bool, True where row may see column: its own turn and those before it.

    turns: (B, L), those of `conversation_ids`. attention_mask: (B, L), 0 for filler that nobody sees.
    """
    return seen(turns[:, None, :] <= turns[:, :, None], attention_mask)


def turns_apart_mask(
    turns: torch.Tensor, is_picture: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """(B, 1, L, L) bool, True where row may see column: its own turn and whatever stands up to the last picture.

    So each question is answered as if it were the only one about the pictures, which pass the model once for all.

    turns: (B, L), those of `conversation_ids`. is_picture: (B, L), True where the features of pictures stand.
    attention_mask: (B, L), 0 for filler that nobody sees.
    """
    is_before_picture = is_picture.flip(1).cumsum(1).flip(1) > 0
    return seen((turns[:, None, :] == turns[:, :, None]) | is_before_picture[:, None, :], attention_mask)


def turn_positions(turns: torch.Tensor, is_picture: torch.Tensor) -> torch.Tensor:
    """The positions (B, L) of turns apart, each as if it were the first behind the last picture.

    turns: (B, L), those of `conversation_ids`. is_picture: (B, L), True where the features of pictures stand.
    """
    index = torch.arange(turns.shape[1], device=turns.device).expand_as(turns)
    behind = torch.where(is_picture, index + 1, 0).amax(1, keepdim=True)  # the first position behind the pictures
    is_first = torch.cat((turns[:, :1] < 0, turns[:, 1:] != turns[:, :-1]), dim=1)
    start = torch.maximum(torch.where(is_first, index, 0).cummax(1).values, behind)
    return torch.where((turns == 0) | (index < behind), index, behind + index - start)


def seen(mask: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The mask (B, L, L) as attention takes it, (B, 1, L, L), without the columns that are filler."""
    if attention_mask is not None:
        mask = mask & attention_mask.bool()[:, None, :]
    return mask[:, None]


def fill_answers(record: dict, multiple: int, eot_token_id: int, pad_token_id: int) -> dict:
    """The encoded record with labelled filler behind each answer, up to a multiple of `multiple`, its header counted.

    record: input_ids and labels (L,) of a conversation, whose answers are labelled, and anything else.
    """
    input_ids, labels = record["input_ids"], record["labels"]
    parts, start = [], 0
    for end in ((input_ids == eot_token_id).nonzero().flatten() + 1).tolist():
        is_answer = end - start > 1 and labels[end - 2] != IGNORE
        filler = input_ids.new_full((-(end - start) % multiple if is_answer else 0,), pad_token_id)
        parts += [(input_ids[start:end], labels[start:end]), (filler, filler)]
        start = end
    parts.append((input_ids[start:], labels[start:]))
    ids, labels = (torch.cat(column) for column in zip(*parts, strict=True))
    return record | {"input_ids": ids, "labels": labels}
