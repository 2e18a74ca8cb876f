"""Keys: their file, changes while the server runs, expiry, and quotas."""

from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mlxspec.api.access import keyring as keyring_module
from mlxspec.api.access.key import ApiKey, digest
from mlxspec.api.access.key_file import KeyFile
from mlxspec.api.access.keyring import Keyring
from mlxspec.api.access.quota import Quotas, TokenBucket
from mlxspec.errors import ConfigError, RateLimitError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyFile:
    """A key file; rings look at it at every question."""
    monkeypatch.setattr(keyring_module, "LOOK_SECONDS", 0.0)
    return KeyFile(tmp_path / "sub" / "keys.json")


def test_a_written_file_is_private_and_reads_back(file: KeyFile) -> None:
    key, text = ApiKey.create("laptop", ("infer",), expires=5, max_concurrent=2)
    file.write((key,))
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.read() == (key,)
    assert key.sha256 == digest(text)
    assert len(text) > 40


def test_a_file_open_to_others_is_refused(file: KeyFile) -> None:
    file.write(())
    file.path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        file.read()


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"keys": [{}]}', b"\xff", b'{"keys": [], "x": 1}'])
def test_a_file_that_is_not_ours_is_refused(file: KeyFile, raw: bytes) -> None:
    file.write(())
    file.path.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        Keyring(file)


def test_a_ring_follows_its_file(file: KeyFile) -> None:
    old, old_text = ApiKey.create("old", ("infer",))
    new, new_text = ApiKey.create("new", ("infer",))
    file.write((old,))
    ring = Keyring(file)
    assert ring.find(old_text) == old
    assert ring.find(new_text) is None
    file.write((new,))
    assert ring.find(old_text) is None
    assert ring.find(new_text) == new
    file.write(())
    assert ring.find(new_text) is None


def test_a_file_that_breaks_leaves_the_keys_before_it(file: KeyFile) -> None:
    key, text = ApiKey.create("old", ("infer",))
    file.write((key,))
    ring = Keyring(file)
    with capture_logs() as lines:
        file.path.write_bytes(b"broken")
        assert ring.find(text) == key
        file.path.unlink()
        assert ring.find(text) == key
        assert ring.find("other") is None
    assert [line["log_level"] for line in lines] == ["error", "error"]


def test_an_expired_key_is_no_key(file: KeyFile) -> None:
    over, over_text = ApiKey.create("over", ("infer",), expires=1)
    coming, coming_text = ApiKey.create("coming", ("infer",), expires=2**40)
    file.write((over, coming))
    ring = Keyring(file)
    assert ring.find(over_text) is None
    assert ring.find(coming_text) == coming


def test_all_keys_are_compared_even_after_a_match(
    file: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [ApiKey.create(str(at), ("infer",)) for at in range(5)]
    file.write(tuple(key for key, _ in made))
    seen: list[str] = []

    def compare(one: str, other: str) -> bool:
        seen.append(other)
        return one == other

    monkeypatch.setattr("secrets.compare_digest", compare)
    assert Keyring(file).find(made[0][1]) == made[0][0]
    assert len(seen) == 5


def test_a_bucket_gives_a_minutes_worth_then_refills_steadily() -> None:
    bucket = TokenBucket(6, now=100.0)
    assert [bucket.take(100.0) for _ in range(6)] == [0] * 6
    assert bucket.take(100.0) == pytest.approx(10.0)
    assert bucket.take(105.0) == pytest.approx(5.0)
    assert bucket.take(110.0) == 0
    assert [bucket.take(1000.0) for _ in range(7)][5:] == [0, pytest.approx(10.0)]


def test_a_lease_is_given_back_whatever_happens_inside() -> None:
    key, _ = ApiKey.create("k", ("infer",), max_concurrent=1)
    quotas = Quotas()
    for _ in range(2):
        with suppress(KeyError), quotas.lease(key):
            with pytest.raises(RateLimitError, match="1 requests running"):
                quotas.lease(key).__enter__()
            raise KeyError
