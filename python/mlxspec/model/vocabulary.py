"""Whether two models mean the same tokens by the same ids, and what they share if not."""

from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from mlxspec.errors import ConfigError

TOKENIZER = "tokenizer.json"

Ids: TypeAlias = np.ndarray[Any, np.dtype[np.int32]]


class Dictionary(NamedTuple):
    """A draft model's ids by its target's; both are (target's tokens,).

    same: of the token with the same bytes, -1 where there is none. nearest: of that token, else of
    the longest one that the target's token ends with, so that what follows it reads on.
    """

    same: Ids
    nearest: Ids


def same_vocabulary(target: Path, draft_model: Path) -> bool:
    """Whether two model folders have the same tokens under the same ids. Reads files; no MLX.

    Raises ConfigError for a folder whose vocabulary cannot be read.
    """
    return _vocabulary(target) == _vocabulary(draft_model)


def _vocabulary(folder: Path) -> dict[str, int]:
    """Every token's id, added tokens included."""
    path = folder / TOKENIZER
    try:
        read: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        vocab = read["model"]["vocab"]
        added = read.get("added_tokens") or []
        tokens = dict(vocab) if isinstance(vocab, dict) else _unigram(vocab)
        tokens.update((token["content"], token["id"]) for token in added)
    except (OSError, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise unreadable(path, error) from None
    return tokens


def unreadable(path: Path, error: Exception) -> ConfigError:
    """What to tell of a tokenizer file that is no such thing."""
    return ConfigError(
        f"cannot compare vocabularies, {path} cannot be read ({type(error).__name__}): "
        "serve without --draft-model"
    )


def _unigram(vocab: list[Any]) -> dict[str, int]:
    return {token: at for at, (token, _) in enumerate(vocab)}
