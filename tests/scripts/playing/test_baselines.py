"""Players that look at nothing, on a game whose buttons are known, and the law by which a sampling
agent acts.
"""

import dataclasses

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces

from actors.environments import environment_spec
from configs.presets import PRESETS
from scripts.playing import baselines, evaluation
from scripts.program import assemble

CONFIG = dataclasses.replace(PRESETS["smoke"], seed=3)


def cut_after(num_decisions):
    return dataclasses.replace(
        CONFIG, log=dataclasses.replace(CONFIG.log, constant_max_decisions=num_decisions)
    )


class Buttons(gymnasium.Env):
    """Button 0: 1 a decision; 1: half a point, and the game never ends; 2: 2, but −1 with the seed
    of the scores.
    """

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, seeds):
        self.seeds = seeds

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.seed = seed
            self.seeds.append(seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        rewards = (1.0, 0.5, -1.0 if self.seed == evaluation.evaluation_seed(3) else 2.0)
        return np.zeros(1, np.float32), rewards[action], action != 1 and self.time == 4, False, {}


@pytest.fixture
def seeds(monkeypatch):
    """Returns the seeds of the streams that were played, whose games are `Buttons`."""
    played = []
    monkeypatch.setattr(
        evaluation, "make_environment", lambda env, training, render=False: Buttons(played)
    )
    monkeypatch.setattr(baselines, "env_spec", lambda env: environment_spec(Buttons([])))
    return played


def test_the_best_button_is_scored_on_other_games_than_it_is_chosen_on(seeds):
    result = baselines.evaluate_constant(cut_after(10), num_episodes=2)
    assert result["action_means"] == [4.0, 5.0, 8.0] and (
        result["action"],
        result["action_name"],
    ) == (2, "action 2")
    assert (result["protocol"], result["returns"], result["num_unfinished"]) == (
        "constant",
        [-4.0, -4.0],
        0,
    )
    choosing, scoring = evaluation.selection_seed(3, 0), evaluation.evaluation_seed(3)
    assert seeds == [choosing] * 3 + [scoring] and choosing != scoring


def test_endless_games_are_cut_and_told(seeds):
    result = baselines.evaluate_constant(cut_after(40), num_episodes=3)
    assert (result["action"], result["returns"], result["num_unfinished"]) == (1, [20.0] * 3, 3)


def test_random_play_is_scored_on_the_games_of_the_scores(seeds):
    result = baselines.evaluate_randomly(CONFIG, num_episodes=2)
    assert (result["protocol"], len(result["returns"]), result["num_unfinished"]) == (
        "random",
        2,
        0,
    )
    assert seeds == [evaluation.evaluation_seed(3)]


SEARCHES = {
    "visits": dict(policy="visits", temperature=0.5),
    "gumbel": dict(policy="gumbel", normalisation="none"),
    "gumbel_halving": dict(policy="gumbel_halving", normalisation="none"),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_sampling_agent_draws_from_the_quiet_search_as_training_does(name, quick_compilation):
    config = dataclasses.replace(
        CONFIG,
        env=dataclasses.replace(CONFIG.env, name="CartPole-v1"),
        search=dataclasses.replace(
            CONFIG.search, num_simulations=5, value_scale=0.03, **SEARCHES[name]
        ),
    )
    spec, count = assemble.env_spec(config.env), 2000
    model, _ = assemble.build_model(config, spec)
    rng = np.random.default_rng(5)  # as initialised, every action would be as good as any
    params = jax.tree.map(
        lambda x: x + rng.normal(0, 0.3, x.shape).astype(np.float32), model.init(jax.random.key(4))
    )
    observation = rng.normal(size=(count, 4)).astype(np.float32)
    agent = evaluation.make_agent(
        config, params, num_environments=count, seed=6, protocol="sampled"
    )
    decision = agent.decide(observation, np.ones(count, bool))
    law = decision.policy ** (1 / config.search.temperature)
    law /= law.sum(-1, keepdims=True)
    taken = np.eye(2)[decision.action] - law
    assert abs(taken.sum(0) / np.sqrt((law * (1 - law)).sum(0))).max() < 4  # standard errors
    assert 0 < (decision.action != law.argmax(-1)).sum() < count  # it does draw
    agent = evaluation.make_agent(config, params, num_environments=count, seed=6)
    greedy = agent.decide(observation, np.ones(count, bool))
    no_tie = np.ptp(greedy.policy, axis=-1) > 1e-6
    assert no_tie.any() and (greedy.action == greedy.policy.argmax(-1))[no_tie].all()
