"""From a regular expression to a table over the vocabulary: which token leads from which state to which.

outlines-core makes the automaton over bytes, in a process of its own that has a time limit; a token's way through it is
that of its bytes. Tokens that lead alike from every state form a class, so the table stays small: a few hundred
classes in place of a hundred thousand tokens. Finished tables are kept on disk.
Letters: S states, C classes, V vocabulary.
"""

import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import NoPackage, WrongValue
from ..json_text import shown

log = logging.getLogger(__name__)

MOST_STATES = 2000
SECONDS = 20  # to make an automaton over bytes
VERSION = 2  # of what is kept on disk
# Letters of byte-level BPE: bytes that stand for themselves, and those that stand for the others, in order.
PLAIN = (*range(33, 127), *range(161, 173), *range(174, 256))
OTHERS = [byte for byte in range(256) if byte not in PLAIN]
BYTE_OF = {chr(byte): byte for byte in PLAIN} | {chr(256 + place): byte for place, byte in enumerate(OTHERS)}
# Run apart: a pattern that explodes is ended there.
MAKER = f"""
import json, sys
from outlines_core import Index, Vocabulary
pattern = sys.stdin.buffer.read().decode()
try:
    index = Index(pattern, Vocabulary(256, {{bytes([byte]): [byte] for byte in range(256)}}))
except ValueError as error:
    print(json.dumps({{"error": str(error)}}))
else:
    ways = index.get_transitions()
    states = {{index.get_initial_state(), *ways, *index.get_final_states()}}
    found = {{"states": len(states)}}
    if len(states) <= {MOST_STATES}:
        numbers = {{state: number for number, state in enumerate(sorted(states))}}
        found["start"] = numbers[index.get_initial_state()]
        found["finals"] = [numbers[state] for state in index.get_final_states()]
        ways = [(a, byte, b) for a, way in ways.items() for byte, b in way.items() if byte < 256]
        found["ways"] = [[numbers[a], byte, numbers[b]] for a, byte, b in ways]
    print(json.dumps(found))
"""


@dataclass(frozen=True)
class Automaton:
    """What may follow what.

    table: (C, S) the state that a token of a class leads to; the last state is the dead end, from which nothing leads.
    class_of: (V,) the class of each token; class 0 leads nowhere.
    accepting: (S,) bool. start: where an answer begins.
    """

    table: np.ndarray
    class_of: np.ndarray
    accepting: np.ndarray
    start: int

    def shortest(self) -> int:
        """The fewest tokens that lead from the start to an accepting state. Raises ValueError where none do."""
        reached, count = np.zeros(len(self.accepting), dtype=bool), 0
        now = reached.copy()
        now[self.start] = True
        while now.any():
            if (now & self.accepting).any():
                return count
            reached |= now
            now = np.zeros_like(reached)
            now[self.table[:, reached].ravel()] = True
            now &= ~reached
            now[-1] = False
            count += 1
        raise WrongValue("no tokens of this vocabulary spell an answer of this shape; choose another pattern")


@lru_cache(16)
def automaton_of(pattern: str, pieces: tuple[bytes, ...], folder: str | None = None) -> Automaton:
    """The automaton of a pattern over a vocabulary.

    pieces: what each token id spells; b"" for one that may not occur.
    folder: where finished tables are kept; None: nowhere.
    Raises ValueError for a pattern that is none, has too many states, takes too long, or that no tokens spell;
    ImportError without outlines-core.
    """
    digest = hashlib.sha256(f"{VERSION} {pattern}".encode())
    for piece in pieces:
        digest.update(len(piece).to_bytes(4, "little") + piece)
    file = None if folder is None else Path(folder) / f"{digest.hexdigest()}.npz"
    made = None if file is None else kept_in(file)
    if made is None:
        made = over_tokens(*over_bytes(pattern), pieces)
        if file is not None:
            keep(made, file)
    return made


def kept_in(file: Path) -> Automaton | None:
    """A table from disk; None where it is not there or damaged, so that it is made anew."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            return Automaton(kept["table"], kept["class_of"], kept["accepting"], int(kept["start"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def keep(made: Automaton, file: Path) -> None:
    """Write a table, whole or not at all. Where nothing can be written it is made anew the next time."""
    try:
        write_table(made, file)
    except OSError as error:
        log.warning("the automaton of this shape is not kept: %s", error)


def write_table(made: Automaton, file: Path) -> None:
    """A table as a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".writing", delete=False) as draft:
        np.savez(draft, table=made.table, class_of=made.class_of, accepting=made.accepting, start=made.start)
    os.replace(draft.name, file)


