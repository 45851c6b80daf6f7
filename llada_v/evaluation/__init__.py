"""Benchmarks: the model for lmms-eval, pinned settings, log-likelihoods, rules that find answers, and the table.

`lmms` is the model that `lmms-eval --model llada_v` loads; `gen_kwargs` and `prompts` turn its requests into settings
and prompts, the original's or ours. `likelihood` scores given answers. `extraction` and `numbers` find what a free
answer says, and `scoring` is how lmms-eval's task files call them. `settings` reads the table of benchmarks, `request`
is what is asked for, `run` runs it task by task, each in its place (`places`), and `results` shows what came out. Only
`lmms` and `scoring` need lmms-eval.
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
