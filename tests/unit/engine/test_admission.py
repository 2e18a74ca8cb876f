"""How full the queue may be, and what a refused client is told."""

import pytest

from mlxspec.config import Config, SchedulerConfig
from mlxspec.engine.admission import Admission, DrainRate, bounds_of
from mlxspec.errors import QueueFullError
from mlxspec.model_tables import GroupConfig, ModelConfig


def test_queued_tokens_are_bounded_and_come_free_once() -> None:
    admission = Admission(100)
    admission.check(60, 0)
    admission.entered(1, 60, 0)
    with pytest.raises(QueueFullError, match="60 prompt tokens are queued, 41 more") as full:
        admission.check(41, 0)
    assert full.value.retry_after == 1
    admission.check(40, 0)
    admission.entered(2, 40, 0)
    admission.left(1)
    admission.left(1)
    admission.check(60, 0)
    with pytest.raises(QueueFullError):
        admission.check(61, 0)


def test_an_empty_queue_takes_a_prompt_of_any_length() -> None:
    admission = Admission(100)
    admission.check(1000, 0)
    admission.entered(1, 1000, 0)
    with pytest.raises(QueueFullError):
        admission.check(1, 0)
    admission.left(1)
    admission.check(1000, 0)


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


def test_models_and_groups_refuse_what_is_more_than_may_run_and_wait() -> None:
    few = {"max_running": 1, "max_waiting": 1}
    models = (ModelConfig(id="a", source="a", **few), ModelConfig(id="b", source="b"))
    groups = {"both": GroupConfig(members=("a", "b"), max_running=2, max_waiting=1)}
    admission = Admission(100, bounds_of(Config(models=models, groups=groups)))
    for request in (1, 2):
        admission.check(1, 0)
        admission.entered(request, 1, 0)
    with pytest.raises(
        QueueFullError, match="model 'a' has 2 requests, of which 1 may run"
    ) as full:
        admission.check(1, 0)
    assert full.value.retry_after
    admission.check(1, 1)
    admission.entered(3, 1, 1)
    with pytest.raises(QueueFullError, match="group 'both' has 3 requests"):
        admission.check(1, 1)
    admission.ended(1)
    admission.check(1, 0)
    assert (admission.num_requests(0), admission.num_requests(1)) == (1, 1)


def test_a_model_without_a_bound_of_its_own_is_bounded_by_the_server_alone() -> None:
    models = (ModelConfig(id="a", source="a", max_running=1),)
    admission = Admission(100, bounds_of(Config(models=models)))
    for request in range(50):
        admission.check(1, 0)
        admission.entered(request, 1, 0)


def test_instances_have_room_for_as_many_requests_each() -> None:
    models = (ModelConfig(id="a", source="a", instances=3, max_waiting=1),)
    scheduler = SchedulerConfig(max_running=2)
    [bound] = bounds_of(Config(models=models, scheduler=scheduler))
    assert (bound.max_running, bound.max_waiting) == (6, 1)
