"""Valid bytes, broken a little: what a parser must survive."""

import random
import re

ODD = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"{",
    b"]",
    b'"',
    b"\\u0000",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"[" * 99,
]
NUMBERS = [0, 1, -1, 2**31, 2**32 - 1, 2**53 + 1, 2**63, 2**64 - 1, 2**64, 10**30]
DIGITS = re.compile(rb"\d+")


def mutate(rng: random.Random, valid: bytes) -> bytes:
    """A copy with one to four changes: bits, numbers, pieces cut, repeated, moved or put in."""
    broken = valid
    for _ in range(rng.randint(1, 4)):
        broken = rng.choice(CHANGES)(rng, broken)
    return broken


def _flip(rng: random.Random, text: bytes) -> bytes:
    if not text:
        return text
    broken = bytearray(text)
    broken[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
    return bytes(broken)


def _renumber(rng: random.Random, text: bytes) -> bytes:
    """Some number becomes one at the edge of a type."""
    found = list(DIGITS.finditer(text))
    if not found:
        return text
    start, end = rng.choice(found).span()
    return text[:start] + str(rng.choice(NUMBERS)).encode() + text[end:]


def _piece(rng: random.Random, text: bytes) -> tuple[int, int]:
    start = rng.randint(0, len(text))
    return start, min(len(text), start + rng.randint(0, 40))


def _cut(rng: random.Random, text: bytes) -> bytes:
    start, end = _piece(rng, text)
    return text[:start] + text[end:]


def _repeat(rng: random.Random, text: bytes) -> bytes:
    start, end = _piece(rng, text)
    return text[:end] + text[start:end] + text[end:]


def _insert(rng: random.Random, text: bytes) -> bytes:
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice(ODD) + text[at:]


def _truncate(rng: random.Random, text: bytes) -> bytes:
    return text[: rng.randint(0, len(text))]


CHANGES = [_flip, _flip, _renumber, _renumber, _cut, _repeat, _insert, _truncate]
