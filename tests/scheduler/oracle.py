"""What mlx-lm itself says."""

from pathlib import Path

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model


def mlx_lm_greedy(folder: Path, prompt: list[int], max_tokens: int) -> list[int]:
    model, _ = load_model(folder)
    steps = generate_step(mx.array(prompt), model, max_tokens=max_tokens)
    return [int(token) for token, _ in steps]
