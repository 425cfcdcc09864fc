"""The loop: the interleaving of updates and publications, counters, lag, means, and what leaves the
device when.
"""

import jax
import numpy as np
import pytest

from configs.schema import LearnerConfig
from learner import loop as loop_module
from learner.feed import Batch
from learner.loop import Counters, LearnerLoop, NonFiniteError
from learner.passes import Pass
from learner.records.metrics import documented_tag
from learner.state import LearnerState
from learner.update import SKIPPED, UpdateFns
from muzero.types import Episode, Params
from tests import tiny

START = Counters()


class OnDevice:
    """A number that counts how often it is fetched."""

    fetched: list[str] = []

    def __init__(self, value, name):
        self.value, self.name = value, name

    def __array__(self, dtype=None, copy=None):
        OnDevice.fetched.append(self.name)
        return np.asarray(self.value, dtype)

    def __float__(self):
        raise AssertionError("a metric was fetched one by one")


@pytest.fixture(autouse=True)
def nothing_fetched():
    OnDevice.fetched = []


def passes(*minibatches, trajectory="sequences"):
    """Returns the passes of a batch, each over these minibatches of the same sequences."""
    return lambda num_steps: [Pass(trajectory, names) for names in minibatches]


def _batch(
    num_minibatches=1,
    params_version=((0,),),
    episodes=(),
    search_stats=None,
    num_steps=7,
    num_frames=28,
):
    return Batch(
        passes=passes([f"minibatch {i}" for i in range(num_minibatches)]),
        params_version=np.array(params_version, np.int32),
        episodes=list(episodes),
        search_stats=search_stats or {},
        num_steps=num_steps,
        num_frames=num_frames,
    )


class Learner:
    """A loop around an update that counts; `tape` lists updates and publications."""

    def __init__(
        self, publish_interval=1, counters=START, metrics=lambda n: {"loss/total": 10.0 * n}
    ):
        self.tape, self.prepared, self._metrics = [], [], metrics
        self.loop = LearnerLoop(
            self._state(counters.num_updates),
            counters,
            LearnerConfig(publish_interval=publish_interval, max_skipped_in_row=3),
            update_fns=UpdateFns(self._prepare, self._update),
            publish=lambda version, params: self.tape.append(
                f"publish {version}: {params.prediction}"
            ),
        )

    def _state(self, n):
        def on_device(name):
            return OnDevice(n, name)

        average = Params(None, None, on_device("search average"))
        return LearnerState(
            on_device("params"), average, on_device("target"), None, on_device("buffer"), n
        )

    def _prepare(self, state, batch):
        assert batch.startswith("sequences")
        return f"targets after {state.num_updates}"

    def _update(self, state, minibatch):
        batch, prepared, starts = minibatch
        assert batch.startswith("sequences")
        self.prepared.append(prepared)
        is_bad = "bad" in starts
        n = state.num_updates + (not is_bad)
        self.tape.append(f"skip on {starts}" if is_bad else f"update {n} on {starts}")
        metrics = {"loss/total": np.nan} if is_bad else self._metrics(n)
        metrics |= {SKIPPED: float(is_bad)}
        return self._state(n), {tag: OnDevice(value, tag) for tag, value in metrics.items()}

    def run(self, *batches):
        for batch in batches:
            assert self.loop.run_batch(iter([batch])) is batch


# --- Publications


def test_updates_and_publications_interleave():
    learner_ = Learner(publish_interval=2)
    learner_.run(_batch(3), _batch(1), _batch(2))
    assert learner_.tape == [
        "update 1 on minibatch 0",
        "update 2 on minibatch 1",
        "publish 2: 2",
        "update 3 on minibatch 2",
        "update 4 on minibatch 0",
        "publish 4: 4",
        "update 5 on minibatch 0",
        "update 6 on minibatch 1",
        "publish 6: 6",
    ]


def test_targets_are_prepared_once_a_pass_by_the_state_it_begins_with():
    learner_ = Learner()
    learner_.run(_batch()._replace(passes=passes(["a", "b"], ["c", "d"])))
    assert learner_.prepared == ["targets after 0"] * 2 + ["targets after 2"] * 2


def test_every_update_is_published_with_interval_one():
    learner_ = Learner(publish_interval=1)
    learner_.run(_batch(2))
    assert [line for line in learner_.tape if "publish" in line] == ["publish 1: 1", "publish 2: 2"]


