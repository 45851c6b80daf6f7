"""Tests of transformers that do not apply to LLaDA-V, by suite, with one line of reason each."""

NOT_BOTH = "the model was trained on pictures or a video, and refuses both in one prompt"
DO_NOT_APPLY: dict[str, dict[str, str]] = {
    "models": {
        "test_causal_lm_loss_honors_shift_labels": "a label is that of its own position: nothing is shifted",
    },
    "processing": {
        "test_flat_kwarg_applied_when_modality_dict_lacks_it": NOT_BOTH,
        "test_model_input_names": NOT_BOTH,
        "test_processor_text_has_no_visual": NOT_BOTH,
        "test_processor_with_multiple_inputs": NOT_BOTH,
        "test_apply_chat_template_tool_calls_no_content": "the template names tools to refuse them",
    },
    "image_processing": {
        "test_call_numpy_4_channels": "the tower sees three channels, not four",
        "test_new_models_require_torchvision_backend": "the pixels are Pillow's, with torchvision or without",
    },
}
