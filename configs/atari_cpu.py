"""Atari on a machine without an accelerator: what `make train` runs.

    python scripts/train.py atari-cpu --env.name assault

Run time: it stops after 10 minutes or 100,000 decisions (400,000 frames); those took 5 minutes on
one core of an Intel Xeon beside another run. Expected score: see docs/results.md.

Deviations from the paper, with reasons:
* grey frames of 64×64, four of them, DQN's three convolutions with half their channels, vector
  latents: the emulator and the search have to share two cores with the learner;
* frames as they are. Less their running mean (`network.centre_frames`) the values of Boxing are
  predicted, but its play is not learned, and that of Crazy Climber neither;
* rewards clipped to ± 1, 61 bins to ± 15 on h(x): one value scale for every game;
* 16 simulations, fewer than some games have actions: acts by Gumbel's improved policy, sampled from
  directly (its probability is exact), and 5 % of the actions are uniform: standing still must not
  be a fixed point;
* a search adds 8 logits for an advantage of one unit, the running spread of advantages, and at most
  2: raw Q moves nothing where returns are tiny (Road Runner), and stretching by the siblings' range
  collapses (Crazy Climber). Priors to the power 0.9 and an entropy weight of 0.01 hold the entropy;
* the returns of taken actions take part in the policy's gradient: on some games the model's Q says
  less of an action than its return does;
* γ 0.97, λ 0.95, value weight 1: short horizons are what a short run can learn;
* 8 environments: each plays 12,500 decisions of a run and meets every part of a long game several
  times. Of 32 each plays 3,125, and all drift through Crazy Climber together: one of three runs
  forgot its start (results/learning-trials.md);
* a replay of the newest 3,200 decisions, 4 start states learned from for each new one, 4 updates of
  64 after every 64 decisions: updates follow the play; learning rate 5e-4, gradients clipped,
  averages at rate 0.02;
* environments start up to 1,000 random decisions apart: a game of Assault lasts 590 ± 110 under
  random play, and those that started together were still in one phase after 600 (order parameter
  0.84 of 1; 0.35 at once with the spread). The emulator plays them before the first sequence;
* no past-policy loss: it has shown no gain at this size yet and costs the latents of every window.
  `--loss.past-weight 0.25` adds it; 4 heads reach back over 10 % of training as in the paper
  (interval = 0.1 · updates / size).
"""

from configs.schema import (
    ActorsConfig,
    Config,
    EnvConfig,
    LearnerConfig,
    LogConfig,
    LossConfig,
    NetworkConfig,
    OptimiserConfig,
    ReplayConfig,
    SearchConfig,
    StopConfig,
    SupportConfig,
    ValueBufferConfig,
)

CONFIG = Config(
    env=EnvConfig(name="krull", frame_size=64, reward_clip=1.0),
    network=NetworkConfig(
        latent="vector",
        encoder="light",
        history_length=4,
        num_channels=32,
        latent_size=128,
        hidden_size=128,
    ),
    support=SupportConfig(min_value=-15.0, max_value=15.0, num_bins=61),
    search=SearchConfig(
        policy="gumbel",
        num_simulations=16,
        normalisation="advantages",
        value_scale=8.0,
        max_shift=2.0,
        prior_exponent=0.9,
        uniform_fraction=0.05,
    ),
    loss=LossConfig(
        discount_factor=0.97,
        td_lambda=0.95,
        value_weight=1.0,
        return_weight=1.0,
        entropy_weight=0.01,
        past_weight=0.0,
    ),
    value_buffer=ValueBufferConfig(size=4, push_interval=156, chunk_size=4),
    optimiser=OptimiserConfig(
        learning_rate=5e-4,
        final_learning_rate=5e-4,
        schedule_num_updates=6_250,
        max_gradient_norm=10.0,
    ),
    actors=ActorsConfig(
        num_workers=1,
        environments_per_worker=8,
        sequence_length=9,
        sequence_overlap=1,
        start_spread=1_000,
    ),
    learner=LearnerConfig(
        batch_size=8,
        num_devices=1,
        search_average_rate=0.02,
        target_average_rate=0.02,
        publish_interval=4,
    ),
    replay=ReplayConfig(
        capacity=3_200, ratio=4.0, batch_size=64, tail_steps=15, min_decisions=2_000
    ),
    log=LogConfig(evaluation_episodes=10, final_video=True),
    stop=StopConfig(num_frames=400_000, minutes=10.0),
)
