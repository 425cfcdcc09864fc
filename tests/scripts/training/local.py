"""A session in one process: actors that are no processes of Ray, and settings under which every
order matters.
"""

import dataclasses

from actors.states import part
from configs.presets import PRESETS
from configs.schema import Config, ReplayConfig
from muzero.types import Origin
from scripts.program.assemble import rollout_builder


class LocalPool:
    """A `RoundPool` whose workers are objects of this process."""

    num_dropped = num_in_flight = num_waiting = 0
    is_closed = False

    def __init__(self, config: Config, *, seed: int, **ignored):
        build = rollout_builder(config)
        self.rollouts = [build(seed + worker) for worker in range(config.actors.num_workers)]
        self.turn = 0

    def publish(self, published):
        if self.turn % len(self.rollouts) == 0:
            self.published = published

    def next_rollout(self):
        number, worker = divmod(self.turn, len(self.rollouts))
        self.turn += 1
        result = self.rollouts[worker].run(self.published)
        return result._replace(origin=Origin(worker, 0, number + 1))

    def save(self):
        return {
            f"{n}/{name}": x
            for n, rollout in enumerate(self.rollouts)
            for name, x in rollout.save().items()
        }

    def load(self, arrays):
        for n, rollout in enumerate(self.rollouts):
            rollout.load(part(str(n), arrays))

    def close(self):
        for rollout in self.rollouts:
            rollout.close()


def settings(environment: str) -> Config:
    """Returns the smoke preset in rounds: two workers, two passes in two pieces, so that every
    order matters.
    """
    config = PRESETS["smoke"]
    replace = dataclasses.replace
    return replace(
        config,
        env=replace(config.env, name=environment),
        optimiser=replace(config.optimiser, schedule_num_updates=64),  # at 0 nothing would move
        actors=replace(config.actors, num_workers=2, sequence_overlap=4, start_spread=9),
        learner=replace(
            config.learner,
            batch_size=4,
            collect_ahead=False,
            num_passes=2,
            num_minibatches=2,
            publish_interval=4,
            target_average_rate=0.5,
        ),  # fmt: skip
        deterministic=True,
    )


def settings_with_replay() -> Config:
    """Returns the same with short sequences and windows drawn from a ring: four updates for 16
    decisions.
    """
    config, replace = settings("CartPole-v1"), dataclasses.replace
    return replace(
        config,
        actors=replace(config.actors, sequence_length=5, sequence_overlap=1),
        learner=replace(config.learner, num_passes=1, num_minibatches=1, publish_interval=1),
        replay=ReplayConfig(capacity=80, ratio=2.0, batch_size=8, tail_steps=3, min_decisions=24),
    )
