"""A budget of reasoning: what it forces, when, and how it is told by tokens alone."""

import numpy as np
import pytest
from llguidance.numpy import allocate_token_bitmask

from mlxspec.speculative.constrain import Constraint
from mlxspec.speculative.thinking import ThinkingBudget

START, END = (90,), (91,)
ANY = None


def budget(most: int, *, thinks: bool = True, end: tuple[int, ...] = END) -> ThinkingBudget:
    return ThinkingBudget(most, START, end, thinks=thinks)


@pytest.mark.parametrize("most", [0, 1, 5])
def test_reasoning_ends_behind_so_many_tokens(most: int) -> None:
    found = budget(most).forced([1] * most)
    assert found == [ANY] * most + [91]


def test_reasoning_that_ends_by_itself_sets_the_answer_free() -> None:
    one = budget(3)
    assert one.forced([1, 91, 2, 3, 4, 5, 6]) == [ANY] * 8
    one.advance([1, 91, 2, 3, 4, 5])
    assert one.forced([]) == [ANY]


def test_it_counts_from_the_marker_that_opens_reasoning() -> None:
    one = budget(2, thinks=False)
    one.advance([1, 2, 3, 4, 5])
    assert one.forced([90, 6, 7]) == [ANY, ANY, ANY, 91]
    one.advance([90, 6])
    assert one.forced([7]) == [ANY, 91]


def test_each_reasoning_has_the_whole_budget() -> None:
    one = budget(2)
    one.advance([1, 2, 91, 3, 90])
    assert one.forced([4, 5]) == [ANY, ANY, 91]


def test_a_marker_of_several_tokens_is_forced_token_by_token() -> None:
    one = budget(2, end=(7, 8, 9))
    assert one.forced([1, 2, 7, 8, 9, 3]) == [ANY, ANY, 7, 8, 9, ANY, ANY]
    one.advance([1, 2, 7])
    assert one.forced([8]) == [8, 9]


def test_drafts_that_the_budget_forbids_leave_no_trace() -> None:
    one = budget(1)
    assert one.forced([1, 2, 3]) == [ANY, 91, 91, 91]
    assert one.forced([]) == [ANY]


def test_copies_stand_where_the_first_does_and_go_their_own_ways() -> None:
    one = budget(2)
    one.advance([1])
    other = one.copy()
    one.advance([1])
    assert one.forced([]) == [91]
    assert other.forced([]) == [ANY]


def test_what_a_grammar_forbids_is_not_forced() -> None:
    assert not Constraint(None, 96, [], budget(2)).binds([1])
    constraint = Constraint(None, 96, [], budget(0))
    assert constraint.binds([])
    bits = allocate_token_bitmask(1, 96)
    bits[:] = -1
    constraint.bound(bits, [])
    assert np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist() == [91]
    bits[:] = 1
    constraint.bound(bits, [])
    assert (bits == 1).all()
