"""Which model a request means that need not name one."""

from mlxspec.api.ports import EngineLike
from mlxspec.errors import BadRequestError


def model_or_only(engine: EngineLike, wanted: str | None) -> str:
    """The wanted id, or that of the only served model; BadRequestError where there are several."""
    if wanted is not None:
        return wanted
    served = [card.id for card in engine.models()]
    if len(served) != 1:
        names = ", ".join(served) or "none"
        raise BadRequestError(f"which model? name one of {names}", param="model")
    return served[0]
