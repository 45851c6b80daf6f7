"""Messages as they are written, before any tensor: what a question ends with, and the message that shows pictures."""

THINK, NO_THINK = " /think", " /no_think"  # what ends a question of the reasoning data, of all other data beside it


def user_message(text: str, images=(), video=None) -> dict:
    """The message that shows pictures, or a video, and then asks; see `LladaVProcessor.apply_chat_template`."""
    content = [{"type": "image", "image": image} for image in images]
    if video is not None:
        content.append({"type": "video", "video": video})
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


def list_of(value) -> list:
    """A list as it is, None as an empty one, anything else as a list of one."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
