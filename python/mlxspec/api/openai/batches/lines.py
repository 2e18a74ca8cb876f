"""The lines of a batch's files: requests in, answers out."""

import msgspec

from mlxspec.api.openai.batches.schema import Line, LineFault

DECODER = msgspec.json.Decoder(Line)
MAX_FAULTS = 20


def read_lines(
    content: bytes, endpoint: str, max_requests: int
) -> tuple[list[Line], list[LineFault]]:
    """The requests of an input file, and what is wrong with it, if anything is."""
    lines: list[Line] = []
    faults: list[LineFault] = []
    seen: set[str] = set()
    for number, text in enumerate(content.splitlines(), 1):
        if not text.strip():
            continue
        fault = None
        try:
            line = DECODER.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            fault = f"the line cannot be read: {error}"
        else:
            fault = _fault(line, endpoint, seen)
            seen.add(line.custom_id)
            lines.append(line)
        if fault:
            faults.append(LineFault(line=number, message=fault))
        if len(faults) == MAX_FAULTS:
            break
    if not faults and not 0 < len(lines) <= max_requests:
        text_ = f"the file has {len(lines)} requests: send 1 to {max_requests}"
        faults.append(LineFault(line=None, message=text_))
    return lines, faults


def _fault(line: Line, endpoint: str, seen: set[str]) -> str | None:
    if line.url != endpoint:
        return f"the url is {line.url!r:.80}, the batch's endpoint is {endpoint}: send that"
    if line.custom_id in seen:
        return f"custom_id {line.custom_id!r:.80} comes twice: give each its own"
    return None
