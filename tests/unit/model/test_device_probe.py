"""The probe after a failed step."""

import mlx.core as mx
import pytest

from mlxspec.model.device_probe import device_works


def test_a_device_that_computes_works() -> None:
    assert device_works()


@pytest.mark.parametrize(("num_errors", "works"), [(1, True), (2, False)])
def test_one_left_over_error_is_forgiven_and_two_are_not(
    monkeypatch: pytest.MonkeyPatch, num_errors: int, works: bool
) -> None:
    errors = [RuntimeError("[METAL] out of memory")] * num_errors

    def synchronize() -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(mx, "synchronize", synchronize)
    assert device_works() is works
