"""Works through batches, one after another, a few requests at a time, behind all other requests."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import msgspec
import structlog
from msgspec.structs import replace

from mlxspec.api.errors import internal_error
from mlxspec.api.openai.batches.answerer import BatchAnswerer
from mlxspec.api.openai.batches.lines import read_lines
from mlxspec.api.openai.batches.schema import Batch, Counts, Line, LineAnswer, OutputLine
from mlxspec.api.openai.batches.store import BatchStore, Entry
from mlxspec.api.openai.error import error_body
from mlxspec.api.openai.files.store import FileStore
from mlxspec.config import BatchesConfig
from mlxspec.errors import MlxspecError

log = structlog.get_logger()

BUSY = frozenset({429, 503})
"""Statuses that say: try again later."""

RETRY_SECONDS = 5


class BatchWorker:
    """One task. For the event loop's thread."""

    def __init__(
        self, answerer: BatchAnswerer, files: FileStore, batches: BatchStore, config: BatchesConfig
    ) -> None:
        self._answerer = answerer
        self._files = files
        self._batches = batches
        self._config = config
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There is a new batch."""
        self._news.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works meanwhile; what is unfinished then begins anew the next time."""
        self._news = asyncio.Event()
        task = asyncio.create_task(self._work())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _work(self) -> None:
        while True:
            self._news.clear()
            for entry in self._batches.unfinished():
                try:
                    await self._run(entry)
                except Exception:
                    log.exception("batch failed", batch=entry.batch.id)
                    self._put(entry, status="failed", failed_at=int(time.time()))
            await self._news.wait()

    async def _run(self, entry: Entry) -> None:
        """Answer all requests of a batch, and write its files."""
        batch = entry.batch
        nothing = Counts(batch.request_counts.total, 0, 0)
        self._put(entry, request_counts=nothing)
        content = await asyncio.to_thread(self._files.content, entry.owner, batch.input_file_id)
        lines, _ = await asyncio.to_thread(
            read_lines, content, batch.endpoint, self._config.max_requests
        )
        answers: list[OutputLine] = []
        left = iter(lines)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._config.max_running):
                group.create_task(self._take_turns(entry, left, answers))
        await self._finish(entry, answers, len(lines))

    async def _take_turns(
        self, entry: Entry, left: Iterator[Line], answers: list[OutputLine]
    ) -> None:
        for line in left:
            if not self._goes_on(entry):
                return
            answer = await self._answer(entry, line)
            if answer is None:
                return
            answers.append(answer)
            self._count(entry, answer)

    def _count(self, entry: Entry, answer: OutputLine) -> None:
        batch = self._batches.get(entry.owner, entry.batch.id)
        good, before = answer.response.status_code == 200, batch.request_counts
        counts = Counts(before.total, before.completed + good, before.failed + (not good))
        self._batches.put(entry.owner, replace(batch, request_counts=counts))

    def _goes_on(self, entry: Entry) -> bool:
        batch = self._batches.get(entry.owner, entry.batch.id)
        return batch.status == "in_progress" and time.time() < batch.expires_at

    async def _answer(self, entry: Entry, line: Line) -> OutputLine | None:
        """The line's answer, however long the server is busy; None if the batch ends before."""
        request_id = uuid4().hex
        while self._goes_on(entry):
            status, body = 200, None
            try:
                body = await self._answerer.answer(
                    entry.batch.endpoint, bytes(line.body), request_id, entry.owner
                )
            except MlxspecError as error:
                if error.status in BUSY:
                    wait = error.retry_after
                    await asyncio.sleep(RETRY_SECONDS if wait is None else wait)
                    continue
                status, body = error.status, error_body(error)
            except Exception as error:  # noqa: BLE001 - it is logged, with its traceback
                status, body = 500, error_body(internal_error(request_id, error))
            told = LineAnswer(status_code=status, request_id=request_id, body=body)
            name = f"batch_req_{request_id}"
            return OutputLine(id=name, custom_id=line.custom_id, response=told)
        return None

    async def _finish(self, entry: Entry, answers: list[OutputLine], total: int) -> None:
        good = [answer for answer in answers if answer.response.status_code == 200]
        bad = [answer for answer in answers if answer.response.status_code != 200]
        output = await self._write(entry, "output", good)
        errors = await self._write(entry, "error", bad)
        batch = self._batches.get(entry.owner, entry.batch.id)
        now, status = int(time.time()), "completed"
        if len(answers) < total:
            status = "cancelled" if batch.status == "cancelling" else "expired"
        self._put(
            entry,
            status=status,
            output_file_id=output,
            error_file_id=errors,
            **{f"{status}_at": now},
        )

    async def _write(self, entry: Entry, kind: str, lines: list[OutputLine]) -> str | None:
        if not lines:
            return None
        content = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        name = f"{entry.batch.id}_{kind}.jsonl"
        return (await self._files.add(entry.owner, name, "batch_output", content)).id

    def _put(self, entry: Entry, **changes: object) -> Batch:
        batch = self._batches.get(entry.owner, entry.batch.id)
        return self._batches.put(entry.owner, replace(batch, **changes))
