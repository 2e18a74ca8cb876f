"""Models from the Hugging Face hub, through its own client and its own cache.

The client is imported where it is used: its import alone takes a good part of a second.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from mlxspec.errors import ModelNotFoundError, UnavailableError

PATTERNS: Final = [
    "*.json",
    "*.jinja",
    "*.txt",
    "*.tiktoken",
    "tokenizer.model",
    "model*.safetensors",
]
"""What is downloaded: weights, configuration, tokenizers. Never code, never pickles."""


def find(hub_id: str) -> Path | None:
    """The cached snapshot of `hub_id`, without asking the network; None when it is not complete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(hub_id, allow_patterns=PATTERNS, local_files_only=True)
    except HFValidationError:
        raise ModelNotFoundError(f"{hub_id!r} is not a hugging face id (owner/name)") from None
    except LocalEntryNotFoundError:
        return None
    folder = Path(found)
    return folder if _has_weights(folder) else None


def pull(hub_id: str) -> Path:
    """Download `hub_id`, or bring its cached snapshot up to date; shows the client's own progress.

    Raises ModelNotFoundError when the hub has none or does not let this user have it,
    UnavailableError when the hub cannot be reached and nothing is cached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of its transport
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(hub_id, allow_patterns=PATTERNS))
    except HFValidationError:
        raise ModelNotFoundError(f"{hub_id!r} is not a hugging face id (owner/name)") from None
    except GatedRepoError:
        raise ModelNotFoundError(
            f"{hub_id} is gated: accept its terms on its page, then 'hf auth login'"
        ) from None
    except RepositoryNotFoundError:
        raise ModelNotFoundError(
            f"the hub has no model {hub_id}, or it is private: check the id, or 'hf auth login'"
        ) from None
    except (LocalEntryNotFoundError, HTTPError, OSError) as error:
        raise UnavailableError(
            f"{hub_id} cannot be downloaded ({type(error).__name__}): check the connection and "
            "try again, or use a local folder"
        ) from None


def cached() -> Iterator[tuple[str, Path]]:
    """Ids and folders of the models in the hub's cache that have a config and safetensors."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return
    for repo in cache.repos:
        heads = [revision for revision in repo.revisions if "main" in revision.refs]
        if repo.repo_type == "model" and heads and _has_weights(heads[0].snapshot_path):
            yield repo.repo_id, heads[0].snapshot_path


class CacheUse(NamedTuple):
    """What the hub's cache holds, other programs' things too: bytes on disk."""

    folder: str
    num_repos: int
    num_bytes: int


def cache_use() -> CacheUse:
    """How much the hub's cache takes on disk; reads the folder."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    folder = constants.HF_HUB_CACHE
    try:
        cache = scan_cache_dir(folder)
    except CacheNotFound:
        return CacheUse(folder, 0, 0)
    return CacheUse(folder, len(cache.repos), cache.size_on_disk)


def remove(hub_id: str) -> int:
    """Delete all of a model's revisions from the hub's cache; return the bytes freed.

    Raises ModelNotFoundError when it is not there.
    """
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        repos = []
    else:
        repos = [it for it in cache.repos if it.repo_type == "model" and it.repo_id == hub_id]
    if not repos:
        raise ModelNotFoundError(
            f"{hub_id} is not in the hugging face cache: 'mlxspec list' shows what is"
        )
    hashes = [revision.commit_hash for revision in repos[0].revisions]
    deletion = cache.delete_revisions(*hashes)
    deletion.execute()
    return deletion.expected_freed_size


def _has_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))
