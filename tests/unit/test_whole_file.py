"""A file is there whole, or as it was before."""

import stat
from pathlib import Path

import pytest

from mlxspec.whole_file import write_whole


def test_what_is_written_takes_the_place_of_what_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    write_whole(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"secret")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_one_that_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(OSError, match="taken"):
        write_whole(taken, b"content")
    assert list(tmp_path.iterdir()) == [taken]
