"""How full the queue may be, and what a refused client is told."""

import pytest

from mlxspec.engine.admission import Admission, DrainRate
from mlxspec.errors import QueueFullError


def test_queued_tokens_are_bounded_and_come_free_once() -> None:
    admission = Admission(100)
    admission.check(60)
    admission.entered(1, 60)
    with pytest.raises(QueueFullError, match="60 prompt tokens are queued, 41 more") as full:
        admission.check(41)
    assert full.value.retry_after == 1
    admission.check(40)
    admission.entered(2, 40)
    admission.left(1)
    admission.left(1)
    admission.check(60)
    with pytest.raises(QueueFullError):
        admission.check(61)


def test_an_empty_queue_takes_a_prompt_of_any_length() -> None:
    admission = Admission(100)
    admission.check(1000)
    admission.entered(1, 1000)
    with pytest.raises(QueueFullError):
        admission.check(1)
    admission.left(1)
    admission.check(1000)


def test_the_wait_follows_from_how_fast_requests_end() -> None:
    rate = DrainRate()
    assert rate.seconds_for(5, 0.0) == 1
    for at in range(10):
        rate.ended(2.0 * at)
    assert rate.seconds_for(5, 20.0) == 10
    assert rate.seconds_for(1, 20.0) == 2
    assert rate.seconds_for(1000, 20.0) == 60


def test_what_ended_a_minute_ago_says_nothing() -> None:
    rate = DrainRate()
    rate.ended(0.0)
    assert rate.seconds_for(50, 61.0) == 1
    rate.ended(100.0)
    rate.ended(101.0)
    assert rate.seconds_for(4, 102.0) == 4
