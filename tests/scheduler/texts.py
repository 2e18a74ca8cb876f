"""Prompts of the tiny model's 48 tokens."""

import random


def prompts(count: int, seed: int = 3) -> list[list[int]]:
    """Prompts of 1 to 90 tokens, half of them repetitive, so that drafts are often right."""
    rng = random.Random(seed)
    made = []
    for index in range(count):
        words = [[rng.randrange(48) for _ in range(rng.randrange(2, 7))] for _ in range(3)]
        size = rng.randrange(1, 90)
        repetitive = [token for _ in range(40) for token in rng.choice(words)][:size]
        made.append(repetitive if index % 2 else [rng.randrange(48) for _ in range(size)])
    return made


def phrases(count: int, seed: int) -> list[int]:
    """One prompt of so many tokens, most of them of one phrase."""
    rng = random.Random(seed)
    phrase = [rng.randrange(48) for _ in range(7)]
    return [rng.choice(phrase) if rng.random() < 0.8 else rng.randrange(48) for _ in range(count)]