def over_bytes(pattern: str) -> tuple[np.ndarray, np.ndarray, int]:
    """(S + 1, 256) the state that each byte leads to, the last one the dead end; (S + 1,) which accept; the start."""
    if importlib.util.find_spec("outlines_core") is None:
        raise NoPackage(
            "answers with a shape need outlines-core; install it with: bash init_env.sh structured, or "
            "pip install outlines-core"
        )
    told = f"the pattern {shown(pattern)}"
    # Behind an end that no answer holds, the first alternative that matches does not hide longer ones.
    whole = f"(?:{pattern})\\x00"
    try:
        run = subprocess.run(
            [sys.executable, "-c", MAKER], input=whole.encode(), capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise WrongValue(f"{told} takes more than {SECONDS} seconds to read; make it simpler") from error
    if run.returncode:
        raise WrongValue(
            f"{told} could not be read: {shown(run.stderr.decode(errors='replace')[-90:])}; make it simpler"
        )
    found = json.loads(run.stdout)
    if "error" in found:
        raise WrongValue(
            f"{told} cannot be held (nothing may look around or back, nor be a border): {found['error'][:200]}"
        )
    if found["states"] > MOST_STATES:
        raise WrongValue(f"{told} has {found['states']} states, more than {MOST_STATES}; make it simpler")
    dead = found["states"]
    leads = np.full((dead + 1, 256), dead, dtype=np.int16)
    if found["ways"]:
        source, byte, target = np.array(found["ways"]).T
        leads[source, byte] = target
    is_final = np.zeros(dead + 1, dtype=bool)
    is_final[found["finals"]] = True
    accepting = is_final[leads[:, 0]]
    leads[:, 0] = dead
    return leads, accepting, found["start"]


def over_tokens(leads: np.ndarray, accepting: np.ndarray, start: int, pieces: tuple[bytes, ...]) -> Automaton:
    """The same over tokens, each going the way of its bytes."""
    num_states, dead = len(leads), len(leads) - 1
    order = np.array(sorted(range(len(pieces)), key=lambda token: -len(pieces[token])))
    lengths = np.array([len(pieces[token]) for token in order])
    spelled = np.zeros((len(pieces), max(1, lengths.max(initial=0))), dtype=np.uint8)
    for row, token in enumerate(order):
        spelled[row, : lengths[row]] = np.frombuffer(pieces[token], dtype=np.uint8)
    counts = [int((lengths > place).sum()) for place in range(spelled.shape[1])]
    # Columns that are equal have equal sums of random numbers; that no others do is checked.
    random = np.random.default_rng(0).integers(1, 2**63, num_states, dtype=np.uint64)
    sums, columns = np.zeros(len(pieces), dtype=np.uint64), []
    for state in range(num_states):
        now = np.full(len(pieces), state, dtype=np.int16)
        for place, count in enumerate(counts):
            now[:count] = leads[now[:count], spelled[:count, place]]
        now[lengths == 0] = dead
        columns.append(now)
        sums += random[state] * now.astype(np.uint64)
    _, first, kinds = np.unique(sums, return_index=True, return_inverse=True)
    table = np.stack([column[first] for column in columns], axis=1).astype(np.int64)  # (C, S)
    assert all((table[kinds, state] == column).all() for state, column in enumerate(columns)), "two sums are equal"
    # Class 0 leads nowhere; where every token leads somewhere it has no members.
    table = np.concatenate((np.full((1, num_states), dead), table))
    class_of = np.zeros(len(pieces), dtype=np.int64)
    class_of[order] = kinds + 1
    return Automaton(table, class_of, accepting, start)


def pieces_of(tokenizer, vocab_size: int, never: list[int]) -> tuple[bytes, ...]:
    """What each id spells, b"" for special tokens, for those that are `never` generated and for ids without a token.

    Raises ValueError for a tokenizer whose tokens are not written as bytes.
    """
    if not is_byte_level(tokenizer):
        raise WrongValue("answers with a shape need a tokenizer whose tokens are bytes, as LLaDA's is")
    special = {*tokenizer.get_added_vocab().values(), *never}
    pieces = [b""] * vocab_size
    for token, number in tokenizer.get_vocab().items():
        if number not in special and number < vocab_size:
            pieces[number] = bytes_of(token)
    return tuple(pieces)


def spelled(tokenizer, ids: Iterable[int]) -> list[bytes]:
    """What each id adds to a text: nothing where it is special. The tokenizer is one whose tokens are bytes."""
    special = {*tokenizer.get_added_vocab().values()}
    return [b"" if token in special else bytes_of(tokenizer.convert_ids_to_tokens(token)) for token in ids]


def is_byte_level(tokenizer) -> bool:
    """Whether a tokenizer writes its tokens as bytes."""
    return type(tokenizer.backend_tokenizer.decoder).__name__ == "ByteLevel"


def bytes_of(token: str) -> bytes:
    """The bytes of a token, as byte-level BPE writes them."""
    return bytes(BYTE_OF[letter] for letter in token)
