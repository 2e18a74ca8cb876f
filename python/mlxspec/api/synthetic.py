"""The mark of a server that forces acceptance: no answer of its may pass for a model's."""

from litestar.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-mlxspec-synthetic-acceptance"


def mark_synthetic(app: ASGIApp, rate: float | None) -> ASGIApp:
    """`app`, with the rate in a header of every answer; `app` itself where nothing is forced."""
    if rate is None:
        return app
    header = (HEADER.encode(), str(rate).encode())

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
            await send(message)

        await app(scope, receive, send_marked)

    return marked
