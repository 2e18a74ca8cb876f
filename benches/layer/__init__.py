"""What HTTP costs: our API and a FastAPI one around the same scripted tokens."""
