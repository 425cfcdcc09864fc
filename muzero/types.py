"""The records that travel through the system, with the one time convention they all share.

    state     t   0     1     2    ...   T       one entry per state:    [T+1]
    decision  t   0     1     ...  T-1           one entry per decision: [T]
                  └ action_t is taken in state t; reward_t and discount_t are its consequences.

Shape letters: B sequences of a batch, N environments of a worker, T decisions of a sequence,
H frames of an observation history, K imagined steps, S start states of a sequence, A actions,
Z bins of a categorical scalar, M past heads.  `t` counts real time, `k` imagined time.
"""

from typing import Any, NamedTuple

Array = Any
PyTree = Any


class Trajectory(NamedTuple):
    """One fixed-length sequence of one environment, or a batch of them with one leading axis.

    Lengths carry the alignment: T + 1 states, T decisions and H - 1 states of context before state
    0. A decision from a final observation to a reset (`is_first[t + 1]`) is stored but is *not
    real*.
    """

    # [T+1, ...] the newest frame of each state (uint8 image, bool planes or float vector)
    observation: Array
    is_first: Array  # [T+1] bool, the environment was reset here
    search_policy: Array  # [T+1, A] float32, the policy target, see `SearchOutput`
    search_value: Array  # [T+1] float32, root value of the search
    # [T+1] int32, number of updates behind the parameters that searched this state
    params_version: Array
    action: Array  # [T] int32
    reward: Array  # [T] float32, consequence of `action`
    # [T] float32, 1, or 0 on termination; the discount factor is multiplied in by the targets
    discount: Array
    behaviour_prob: Array  # [T] float32, probability with which `action` was drawn
    history_observation: Array  # [H-1, ...] frames before state 0
    history_action: Array  # [H-1] int32, actions taken in those states
    history_is_first: Array  # [H-1] bool


class SearchOutput(NamedTuple):
    """What one batched search returns, stored exactly as computed when acting."""

    action: Array  # [N] int32, the sampled action
    behaviour_prob: Array  # [N] float32, the probability with which it was sampled
    # [N, A] float32, the policy target: visit distribution, or Gumbel's improved policy
    policy: Array
    value: Array  # [N] float32, root value
    stats: PyTree  # what is told of the tree: scalars for the log, each [N]


class ModelOutput(NamedTuple):
    """Predictions for imagined steps k = 0..K along the taken actions, for one start state."""

    latent: Array  # [K+1, ...]
    reward_logits: Array  # [K, Z], entry k - 1 belongs to imagined step k
    value_logits: Array  # [K+1, Z]
    policy_logits: Array  # [K+1, A]


class Params(NamedTuple):
    """Parameters of the three networks; `prediction` is what the value buffer stores as a head."""

    representation: PyTree
    dynamics: PyTree
    prediction: PyTree


class PublishedParams(NamedTuple):
    """The search average that actors act with."""

    version: int  # number of updates behind it
    params: Params  # NumPy leaves


class Episode(NamedTuple):
    """One finished whole game (life losses inside it do not end it)."""

    episode_return: float  # unclipped
    num_steps: int  # decisions
    num_frames: int  # emulator frames


class Origin(NamedTuple):
    """Which rollout this is: unique in a session, and in order within an incarnation."""

    worker_id: int
    incarnation: int
    number: int  # 1 is the first of this incarnation


class RolloutResult(NamedTuple):
    """One worker's answer: a sequence from each of its environments and what happened meanwhile."""

    trajectory: Trajectory  # NumPy leaves [N, ...]
    episodes: list[Episode]  # whole games finished during this rollout
    search_stats: dict[str, float]  # means over the searches of this rollout
    num_steps: int  # real decisions taken that no earlier sequence holds
    num_frames: int  # emulator frames behind them
    seconds: float = 0.0  # the worker took
    origin: Origin | None = None  # None outside of a pool
