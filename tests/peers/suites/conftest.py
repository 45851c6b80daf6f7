"""What the tests of transformers import beside their package, where a source distribution lacks it."""

import sys
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

import llada_v  # noqa: F401  its classes are registered

FILES = Path(__file__).parent / "files"


def stand_in(name: str, **content) -> None:
    """A module of that name with the content, unless there is one."""
    try:
        found = find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        module = types.ModuleType(name)
        module.__dict__.update(content)
        module.__path__ = []
        sys.modules[name] = module


def local_file(url: str) -> str:
    """A picture or a clip of our own in place of one that the tests fetch from the web."""
    import tempfile

    folder = Path(tempfile.gettempdir()) / "llada-v-peers"
    folder.mkdir(exist_ok=True)
    name = url.rpartition("/")[2]
    file = folder / name
    if not file.exists():
        if name.endswith(".mp4"):
            import av

            with av.open(str(file), "w") as container:
                stream = container.add_stream("mpeg4", rate=10)
                stream.width, stream.height = 320, 240
                for level in range(11):
                    frame = av.VideoFrame.from_ndarray(np.full((240, 320, 3), level * 20, np.uint8), format="rgb24")
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())
        else:
            Image.effect_noise((320, 240), 60).convert("RGB").save(file, format="PNG")
    return str(file)


# Values that a config keeps, other than its defaults.
COMMON = {"return_dict": False, "output_hidden_states": True, "output_attentions": True, "dtype": "float16"}
COMMON |= {"chunk_size_feed_forward": 5, "architectures": ["Any"], "id2label": {0: "label"}, "label2id": {"label": "0"}}
COMMON |= {"problem_type": "regression"}


class Exports:
    """A mixin without a test, as the one below: a distribution lacks both."""


class Generates:
    """As above."""


stand_in("peer_tests.exporters")
stand_in("peer_tests.exporters.test_export", ExportTesterMixin=Exports)
stand_in("peer_tests.generation")
stand_in("peer_tests.generation.test_utils", GenerationTesterMixin=Generates)
stand_in("peer_tests.utils")
stand_in("peer_tests.utils.test_configuration_utils", config_common_kwargs=COMMON)
stand_in("fetch_hub_objects_for_ci", url_to_local_path=local_file)
