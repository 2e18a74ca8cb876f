"""What a server says of itself at /metrics."""

import httpx

ENDS = ("finished", "aborted", "expired", "failed")


async def gauges(client: httpx.AsyncClient) -> dict[str, float]:
    """Every sample by its name and labels."""
    lines = (await client.get("/metrics")).text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def in_flight(now: dict[str, float]) -> float:
    return now["mlxspec:requests_running"] + now["mlxspec:requests_waiting"]


def ended(now: dict[str, float]) -> float:
    """Requests that were accepted and have ended, however."""
    return sum(now[f"mlxspec:requests_{how}_total"] for how in ENDS)
