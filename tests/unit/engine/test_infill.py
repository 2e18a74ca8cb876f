"""Prompts for filling in are spelled as the model was taught, and only if it was."""

import json
import shutil
from pathlib import Path

import pytest

from mlxspec.engine.infill import KNOWN, Infill, Markers
from mlxspec.engine.request import GenerationRequest
from mlxspec.engine.sampling import stop_tokens
from mlxspec.engine.tokenizer import Tokenizer
from mlxspec.errors import BadRequestError

BOS = 1


def infill(markers: Markers) -> Infill:
    """Of a model that has these markers as tokens from 100 on; letters are their code points."""
    ids = {mark: 100 + at for at, mark in enumerate(markers) if mark is not None}
    return Infill(ids.get, lambda text: [ord(letter) for letter in text], [BOS])


@pytest.mark.parametrize("markers", KNOWN)
def test_each_family_has_its_order(markers: Markers) -> None:
    prompt = infill(markers).prompt([ord("a")], "z")
    if markers.middle is None:
        assert prompt == [BOS, 101, ord("z"), 100, ord("a")]
    else:
        assert prompt == [BOS, 100, ord("a"), 101, ord("z"), 102]


@pytest.mark.parametrize("markers", KNOWN)
def test_a_marker_ends_what_is_filled_in(markers: Markers) -> None:
    assert set(infill(markers).stop_tokens) == {100, 101} | ({102} if markers.middle else set())


def test_a_model_without_the_markers_is_named_with_the_way_out() -> None:
    for known in (infill(Markers("<a>", "<b>")), infill(KNOWN[0]._replace(middle="<none>"))):
        assert not known
        with pytest.raises(BadRequestError, match="leave out the suffix") as refused:
            known.prompt([1], "z")
        assert refused.value.param == "suffix"


@pytest.fixture
def coder_folder(demo_folder: Path, tmp_path: Path) -> Path:
    """The demo model's tokenizer with three unused tokens renamed to markers."""
    folder = tmp_path / "coder"
    shutil.copytree(demo_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    text = (folder / "tokenizer.json").read_text()
    for unused, marker in zip(
        ("<gh_stars>", "<issue_start>", "<issue_closed>"), KNOWN[1], strict=True
    ):
        assert json.dumps(unused) in text
        text = text.replace(unused, str(marker))
    (folder / "tokenizer.json").write_text(text)
    return folder


def test_a_tokenizer_with_markers_makes_such_prompts(coder_folder: Path) -> None:
    tokenizer = Tokenizer.load(coder_folder)
    request = GenerationRequest(model="m", prompt="def f(", suffix="return a")
    text = tokenizer.decode(tokenizer.encode_request(request))
    assert text == "<fim_prefix>def f(<fim_suffix>return a<fim_middle>"
    by_ids = GenerationRequest(model="m", prompt=tokenizer.encode("def f("), suffix="return a")
    assert tokenizer.encode_request(by_ids) == tokenizer.encode_request(request)
    assert "insert" in tokenizer.capabilities
    plain = GenerationRequest(model="m", prompt="def f(")
    assert set(tokenizer.infill.stop_tokens) <= set(stop_tokens(request, tokenizer))
    assert not set(tokenizer.infill.stop_tokens) <= set(stop_tokens(plain, tokenizer))
