"""What the model imagines along a greedy game, from every state and k steps ahead, against what
happened.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib
import numpy as np

from configs.schema import ConfigError
from muzero.model import unroll
from muzero.observation import stack_history
from muzero.types import Trajectory
from scripts.inspection.game import Game, play
from scripts.inspection.stored import Stored
from scripts.inspection.windows import stacked, window

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the choice of a backend without windows)

_MAX_DECISIONS = 1000
_CHUNK = 64
_NEGLIGIBLE = 0.01  # share of the return that a game which was cut lacks


class Imagined(NamedTuple):
    """Imagination and truth of one game of T decisions; NaN where an end lies between state t and
    step k.
    """

    value: np.ndarray  # [T, n+1], entry (t, k) is of state t + k, seen from t
    # [T, n], entry (t, k − 1) is of decision t + k − 1, which may be the one that ends it
    reward: np.ndarray
    true_return: np.ndarray  # [T], discounted, to the end of the learning episode
    true_reward: np.ndarray  # [T]
    is_known: np.ndarray  # [T] bool, the return does not hang on what was never played


def discounted_returns(game: Game, discount_factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the returns [T] of a game, and bool [T]: less than a hundredth of it lies beyond the
    game's cut.
    """
    has_end = game.is_over and game.discount[-1] == 0
    total, missing, found = 0.0, 0.0 if has_end else 1.0, []
    for reward, discount in zip(game.reward[::-1], game.discount[::-1], strict=True):
        total = reward + discount_factor * discount * total
        missing = discount_factor * discount * missing
        found.append((total, missing < _NEGLIGIBLE))
    returns, is_known = zip(*found[::-1], strict=True)
    return np.array(returns), np.array(is_known)


def alive(discount: np.ndarray, num_steps: int) -> np.ndarray:
    """Returns bool [T, n+1]: no end lies between state t and state t + k, and t + k < T was played
    from.
    """
    num_decisions = len(discount)
    is_alive = np.ones((num_decisions, num_steps + 1), bool)
    goes_on = np.append(discount, np.zeros(num_steps)) > 0
    for k in range(1, num_steps + 1):
        is_alive[:, k] = is_alive[:, k - 1] & goes_on[k - 1 : k - 1 + num_decisions]
    return is_alive & (np.arange(num_decisions)[:, None] + np.arange(num_steps + 1) < num_decisions)


def imagine(stored: Stored, *, seed: int, num_steps: int) -> Imagined:
    """Returns imagination and truth along the greedy game of `seed`, 1000 decisions of it at most.

    Raises `ConfigError` if the game is shorter than `num_steps`.
    """
    game = play(stored, seed=seed, num_decisions=_MAX_DECISIONS)
    num_decisions = len(game.action)
    if num_decisions <= num_steps:
        raise ConfigError(
            f"--steps = {num_steps}: the game of --seed {seed} has {num_decisions} decisions"
        )
    value, reward = _predictions(
        stored, _as_trajectory(stored, game, num_steps), num_decisions, num_steps
    )
    is_alive = alive(game.discount, num_steps)
    true_return, is_known = discounted_returns(game, stored.config.loss.discount_factor)
    return Imagined(
        np.where(is_alive, value, np.nan),
        np.where(is_alive[:, :-1], reward, np.nan),
        true_return,
        game.reward,
        is_known,
    )


def errors(imagined: Imagined) -> tuple[np.ndarray, np.ndarray]:
    """Returns root mean square errors of the values [n+1], where the return is known, and of the
    rewards [n].
    """

    def rms(rows):
        return np.array(
            [np.sqrt(np.nanmean(row**2)) if not np.isnan(row).all() else np.nan for row in rows]
        )

    truth = np.where(imagined.is_known, imagined.true_return, np.nan)
    value = [_ahead(column, k) - truth for k, column in enumerate(imagined.value.T)]
    reward = [
        _ahead(column, k) - imagined.true_reward for k, column in enumerate(imagined.reward.T)
    ]
    return rms(value), rms(reward)


def plot(path: Path, imagined: Imagined, title: str) -> None:
    """Draws values and rewards over the time of the state they are of, a line a k, and their errors
    over k.
    """
    figure, (values, rewards, over_k) = pyplot.subplots(
        3, 1, figsize=(10, 9), height_ratios=(2, 1, 1)
    )
    time, colours = np.arange(len(imagined.true_reward)), matplotlib.colormaps["viridis"]
    for panel, columns, truth, first in (
        (values, imagined.value, imagined.true_return, 0),
        (rewards, imagined.reward, imagined.true_reward, 1),
    ):
        for n, column in enumerate(columns.T):
            label = f"k = {n + first}" if n in (0, columns.shape[1] - 1) else None
            panel.plot(
                time,
                _ahead(column, n),
                color=colours(0.9 * n / columns.shape[1]),
                linewidth=0.9,
                label=label,
            )
        panel.plot(time, truth, color="#b02a45", linewidth=1.6, label="what happened")
    if not imagined.is_known.all():
        shade = dict(
            transform=values.get_xaxis_transform(), color="0.9", label="cut: return not known"
        )
        values.fill_between(time, 0, 1, where=~imagined.is_known, **shade)
    values.set(title=title, ylabel="value, discounted return")
    rewards.set(xlabel="decision", ylabel="reward")
    value_error, reward_error = errors(imagined)
    over_k.plot(range(len(value_error)), value_error, "o-", color="#1f6fb4", label="value")
    over_k.plot(
        range(1, len(reward_error) + 1), reward_error, "s-", color="#d9730d", label="reward"
    )
    over_k.set(xlabel="imagined steps k", ylabel="root mean square error", ylim=(0, None))
    for axes in (values, rewards, over_k):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _ahead(column: np.ndarray, k: int) -> np.ndarray:
    """Returns what was imagined k steps before, at the time it is of: NaN for the first k."""
    return np.append(np.full(k, np.nan), column[: len(column) - k])


def _as_trajectory(stored: Stored, game: Game, num_padding: int) -> Trajectory:
    """Returns the game as one sequence with masked context and `num_padding` actions after it, for
    `window`.
    """
    history = stored.config.network.history_length - 1
    num_states = len(game.observation)
    empty = dict.fromkeys(set(Trajectory._fields))
    return Trajectory(**empty)._replace(
        observation=game.observation,
        is_first=np.arange(num_states) == 0,
        action=np.append(game.action, np.zeros(num_padding, np.int32)),
        history_observation=np.zeros_like(
            game.observation, shape=(history, *game.observation.shape[1:])
        ),
        history_action=np.zeros(history, np.int32),
        history_is_first=np.ones(history, bool),
    )


def _predictions(
    stored: Stored, trajectory: Trajectory, num_decisions: int, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns values [T, n+1] and rewards [T, n] along the actions of the sequence, some states at
    a time.
    """
    stack = functools.partial(stack_history, num_actions=stored.spec.num_actions)

    @jax.jit
    def predict(windows):
        def one(w):
            return unroll(
                stored.model, stored.search_average, stack(w.frames, w.actions, w.is_first), w.taken
            )

        output = jax.vmap(one)(windows)
        return stored.support.from_logits(output.value_logits), stored.support.from_logits(
            output.reward_logits
        )

    found = []
    for first in range(0, num_decisions, _CHUNK):
        # Chunks of one size: one compilation
        times = np.minimum(np.arange(first, first + _CHUNK), num_decisions - 1)
        found.append(
            jax.device_get(predict(stacked([window(trajectory, int(t), num_steps) for t in times])))
        )
    return tuple(np.concatenate(parts)[:num_decisions] for parts in zip(*found, strict=True))
