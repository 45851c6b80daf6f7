"""Seconds a step and peak memory of the plain sampler on a mid-sized model with random weights.

512 wide, 8 layers, the full vocabulary of 126,464; a 1024 x 768 picture (3,627 features) in a prompt of 3,687 tokens;
32 masks revealed in 4 steps, float32. The tower is two layers of width 48: it runs once and is not what is measured.

    python scripts/measure_sampler.py
"""

import resource
import time

import torch

from llada_v import LladaVConfig, LladaVForConditionalGeneration, SamplerConfig
from llada_v.anyres import Layout, num_features, num_tiles

HEIGHT, WIDTH, PROMPT, MASKS, STEPS = 768, 1024, 3687, 32, 4


def main() -> None:
    """Build, answer once, print one line."""
    torch.manual_seed(0)
    config = LladaVConfig(
        text_config=dict(hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8),
        vision_config=dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4),
    )
    model = LladaVForConditionalGeneration(config).eval()
    features = num_features(Layout.ANYRES, HEIGHT, WIDTH, config)
    input_ids = torch.randint(0, 126000, (1, PROMPT))
    input_ids[0, 20 : 20 + features] = config.image_token_id
    pixel_values = torch.randn(num_tiles(Layout.ANYRES, HEIGHT, WIDTH, config), 3, 384, 384)
    moments = [time.perf_counter()]
    model.generate(
        input_ids,
        pixel_values,
        torch.tensor([[HEIGHT, WIDTH]]),
        sampler=SamplerConfig(gen_length=MASKS, steps=STEPS, stop_token_ids=[]),
        callback=lambda state: moments.append(time.perf_counter()),
    )
    steps = [end - start for start, end in zip(moments, moments[1:], strict=False)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{torch.get_num_threads()} threads: {sum(steps[1:]) / len(steps[1:]):.2f} s a step (first, with the picture: "
        f"{steps[0]:.2f} s), peak memory of the process {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
