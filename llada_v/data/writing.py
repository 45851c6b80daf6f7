"""A JSON array written record by record, under its name only when it is whole."""

import json
import os
from collections.abc import Iterable
from pathlib import Path


def write_array(file: Path, records: Iterable[dict]) -> int:
    """Write records as `json.dump(..., indent=2, ensure_ascii=False)` would, one at a time; returns how many."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.draft-{os.getpid()}")
    count = 0
    try:
        with draft.open("w", encoding="utf-8") as stream:
            stream.write("[")
            for record in records:
                text = json.dumps(record, indent=2, ensure_ascii=False).replace("\n", "\n  ")
                stream.write(f"{',' if count else ''}\n  {text}")
                count += 1
            stream.write("\n]" if count else "]")
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    return count
