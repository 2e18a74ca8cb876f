"""What must be the same for one server's token ids to mean anything to the next."""

from hashlib import blake2b
from pathlib import Path

FILES = ("config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


def fingerprint(folder: Path, model_id: str) -> str:
    """A name, fit for a file, of this model under this id, by its configuration and tokenizer."""
    digest = blake2b(model_id.encode(), digest_size=16)
    for name in FILES:
        path = folder / name
        content = path.read_bytes() if path.exists() else b""
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
