"""A disk that is full, or takes half a file: remembered answers are lost, and nothing else."""

import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from token_engine import TokenEngine, token_engine

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


@contextmanager
def files_end_at(num_bytes: int) -> Iterator[None]:
    """Every file of this process ends there: what is written beyond is an error (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def answers(engine: TokenEngine, first: int) -> list[list[int]]:
    return [engine.generate([*PROMPT, first, last]) for last in range(6)]


def file_errors(engine: TokenEngine) -> int:
    count: int = engine.scheduler.counters()["suffix_file_errors"]
    return count


def test_a_disk_that_takes_half_a_file_costs_what_was_new_alone(
    tiny_folder: Path, tmp_path: Path
) -> None:
    with token_engine(tiny_folder, suffix_dir=str(tmp_path)) as engine:
        said = answers(engine, 1)
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()

    with ExitStack() as running:
        engine = running.enter_context(token_engine(tiny_folder, suffix_dir=str(tmp_path)))
        answers(engine, 2)
        with files_end_at(len(whole) // 2):
            running.close()  # the engine writes as it ends
    assert file_errors(engine) == 1
    assert (list(tmp_path.iterdir()), file.read_bytes()) == ([file], whole)

    file.write_bytes(whole[: len(whole) // 2])  # as if it had been torn all the same
    with token_engine(tiny_folder, suffix_dir=str(tmp_path)) as engine:
        assert answers(engine, 1) == said
    assert file_errors(engine) == 0
    assert file.read_bytes()[: len(whole) // 4] == whole[: len(whole) // 4]


def test_a_folder_that_cannot_be_written_is_counted_and_the_engine_serves_on(
    tiny_folder: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file, where the folder should be")
    with token_engine(tiny_folder, suffix_dir=str(taken)) as engine:
        said = answers(engine, 1)
        assert answers(engine, 1) == said
    assert file_errors(engine) == 1
