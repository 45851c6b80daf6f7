"""POST /v1/diffusion/attention: where in the pictures a token of an answer looked, from one forward pass.

The answer is given as the canvas on which the token was revealed, null where a mask stood, so nothing is kept between
requests.
"""

import asyncio

import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from ..errors import UserError
from ..looks import attention_row, looks_of
from ..sequence import picture_inputs
from .engine import Engine
from .errors import Refused
from .forms import AttentionRequest
from .reading import inputs_of
from .server import Server, refused

DIGITS = 7  # of a weight: more than a screen can show


def add_attention(app: FastAPI, server: Server, extra: dict, responses: dict) -> None:
    """The route. extra, responses: what the API's description says of its body and of errors."""

    @app.post("/v1/diffusion/attention", openapi_extra=extra, responses=responses, response_class=JSONResponse)
    async def attention(request: Request) -> Response:
        """Where in the pictures a token of an answer looked."""
        client = server.client_of(request)
        async with server.counted(client):
            body = await server.body_of(request)
            loop = asyncio.get_running_loop()
            form, inputs = await loop.run_in_executor(server.readers, read_look, server, body)
            try:
                found = await asyncio.wrap_future(server.engine.run(lambda: look(server.engine, form, inputs)))
            except UserError as error:
                raise refused(error) from error
        return JSONResponse(found)


def read_look(server: Server, body: bytes) -> tuple[AttentionRequest, dict]:
    """A body as a request and its prompt. Raises Refused for ids and lengths that the model does not have."""
    form = server.form_of(body, AttentionRequest)
    sizes, most = server.engine.sizes, server.engine.config.tick_tokens
    if form.position >= len(form.answer):
        told = f"position is {form.position}, and the answer has {len(form.answer)} tokens"
        raise Refused(400, told, "position")
    largest = max((token for token in form.answer if token is not None), default=0)
    if largest >= sizes.vocab_size:
        raise Refused(400, f"the answer has the id {largest}, outside the {sizes.vocab_size} there are", "answer")
    inputs = inputs_of(form, server.engine.processor, server.limits, server.config.fetches)
    length = inputs["input_ids"].shape[1] + len(form.answer)
    if length > min(sizes.max_position_embeddings, most):
        told = f"prompt and answer have {length} tokens; there may be {min(sizes.max_position_embeddings, most)}"
        raise Refused(400, told, "messages", "context_length_exceeded")
    return form, inputs


@torch.no_grad()
def look(engine: Engine, form: AttentionRequest, inputs: dict) -> dict:
    """The answer, in the engine's thread."""
    model = engine.model
    pictures = picture_inputs(inputs)
    features = engine.memory(**pictures) if pictures else None
    canvas = [model.config.mask_token_id if token is None else token for token in form.answer]
    prompt = inputs["input_ids"].to(engine.device)
    # The canvas is embedded apart: there an id that stands for pictures is an id like any other.
    behind = model.get_input_embeddings()(torch.tensor([canvas], device=engine.device))
    embeds = torch.cat((model.model.embed(prompt, features), behind), dim=1)
    row = attention_row(model.model.language_model, embeds, prompt.shape[1] + form.position).cpu()
    is_picture = (prompt[0] == model.config.image_token_id).cpu()
    seen = row[: len(is_picture)]
    visuals = model.model.list_visuals(**pictures) if pictures else []
    shares = {
        "pictures": seen[is_picture].sum().item(),
        "prompt": seen[~is_picture].sum().item(),
        "answer": row[len(is_picture) :].sum().item(),
    }
    return {
        "object": "diffusion.attention",
        "position": form.position,
        "share": {name: round(share, DIGITS) for name, share in shares.items()},
        "pictures": [
            {
                "index": each.picture,
                "frame": each.frame,
                "rows": each.weights.shape[0],
                "columns": each.weights.shape[1],
                "weights": [[round(weight, DIGITS) for weight in line] for line in each.weights.tolist()],
            }
            for each in looks_of(seen[is_picture], visuals, model.config)
        ],
    }