def test_a_resumed_loop_goes_on_counting():
    learner_ = Learner(
        publish_interval=4, counters=Counters(num_updates=10, num_steps=100, seconds=50.0)
    )
    learner_.loop.publish()  # the first thing a session does
    learner_.run(_batch(3))
    assert [line for line in learner_.tape if "publish" in line] == [
        "publish 10: 10",
        "publish 12: 12",
    ]
    assert (learner_.loop.counters.num_updates, learner_.loop.counters.num_steps) == (13, 107)
    assert learner_.loop.counters.seconds >= 50.0


def test_the_search_average_is_published_as_a_copy_that_survives_donation():
    state, fns = tiny.counting_learner()
    published = []
    loop = LearnerLoop(
        state,
        Counters(),
        LearnerConfig(max_skipped_in_row=1),
        update_fns=fns,
        publish=lambda version, params: published.append((version, params)),
    )
    loop.publish()
    for _ in range(4):
        batch = tiny.batch_of_ones()
        whole = passes([np.zeros((2, 1), np.int32)], trajectory=batch)
        loop.run_batch([_batch()._replace(passes=whole, params_version=batch.params_version)])
    assert [version for version, _ in published] == [0, 1, 2, 3, 4]
    # The search average (rate 0.1), not the target average (rate 0.5) and not the parameters 1, 2,
    # 3, 4.
    values = [float(params.representation) for _, params in published]
    np.testing.assert_allclose(values, [0.0, 0.1, 0.29, 0.561, 0.9049], rtol=1e-6)
    leaves = jax.tree.leaves([params for _, params in published])
    assert len(leaves) == 15 and all(
        type(leaf) is np.ndarray and leaf.flags.owndata for leaf in leaves
    )


# --- Counters and reports


def test_counters_add_up():
    episodes = [Episode(3.0, 10, 40), Episode(5.0, 20, 80)]
    learner_ = Learner()
    learner_.run(_batch(2, episodes=episodes), _batch(3, num_steps=5, num_frames=20))
    assert learner_.loop.counters._replace(seconds=0.0) == Counters(
        num_updates=5, num_steps=12, num_frames=48, num_episodes=2, num_batches=2
    )


def test_lag_is_the_age_of_the_acting_parameters_in_updates():
    learner_ = Learner(counters=Counters(num_updates=5))
    learner_.run(_batch(2, params_version=[[0, 1], [3, 3]]))  # 5, 4, 2, 2 updates old
    assert _lag(learner_) == (3.25, 5.0)
    learner_.run(_batch(1, params_version=[[6, 6], [7, 7]]))  # the batch before made it 7 updates
    assert _lag(learner_) == (0.5, 1.0)
    learner_.run(_batch(1, params_version=[[8, 4]]), _batch(1, params_version=[[9, 9]]))
    assert _lag(learner_) == (1.0, 2.0)  # means over batches, of the maximum too


def _lag(learner_):
    scalars = learner_.loop.report().scalars
    return scalars["lag/params_version_mean"], scalars["lag/params_version_max"]


def test_a_report_holds_the_means_since_the_one_before():
    learner_ = Learner(
        metrics=lambda n: {"loss/total": 10.0 * n} | ({"loss/past": 1.0} if n > 2 else {})
    )
    games = [Episode(3.0, 10, 40), Episode(6.0, 20, 80), Episode(9.0, 60, 240)]
    learner_.run(_batch(2, episodes=games[:1], search_stats={"depth": 4.0}))
    learner_.run(_batch(2, episodes=games[1:], search_stats={"depth": 7.0}))
    counters, scalars = learner_.loop.report()
    assert counters == learner_.loop.counters and counters.num_updates == 4
    expected = {
        "loss/total": 25.0,
        "loss/past": 1.0,
        "episode/return": 6.0,
        "episode/length": 30.0,
        SKIPPED: 0.0,
    }
    expected |= {"search/depth": 5.5, "lag/params_version_mean": 1.0, "lag/params_version_max": 1.0}
    assert {tag: x for tag, x in scalars.items() if not tag.startswith("perf/")} == expected
    assert [tag for tag in scalars if documented_tag(tag) is None] == []
    learner_.run(_batch(1, params_version=[[4]]))
    second = learner_.loop.report().scalars
    assert (
        second["loss/total"] == 50.0
        and "episode/return" not in second
        and "search/depth" not in second
    )


