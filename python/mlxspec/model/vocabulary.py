"""Whether two models mean the same tokens by the same ids, as a draft model's drafts require."""

from pathlib import Path
from typing import Any

import msgspec

from mlxspec.errors import ConfigError

TOKENIZER = "tokenizer.json"


def check_same_vocabulary(target: Path, draft_model: Path) -> None:
    """Raises ConfigError unless both model folders have one vocabulary. Reads files; no MLX."""
    ours, theirs = _vocabulary(target), _vocabulary(draft_model)
    differing = [token for token, at in theirs.items() if ours.get(token) != at]
    missing = len(ours.keys() - theirs.keys())
    if not differing and not missing:
        return
    example = f", {differing[0]!r} for one" if differing else ""
    raise ConfigError(
        f"{draft_model.name} cannot draft for {target.name}: {len(differing) + missing} tokens of "
        f"{len(ours)} differ{example}: choose a draft model of the same family, or serve without "
        "--draft-model"
    )


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
        raise ConfigError(
            f"cannot compare vocabularies, {path} cannot be read ({type(error).__name__}): "
            "serve without --draft-model"
        ) from None
    return tokens


def _unigram(vocab: list[Any]) -> dict[str, int]:
    return {token: at for at, (token, _) in enumerate(vocab)}
