"""Every setting of a run on one page: frozen dataclasses that every room may import.

A field says its type, its bounds, its default and what it is for. The defaults are the paper's
(appendix A.4), ours where it is silent. A builder takes its section whole, so that what a setting
is stands here alone. This file imports the standard library only.

To add a setting, add a field here and use it where its section arrives. The command line and its
help, suites, stored configurations and the refusal of bad values follow from the field.
* Its default must be what the program did before: a run stored without the field goes on with it.
* What depends on more than one field is refused in `checks.py`.
* A new section is a class here and a field of `Config`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, Literal


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a number may be, beside its type; a NaN is never admitted."""

    words: str
    """Of the refusal: "must ..."."""
    admits: Callable[[float], bool]
    """Whether a value is within; must be False for a NaN."""
    allows_infinity: bool = False


FINITE = Bounds("must be finite", lambda x: -math.inf < x < math.inf)
POSITIVE = Bounds("must be above 0", lambda x: x > 0)
NOT_NEGATIVE = Bounds("must not be negative", lambda x: x >= 0)
FRACTION = Bounds("must lie in [0, 1]", lambda x: 0 <= x <= 1)
RATE = Bounds("must lie in (0, 1]", lambda x: 0 < x <= 1)
AT_LEAST_TWO = Bounds("must be at least 2", lambda x: x >= 2)
CLIP = Bounds(
    "must be at least 1, or inf: the trace is clipped at 1 in any case",
    lambda x: x >= 1,
    allows_infinity=True,
)
SEED = Bounds("must lie in [0, 2**32)", lambda x: 0 <= x < 2**32)  # JAX forgets the bits beyond


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """The environment (table 1). The Atari fields are ignored by other environments."""

    name: str = "ms_pacman"
    """An Atari game (`MsPacman`, `ms_pacman`, `ALE/MsPacman-v5`) or any Gymnasium id with
    discrete actions."""
    kwargs: tuple[str, ...] = ()
    """Gymnasium: keyword arguments of the environment, `size=5 map=small`; a value is read as JSON,
    else taken as text."""
    frame_size: Annotated[int, POSITIVE] = 96
    """Atari: height and width of the grey frames in pixels."""
    action_repeat: Annotated[int, POSITIVE] = 4
    """Atari: emulator frames per decision."""
    max_pool_frames: Annotated[int, POSITIVE] = 4
    """Atari: the observation is the maximum over this many last frames of the repeat."""
    max_noops: Annotated[int, NOT_NEGATIVE] = 30
    """Atari: a game starts with 0 to this many no-op frames, drawn uniformly."""
    max_episode_frames: Annotated[int, POSITIVE] = 108_000
    """Atari: a game is truncated after this many emulator frames."""
    terminate_on_life_loss: bool = True
    """Atari, training only: losing a life ends the learning episode; the game goes on."""
    sticky_action_prob: Annotated[float, FRACTION] = 0.0
    """Atari: probability that the emulator repeats the previous action."""
    reward_clip: Annotated[float | None, POSITIVE] = None
    """Training only: rewards are clipped to ± this; None keeps the raw score."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Representation, dynamics and prediction. The encoder follows the shape of the observation."""

    latent: Literal["planes", "vector"] = "planes"
    """`planes`: convolutional latents (vector observations fall back to `vector`); `vector`: MLP
    dynamics."""
    history_length: Annotated[int, POSITIVE] = 32
    """Frames in a stacked observation (H)."""
    num_channels: Annotated[int, POSITIVE] = 256
    """Channels of the image encoder, and planes of a convolutional latent."""
    num_blocks: Annotated[int, NOT_NEGATIVE] = 16
    """Residual blocks in the representation after the encoder, and in the dynamics."""
    encoder: Literal["muzero", "light"] = "muzero"
    """Image encoder: MuZero's residual downsampling by 16, or DQN's three convolutions by 8."""
    centre_frames: bool = False
    """Frames less their running mean, over one running deviation, both kept with the parameters."""
    head_channels: Annotated[int, POSITIVE] = 16
    """Planes of the 1×1 convolution in front of every head."""
    latent_size: Annotated[int, POSITIVE] = 128
    """`vector` latents: their length."""
    hidden_size: Annotated[int, POSITIVE] = 128
    """`vector` latents: width of the hidden layers of encoder, dynamics and heads."""
    remat: bool = False
    """Blocks are computed again in the backward pass: a third more work, less memory (XLA undoes it
    on a CPU)."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of encoder and towers; parameters, latents, heads and optimiser are float32 always."""