def test_rates_and_the_waiting_are_those_of_the_row(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(loop_module.time, "monotonic", lambda: now[0])
    learner_ = Learner()
    fns = learner_.loop._update_fns

    def slow_update(state, minibatch):
        now[0] += 1.0
        return fns.update(state, minibatch)

    def slow_batches(*batches):
        for batch in batches:
            now[0] += 3.0
            yield batch

    learner_.loop._update_fns = fns._replace(update=slow_update)
    for expected_seconds in (5.0, 10.0):
        learner_.loop.run_batch(slow_batches(_batch(2, num_frames=50)))
        counters, scalars = learner_.loop.report()
        assert counters.seconds == expected_seconds  # 3 of waiting and 2 of updates
        assert (
            scalars["perf/frames_per_second"] == 10.0 and scalars["perf/updates_per_second"] == 0.4
        )
        assert scalars["perf/learner_wait_fraction"] == 0.6


# --- What leaves the device


def test_metrics_stay_on_the_device_until_the_report():
    learner_ = Learner(publish_interval=100)
    learner_.run(_batch(3), _batch(2))
    flags = [SKIPPED] * 5  # one number an update, at the end of its batch
    assert OnDevice.fetched == flags
    learner_.loop.report()
    assert OnDevice.fetched == flags + ["loss/total"] * 5
    learner_.loop.report()
    assert OnDevice.fetched == flags + ["loss/total"] * 5  # nothing twice


def test_a_pass_is_made_while_the_device_works_on_the_one_before_and_on_no_more():
    """Windows are drawn one by one: when the third is asked for, the first has been waited for."""
    fetched = []

    def drawn(num_steps):
        assert num_steps == 7
        for number in range(4):
            fetched.append(list(OnDevice.fetched))
            yield Pass("sequences", [f"window {number}"])

    Learner(publish_interval=100).run(_batch()._replace(passes=drawn))
    assert fetched == [[], [], [SKIPPED], [SKIPPED] * 2]
    assert OnDevice.fetched == [SKIPPED] * 4


def test_a_publication_fetches_the_search_average_and_nothing_else():
    learner_ = Learner(publish_interval=2)
    learner_.run(_batch(4))
    assert OnDevice.fetched == ["search average"] * 2 + [SKIPPED] * 4


def test_an_error_of_the_batches_ends_the_loop():
    learner_ = Learner()

    def broken():
        raise OSError("no more workers")
        yield

    with pytest.raises(OSError, match="no more workers"):
        learner_.loop.run_batch(broken())
    assert learner_.tape == [] and learner_.loop.counters == Counters()


# --- Numbers that go wrong


def _mixed(pattern):
    """Returns a batch with a minibatch a letter: `b` is one whose update is skipped."""
    names = [f"{'bad' if letter == 'b' else 'good'} {i}" for i, letter in enumerate(pattern)]
    return _batch(1)._replace(passes=passes(names))


def test_skipped_updates_are_counted_and_do_not_count_as_updates():
    learner_ = Learner(publish_interval=2)
    learner_.run(_mixed("gbbg"), _mixed("bg"))
    counters = learner_.loop.counters
    assert (counters.num_updates, counters.num_skipped, counters.num_batches) == (3, 3, 2)
    # The interval counts minibatches, the version what the parameters have been through.
    published = [line for line in learner_.tape if "publish" in line]
    assert published == ["publish 1: 1", "publish 2: 2", "publish 3: 3"]
    scalars = learner_.loop.report().scalars
    # The mean of 10, 20 and 30: no NaN among them
    assert scalars[SKIPPED] == 3.0 and scalars["loss/total"] == 20.0


def test_too_many_batches_in_a_row_with_skipped_updates_end_the_loop_with_the_last():
    learner_ = Learner(publish_interval=100)
    # Never three in a row
    learner_.run(_mixed("bbbbb"), _mixed("gbb"), _mixed("gg"), _mixed("b"), _mixed("gb"))
    with pytest.raises(NonFiniteError, match="3 batches in a row .* not finite") as caught:
        learner_.run(_mixed("bgg"))
    assert caught.value.batch == "sequences"


def test_the_sequences_that_end_the_loop_are_those_of_a_skipped_update():
    learner_ = Learner()
    drawn = [
        Pass("sequences good", ["good"]),
        Pass("sequences bad", ["bad"]),
        Pass("sequences last", ["good"]),
    ]
    batch = _batch()._replace(passes=lambda num_steps: drawn)
    with pytest.raises(NonFiniteError) as caught:
        learner_.run(batch, batch, batch)
    assert caught.value.batch == "sequences bad"
    assert (learner_.loop.counters.num_updates, learner_.loop.counters.num_skipped) == (6, 3)


def test_parameters_that_are_not_finite_are_never_published():
    learner_ = Learner(metrics=lambda n: {})
    learner_.loop.state = learner_.loop.state._replace(
        search_average=Params(None, None, OnDevice(np.nan, "average"))
    )
    with pytest.raises(
        NonFiniteError, match="parameters after 0 updates are not finite: not published"
    ):
        learner_.loop.publish()
    assert learner_.tape == []
