"""Two groups of environments: the same sequences, and the emulator works while the device
searches.
"""

import jax
import numpy as np
import pytest

from actors import rollout as rollout_module
from tests.actors.rollouts import (
    ENDLESS,
    LOST_LIFE,
    PER_DECISION,
    PER_STATE,
    PLAIN,
    REWARDED,
    Numbered,
    Search,
    make_rollout,
    published,
    sampling_search,
)


def by_environment(result):
    """Returns what does not depend on the order of searches."""
    return {
        name: getattr(result.trajectory, name)
        for name in (*PER_STATE, *PER_DECISION)
        if name != "action"
    }


def test_two_groups_make_the_sequences_of_one():
    games = [[PLAIN, REWARDED, PLAIN, PLAIN], [LOST_LIFE] * 40]

    def play(num_groups):
        envs = [Numbered([ENDLESS]), Numbered(games[1:], name=1), Numbered([ENDLESS], name=2)]
        rollout = make_rollout(envs, Search(), history=4, num_groups=num_groups)
        return [rollout.run(published(version, version / 10)) for version in range(3)]

    for one, two in zip(play(1), play(2), strict=True):
        jax.tree.map(np.testing.assert_array_equal, by_environment(one), by_environment(two))
        np.testing.assert_array_equal(one.trajectory.action, two.trajectory.action)
        assert one.num_steps == two.num_steps and one.episodes == two.episodes


class Clock:
    """Seconds that pass only where the test says so: real sleep would measure the load of the
    machine.
    """

    def __init__(self):
        self.now = 0.0

    def on_device(self, value, seconds=0.010):
        """Returns `value` as the array of a device that sleeps 10 ms: the host goes on until it
        asks for it.
        """
        return Late(self, value, self.now + seconds)


class Late:
    def __init__(self, clock, value, due):
        self._clock, self._value, self._due = clock, value, due

    def __array__(self):
        self._clock.now = max(self._clock.now, self._due)
        return np.asarray(self._value)


class SlowEnv(Numbered):
    """Keeps the host busy for 5 ms a step."""

    def __init__(self, clock, name):
        super().__init__([ENDLESS], name)
        self.clock = clock

    def step(self, action):
        self.clock.now += 0.005
        return super().step(action)


@pytest.mark.parametrize(
    "num_groups, milliseconds",
    [
        (1, 10 * (4 * 5 + 10)),  # ten times: four environments, then a search
        (2, 10 * 4 * 5 + 10),  # the emulator never rests; only the last search is waited for
    ],
)
def test_the_emulator_of_one_group_works_while_the_other_is_searched(
    monkeypatch, num_groups, milliseconds
):
    clock, frames_on_device = Clock(), rollout_module._with_frames_on_device

    def on_slow_device(search_fn):
        search = frames_on_device(search_fn)

        def late(out, frames):
            return (jax.tree.map(clock.on_device, out), frames)

        return lambda *inputs: late(*search(*inputs))

    monkeypatch.setattr(rollout_module, "_with_frames_on_device", on_slow_device)
    envs = [SlowEnv(clock, name) for name in range(4)]
    rollout = make_rollout(envs, sampling_search, length=11, overlap=1, num_groups=num_groups)
    rollout.run(published())
    started = clock.now
    rollout.run(published())
    assert 1000 * (clock.now - started) == pytest.approx(milliseconds)