@dataclasses.dataclass(frozen=True)
class SupportConfig:
    """Categorical support of values and rewards (table 2; ± 300 is MuZero's)."""

    min_value: Annotated[float, FINITE] = -300.0
    """Lowest bin, on the transformed axis h(x)."""
    max_value: Annotated[float, FINITE] = 300.0
    """Highest bin, on the transformed axis h(x)."""
    num_bins: Annotated[int, AT_LEAST_TWO] = 601
    """Number of bins (Z)."""
    epsilon: Annotated[float, POSITIVE] = 0.01
    """ε of h(x) = sign(x)(√(|x| + 1) − 1) + εx."""


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """Monte-Carlo tree search (mctx)."""

    policy: Literal["visits", "gumbel", "gumbel_halving"] = "visits"
    """Acts by root visits (`visits`, MuZero), by the improved policy (`gumbel`), or as
    `gumbel_halving` chooses."""
    num_simulations: Annotated[int, POSITIVE] = 25
    """Simulations per decision."""
    dirichlet_fraction: Annotated[float, FRACTION] = 0.3
    """`visits`: weight of the root noise."""
    dirichlet_alpha: Annotated[float, POSITIVE] = 0.25
    """`visits`: concentration of the root noise."""
    temperature: Annotated[float, POSITIVE] = 1.0
    """`visits`: actions are drawn from visits ** (1 / temperature)."""
    normalisation: Literal["tree", "siblings", "none", "advantages"] = "tree"
    """Q: over the whole tree (MuZero; `visits` only), over parent and siblings (mctx), raw, or in
    units of the spread of advantages (both `gumbel` only)."""
    unvisited: Literal["parent", "min"] = "parent"
    """`tree`: an unvisited child takes its parent's value, or the lowest of the tree, in place of
    its Q."""
    floor: Annotated[float, POSITIVE] = 1.0
    """`tree`: smallest Q range that is stretched to [0, 1], in units of raw return."""
    value_scale: Annotated[float, POSITIVE] = 0.1
    """`gumbel`: scale of the completed Q in the improved policy; `advantages`: what an advantage of
    one unit adds to a logit."""
    max_shift: Annotated[float, POSITIVE] = 2.0
    """`advantages`: the most that one search adds to a logit, or takes from it."""
    uniform_fraction: Annotated[float, FRACTION] = 0.0
    """`gumbel`: share of the actions that is drawn uniformly while training."""
    prior_exponent: Annotated[float, RATE] = 1.0
    """Priors are raised to this power e: below 1 `gumbel` on raw Q settles near
    softmax(50 value_scale Q / (1 - e))."""
    max_considered_actions: Annotated[int, POSITIVE] = 16
    """`gumbel`: root actions considered by sequential halving."""


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """MuZero's loss and the past-policy loss (table 2)."""

    discount_factor: Annotated[float, FRACTION] = 0.997
    """γ, per decision."""
    td_lambda: Annotated[float, FRACTION] = 0.8
    """λ of the TD(λ) and V-trace targets."""
    num_unroll_steps: Annotated[int, POSITIVE] = 5
    """Imagined steps (K)."""
    reward_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the reward loss."""
    value_weight: Annotated[float, NOT_NEGATIVE] = 0.25
    """Weight of the value loss."""
    policy_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """Weight of the policy loss."""
    return_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the policy-gradient loss of the taken actions, by their returns."""
    return_clip: Annotated[float, POSITIVE] = 3.0
    """Bound on the advantages of taken actions, in units of their running spread."""
    entropy_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of the policy's entropy, which is kept from falling."""
    past_weight: Annotated[float, NOT_NEGATIVE] = 0.25
    """Weight of the past-policy loss; 0 is plain MuZero."""
    past_clip: Annotated[float, CLIP] = 1.0
    """V-trace clip of the importance ratios, 1 or more (inf: none); the trace is clipped at 1."""
    past_latents: Literal["target", "online"] = "target"
    """Network whose representation the past heads' V-trace targets are computed from."""
    value_target: Literal["td_lambda", "n_step", "vtrace"] = "td_lambda"
    """Of values; `vtrace` corrects for what the target average would have played (`td_lambda` as
    above, clip 1)."""
    num_target_steps: Annotated[int, POSITIVE] = 5
    """`n_step`: rewards summed before the bootstrap (n)."""
    bootstrap: Literal["search", "average"] = "search"
    """Values that targets lean on: root values of the searches that acted, or the values of today's
    target average in the same states."""


