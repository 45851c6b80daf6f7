"""Tests of transformers that do not apply to LLaDA-V, by suite, with one line of reason each."""

NOT_BOTH = "the model was trained on pictures or a video, and refuses both in one prompt"
STRICT = "a folder that lacks weights, or has others, is refused before it is read"
EMBEDS = "inputs_embeds beside pixel_values are refused: one of them would be ignored"
DO_NOT_APPLY: dict[str, dict[str, str]] = {
    "models": {
        "test_base_model_prefix_loads_base_weights": STRICT,
        "test_correct_missing_keys": STRICT,
        "test_model_weights_reload_no_missing_tied_weights": STRICT,
        "test_inputs_embeds": EMBEDS,
        "test_inputs_embeds_matches_input_ids": EMBEDS,
        "test_causal_lm_loss_honors_shift_labels": "a label is that of its own position: nothing is shifted",
        "test_model_forward_default_config_values": "the default ids of a config need the published vocabulary",
        "test_multimodal_outputs_are_returned": "get_image_features gives the tower's outputs, forward does not",
    },
    "processing": {
        "test_flat_kwarg_applied_when_modality_dict_lacks_it": NOT_BOTH,
        "test_model_input_names": NOT_BOTH,
        "test_processor_with_multiple_inputs": NOT_BOTH,
        "test_apply_chat_template_assistant_mask": "assistant masks are of LLaDA-V's own format alone",
        "test_apply_chat_template_tool_calls_no_content": "the template names tools to refuse them",
    },
    "image_processing": {
        "test_call_numpy_4_channels": "the tower sees three channels, not four",
        "test_new_models_require_torchvision_backend": "the pixels are Pillow's, with torchvision or without",
    },
}
