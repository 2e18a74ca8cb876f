"""What tests of the extension with MLX share."""

import pytest
from costs import say_cheap, say_free
from layouts import EXACT, PADDED

from mlxspec.engine.model_facts import DEVICE_SHAPES, DeviceShape


@pytest.fixture
def drafts_look_free(monkeypatch: pytest.MonkeyPatch) -> None:
    say_free(monkeypatch)


@pytest.fixture
def drafts_look_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    say_cheap(monkeypatch, draft_ms=0.02)


@pytest.fixture(params=[EXACT, PADDED], ids=["exact", "padded"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DeviceShape:
    """Steps lie so."""
    shape: DeviceShape = request.param
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", shape)
    return shape
