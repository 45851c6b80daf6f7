"""Starting is quick: the package and every `--help` import nothing heavy, and transformers finds our classes anyway."""

import subprocess
import sys

import pytest

import llada_v
from llada_v.cli import VERBS
from llada_v.configuration_llada_v import ROPE_INV_FREQ
from llada_v.fields import rules_of
from llada_v.shipped import ROOT
from llada_v.training.recipe import Recipe

HEAVY = (
    *("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "accelerate", "datasets"),
    *("fastapi", "uvicorn", "pydantic", "prometheus_client", "starlette"),
    *("deepspeed", "peft", "lmms_eval", "decord", "av", "wandb", "torchao", "bitsandbytes", "flash_attn", "tqdm"),
)


def python(code, *words):
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy():
    assert python(f"import sys, llada_v; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


HELP = """
import sys
from llada_v.cli import main
try:
    main([*sys.argv[1:], "--help"])
except SystemExit as ended:
    assert ended.code == 0
else:
    raise AssertionError("no help")
print([name for name in HEAVY if name in sys.modules])
"""


@pytest.mark.parametrize("words", ["", *VERBS, "data check", "data mix", "toyworld data"])
def test_help_imports_nothing_heavy(words):
    assert python(f"HEAVY = {HEAVY}\n{HELP}", *words.split()).splitlines()[-1] == "[]"


def test_every_public_name_is_there():
    for name in llada_v.__all__:
        assert getattr(llada_v, name).__module__.startswith("llada_v."), name
    assert set(llada_v.__all__) <= set(dir(llada_v))
    assert sorted(name for names in llada_v.MODULES.values() for name in names) == llada_v.__all__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        llada_v.nothing  # noqa: B018


ORDERS = {
    "before": "import llada_v\nfrom transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor",
    "behind": "from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor\nimport llada_v",
    "between": "from transformers import AutoConfig\nimport llada_v\n"
    "from transformers import AutoModelForImageTextToText, AutoProcessor",
    "in its middle": "import llada_v\nfrom transformers import SiglipVisionModel\n"
    "from transformers import AutoModelForImageTextToText, AutoProcessor",
}
USED = {
    "model": "AutoModelForImageTextToText.from_pretrained(folder)",
    "processor": "AutoProcessor.from_pretrained(folder)",
}


@pytest.mark.parametrize(
    ("order", "first"),
    [("before", "processor"), ("behind", "model"), ("between", "processor"), ("in its middle", "model")],
)
def test_auto_classes_know_the_folder_once_the_package_is_imported(order, first, tiny_folder):
    used = [USED[first], *(text for name, text in USED.items() if name != first)]
    code = f"import sys\nfolder = sys.argv[1]\n{ORDERS[order]}\nfor found in ({', '.join(used)}):\n"
    code += "    print(type(found).__name__)"
    found = python(code, str(tiny_folder)).split()
    assert sorted(found) == ["LladaVForConditionalGeneration", "LladaVProcessor"]


def test_a_model_is_made_from_a_config_of_ours():
    code = (
        "import llada_v, torch\nfrom transformers import AutoModelForImageTextToText\n"
        "with torch.device('meta'):\n"
        "    print(type(AutoModelForImageTextToText.from_config(llada_v.LladaVConfig())).__name__)"
    )
    assert python(code) == "LladaVForConditionalGeneration"


def test_a_pipeline_knows_the_folder_once_the_package_is_imported(tiny_folder):
    code = (
        "import sys, llada_v\nfrom transformers import pipeline\n"
        "print(type(pipeline('image-text-to-text', model=sys.argv[1]).model).__name__)"
    )
    assert python(code, str(tiny_folder)) == "LladaVForConditionalGeneration"


def test_the_recipe_knows_the_rotary_frequencies_of_the_config():
    assert rules_of(Recipe)["rope_inv_freq"][1].choices == ROPE_INV_FREQ