@dataclasses.dataclass(frozen=True)
class ValueBufferConfig:
    """Ring of past prediction heads (table 2)."""

    size: Annotated[int, POSITIVE] = 128
    """Heads kept (M)."""
    push_interval: Annotated[int, POSITIVE] = 50
    """Updates between two pushes."""
    chunk_size: Annotated[int, POSITIVE] = 8
    """Heads evaluated at a time: bounds the memory of their logits, changes no number."""


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """Adam with a linear schedule (table 2)."""

    learning_rate: Annotated[float, POSITIVE] = 1e-4
    """Initial learning rate."""
    final_learning_rate: Annotated[float, NOT_NEGATIVE] = 0.0
    """Learning rate after `schedule_num_updates`."""
    schedule_num_updates: Annotated[int, POSITIVE] = 65_104
    """Horizon of the schedule in updates; stopping and resuming never change it."""
    max_gradient_norm: Annotated[float | None, POSITIVE] = None
    """Global-norm clip; None for no clip, as in the paper."""
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.0
    """Decoupled weight decay."""


@dataclasses.dataclass(frozen=True)
class ActorsConfig:
    """Ray workers that act."""

    num_workers: Annotated[int | Literal["auto"], POSITIVE] = 96
    """Ray actors; `auto`: one a core of this machine beside the learner's, and environments to fill
    the batch."""
    environments_per_worker: Annotated[int, POSITIVE] = 8
    """Environments of a worker, searched as one batch (N)."""
    sequence_length: Annotated[int, POSITIVE] = 30
    """States in a sequence (T + 1)."""
    sequence_overlap: Annotated[int, NOT_NEGATIVE] = 10
    """States shared by neighbouring sequences."""
    start_spread: Annotated[int, NOT_NEGATIVE] = 0
    """Most uniformly random decisions that an environment plays before the first sequence of a
    fresh start; their number is drawn, and nothing of them is counted or stored."""
    max_in_flight: Annotated[int, POSITIVE] = 1
    """Rollouts a worker may have requested and not delivered."""
    cpus_per_worker: Annotated[float, POSITIVE] = 1.0
    """Ray CPU resource of a worker."""
    device: Literal["cpu", "gpu", "tpu"] = "cpu"
    """What the workers search on; Ray gives each its share of a GPU, or a TPU chip."""
    device_fraction: Annotated[float, RATE] = 1.0
    """`gpu`: share of one GPU, and of its memory, that a worker gets."""


