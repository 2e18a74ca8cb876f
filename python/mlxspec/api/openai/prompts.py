"""One text or many, as text or as token ids: JSON has one list type for all of them."""

from mlxspec.errors import BadRequestError

AnyPrompts = str | list[int | str | list[int]]


def split_prompts(prompts: AnyPrompts, param: str, most: int) -> list[str | list[int]]:
    """Each prompt by itself; BadRequestError for none, a mixture, or too many."""
    if isinstance(prompts, str):
        return [prompts]
    ids = [item for item in prompts if isinstance(item, int)]
    others = [item for item in prompts if not isinstance(item, int)]
    if not prompts or (ids and others) or [] in others:
        raise BadRequestError(
            f"{param} is empty or mixed: send a string, token ids, or a list of either",
            param=param,
        )
    if len(others) > most:
        raise BadRequestError(
            f"{len(others)} texts in one request: send at most {most}", param=param
        )
    if len({type(item) for item in others}) > 1:
        raise BadRequestError(f"{param} is mixed: send only strings or only ids", param=param)
    return [ids] if ids else others
