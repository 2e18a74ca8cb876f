"""What HTTP costs: our API, a FastAPI one and mlx_lm.server around the same scripted tokens."""