@dataclasses.dataclass(frozen=True)
class LearnerConfig:
    """Updates on batches of sequences sharded over the devices."""

    batch_size: Annotated[int, POSITIVE] = 96
    """Sequences collected for one batch (B)."""
    collect_ahead: bool = True
    """Collect the next batch while the device works on this one (lag: see `BatchFeed`); False:
    lockstep."""
    max_lag: Annotated[int | None, POSITIVE] = None
    """Rollouts whose parameters are older than this many updates when their batch is begun are
    dropped; None: none."""
    num_passes: Annotated[int, POSITIVE] = 1
    """Times a collected batch is gone through."""
    num_minibatches: Annotated[int, POSITIVE] = 1
    """Updates per pass; each takes its share of the start states of every sequence, shuffled within
    the sequence."""
    num_processes: Annotated[int, POSITIVE] = 1
    """Learner processes, placed by Ray: each has its share of the batch and `actors.num_workers`
    actors of its own."""
    process_device: Literal["cpu", "gpu", "tpu"] = "cpu"
    """What each of several processes learns on, `num_devices` of them; a single one takes what the
    program sees."""
    num_devices: Annotated[int | None, POSITIVE] = None
    """Devices of a process that the batch is sharded over; None: all it sees. A CPU is as many as
    you ask for."""
    search_average_rate: Annotated[float, RATE] = 0.1
    """Update rate of the parameters that actors search with."""
    target_average_rate: Annotated[float, RATE] = 0.1
    """Update rate of the parameters behind V-trace latents and stored heads."""
    publish_interval: Annotated[int, POSITIVE] = 1
    """Updates between two publications of the search parameters."""
    max_skipped_in_row: Annotated[int, POSITIVE] = 10
    """Updates on non-finite numbers are skipped; after this many batches in a row with one, the run
    stops."""


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Learning again from what was played; with capacity 0 from the newest sequences alone.

    Every batch of `learner.batch_size` sequences, which may be short, is stored and then asks for
    its updates: `ratio` · its decisions / `batch_size`. How old the acting parameters may be say
    `learner.collect_ahead` and `learner.publish_interval`.
    """

    capacity: Annotated[int, NOT_NEGATIVE] = 0
    """Decisions stored, the newest of every environment; 0: none, the on-policy learner."""
    ratio: Annotated[float, POSITIVE] = 2.0
    """Start states learned from for each new decision, whatever the speed of the machine."""
    batch_size: Annotated[int, POSITIVE] = 64
    """Start states of an update, of all learner processes."""
    tail_steps: Annotated[int, NOT_NEGATIVE] = 10
    """Decisions beyond the unrolled ones that a drawn state's targets may read."""
    min_decisions: Annotated[int, POSITIVE] = 2_000
    """Decisions stored before the first update, and after a resume without them."""
    saved: bool = False
    """Checkpoints hold what is stored, compressed; deterministic runs always do."""


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What is written while training."""

    interval_seconds: Annotated[float, POSITIVE] = 10.0
    """Seconds between two rows of metrics and progress lines."""
    checkpoint_interval_minutes: Annotated[float, POSITIVE] = 5.0
    """Minutes between two checkpoints; one is always written at the end."""
    checkpoints_kept: Annotated[int, POSITIVE] = 3
    """Latest checkpoints kept; the best by evaluation is kept besides."""
    checkpoint_keep_every: Annotated[int | None, POSITIVE] = None
    """Every n-th checkpoint that is written is kept for good; None: none is."""
    evaluation_interval_minutes: Annotated[float | None, POSITIVE] = None
    """Minutes between two greedy evaluations while training; None: only at the end."""
    evaluation_episodes: Annotated[int, POSITIVE] = 20
    """Games of every such evaluation, and of every final score: sampled, greedy, random, best
    constant action."""
    final_video: bool = False
    """Films one greedy game at the end (`game.mp4`), where the environment can be rendered."""
    constant_max_decisions: Annotated[int, POSITIVE] = 4_500
    """Decisions after which a game with one button held is cut off: with some it never ends."""


@dataclasses.dataclass(frozen=True)
class StopConfig:
    """The run ends at whichever comes first; None never ends it."""

    num_frames: Annotated[int | None, POSITIVE] = None
    """Emulator frames, skipped ones included."""
    num_updates: Annotated[int | None, POSITIVE] = None
    """Updates."""
    minutes: Annotated[float | None, POSITIVE] = None
    """Minutes of this process."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    env: EnvConfig = EnvConfig()
    network: NetworkConfig = NetworkConfig()
    support: SupportConfig = SupportConfig()
    search: SearchConfig = SearchConfig()
    loss: LossConfig = LossConfig()
    value_buffer: ValueBufferConfig = ValueBufferConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    actors: ActorsConfig = ActorsConfig()
    learner: LearnerConfig = LearnerConfig()
    replay: ReplayConfig = ReplayConfig()
    log: LogConfig = LogConfig()
    stop: StopConfig = StopConfig()
    seed: Annotated[int, SEED] = 0
    """Seed of everything: parameters, searches, environments."""
    deterministic: bool = False
    """Stopping and resuming changes no bit: lockstep in rounds, actors' states in the checkpoints,
    no worker replaced."""


class ConfigError(ValueError):
    """A setting that cannot work. The message names the field, its value and what is allowed."""
