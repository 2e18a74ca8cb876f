"""Models that the Hugging Face hub offers for MLX."""

from typing import Final

import msgspec
from msgspec import Struct

from mlxspec.errors import UnavailableError
from mlxspec.model import hub

LIBRARY: Final = "mlx"
"""The hub's tag of weights in MLX's form."""


PATIENCE_SECONDS = 10.0


class _Listed(Struct, frozen=True):
    """What the hub says of a model; `gated` is False or how access is granted."""

    id: str
    downloads: int = 0
    likes: int = 0
    gated: bool | str = False


class HubModel(Struct, frozen=True, kw_only=True):
    """A model on the hub. downloads: of the last month. here: whole in this machine's cache."""

    id: str
    downloads: int
    likes: int
    gated: bool
    here: bool


def search(text: str, limit: int) -> list[HubModel]:
    """The hub's models for MLX whose id has the text, most downloaded first, at most `limit`.

    Blocks for the answer. Raises UnavailableError when the hub cannot be asked.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its transport's
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    query = {"search": text, "filter": LIBRARY, "sort": "downloads", "limit": str(limit)}
    try:
        # Not by its `list_models`, which tries for half a minute where there is no network.
        answer = get_session().get(
            f"{constants.ENDPOINT}/api/models",
            params=query,
            headers=build_hf_headers(),
            timeout=PATIENCE_SECONDS,
        )
        answer.raise_for_status()
        found = msgspec.json.decode(answer.content, type=list[_Listed])
    except (HTTPError, OSError, msgspec.DecodeError) as error:
        raise UnavailableError(
            f"the hub cannot be asked ({type(error).__name__}): check the connection and "
            "HF_HUB_OFFLINE, or see 'mlxspec list' for what is here"
        ) from None
    return [
        HubModel(
            id=model.id,
            downloads=model.downloads,
            likes=model.likes,
            gated=bool(model.gated),
            here=hub.find(model.id) is not None,
        )
        for model in found
    ]
