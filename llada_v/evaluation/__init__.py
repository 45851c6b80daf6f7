"""Benchmarks: the model for lmms-eval, pinned settings, log-likelihoods, rules that find answers, and the table.

The story in six files. `lmms` is the model that `lmms-eval --model llada_v` loads; `prompts` turns its requests into
prompts, the original's or ours. `likelihood` scores given answers. `extraction` finds what a free answer says, and
`scoring` is how lmms-eval's task files call it. `settings` reads the table of benchmarks, `run` runs it task by task,
and `results` draws what came out. Only `lmms` and `scoring` need lmms-eval.
"""


def manifests():
    """What lmms-eval's registry of models asks for: the chat model, and the plain one for `--force_simple`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [
        ModelManifest(
            model_id="llada_v",
            chat_class_path="llada_v.evaluation.lmms.LladaVChat",
            simple_class_path="llada_v.evaluation.lmms.LladaVPlain",
        )
    ]
