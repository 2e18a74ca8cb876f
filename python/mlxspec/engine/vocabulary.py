"""What bytes a token stands for, in byte-level and in SentencePiece vocabularies."""

import json
import re
from typing import Any

from tokenizers import AddedToken, Tokenizer

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""A SentencePiece token that is one byte."""


class Vocabulary:
    """Bytes by token id. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = {token: added.content for token, added in _added(tokenizer).items()}
        decoder = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {}
        self._byte_of = _byte_of() if _uses(decoder, "ByteLevel") else None

    def bytes_of(self, token: int) -> bytes:
        """The token's bytes, which need not be whole characters; special tokens by name.

        Empty for a token the tokenizer does not know: vocabularies are padded.
        """
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if self._byte_of is not None:
            return bytes(self._byte_of[char] for char in piece if char in self._byte_of)
        byte = BYTE.fullmatch(piece)
        return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()


def _added(tokenizer: Tokenizer) -> dict[int, AddedToken]:
    added: dict[int, AddedToken] = tokenizer.get_added_tokens_decoder()
    return added


def _uses(decoder: dict[str, Any], kind: str) -> bool:
    """Whether a decoder, or one of those it is made of, is of this kind."""
    return decoder.get("type") == kind or any(
        _uses(part, kind) for part in decoder.get("decoders", [])
    )


def _byte_of() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for.

    Printable bytes stand for themselves, the others are shifted behind them in order: GPT-2's
    table.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + at): byte for at, byte in enumerate(others)
    }
