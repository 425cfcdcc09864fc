"""A session in one process: actors that are no processes of Ray, and settings under which every order matters."""

import dataclasses

from actors.states import part
from configs.presets import PRESETS
from configs.schema import Config
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
        self.turn += 1
        return self.rollouts[(self.turn - 1) % len(self.rollouts)].run(self.published)

    def save(self):
        return {f"{n}/{name}": x for n, rollout in enumerate(self.rollouts) for name, x in rollout.save().items()}

    def load(self, arrays):
        for n, rollout in enumerate(self.rollouts):
            rollout.load(part(str(n), arrays))

    def close(self):
        for rollout in self.rollouts:
            rollout.close()


def settings(environment: str) -> Config:
    """Returns the smoke preset in rounds: two workers, two passes in two pieces, so that every order matters."""
    config = PRESETS["smoke"]
    replace = dataclasses.replace
    return replace(
        config,
        env=replace(config.env, name=environment),
        optimiser=replace(config.optimiser, schedule_num_updates=64),  # at 0 nothing would move
        actors=replace(config.actors, num_workers=2, sequence_overlap=4),
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
