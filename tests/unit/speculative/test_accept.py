"""Acceptance keeps the longest prefix of drafts that the target would have drawn itself."""

import mlx.core as mx
from hypothesis import given
from hypothesis import strategies as st

from mlxspec.speculative.accept import accept_prefix

rows = st.lists(
    st.tuples(
        st.lists(st.integers(0, 1), min_size=4, max_size=4),
        st.lists(st.integers(0, 1), min_size=4, max_size=4),
        st.integers(0, 4),
    ),
    min_size=1,
    max_size=6,
)


def longest_common_prefix(target: list[int], draft: list[int]) -> int:
    kept = 0
    while kept < len(draft) and target[kept] == draft[kept]:
        kept += 1
    return kept


@given(rows)
def test_each_row_keeps_its_own_longest_agreeing_prefix(
    batch: list[tuple[list[int], list[int], int]],
) -> None:
    targets, drafts, counts = (list(column) for column in zip(*batch, strict=True))
    kept = accept_prefix(mx.array(targets), mx.array(drafts), mx.array(counts))
    expected = [longest_common_prefix(t, d[:n]) for t, d, n in batch]
    assert kept.tolist() == expected
