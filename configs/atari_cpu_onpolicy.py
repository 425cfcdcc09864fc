"""The older `atari-cpu`, which hardly learns: kept for what was measured with it, and to compare.

    python scripts/train.py atari-cpu-onpolicy --env.name assault

Run time: stops after 10 minutes or 2 million frames; `--stop.minutes 45` leaves time for all of
them on one core. Expected score: see docs/results.md.

Deviations from the paper, with reasons:
* grey frames of 64×64, four of them, DQN's three convolutions with half their channels, vector
  latents: the emulator and the search have to share two cores with the learner (an encoder of 8×8
  patches was cheaper and saw too little);
* rewards clipped to ± 1, 61 bins to ± 15 on h(x): one value scale for every game;
* 16 simulations, fewer than some games have actions: acts by Gumbel's improved policy, sampled from
  directly (its probability is exact), on raw Q, because visits of 16 simulations are too coarse a
  target for 18 actions;
* priors to the power 0.5 and a value scale of 1: a search acts by softmax(Q / 0.019) times the
  square root of the prior, and the policy settles near softmax(Q / 0.009). With 0.9 and 0.1 it
  settled at 0.017, but all of it had to be learnt by the policy network first: what Q knows of a
  single state was hardly acted on;
* the value that TD(λ) leans on is the mean over the root's visits, as everywhere, and with 16 of
  them nearly one an action: below the value of the policy that acts, by 2 % where one action of
  many is good. Not tried otherwise;
* γ 0.97, λ 0.95, value weight 1: short horizons are what a short run can learn;
* 40 updates per 1,280 new steps, 64 start states each, from 64 games; learning rate 5e-4, gradients
  clipped: a CPU's batches are small;
* 4 past heads: they reach back over 10 % of training as in the paper (interval = 0.1 · updates /
  size).
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
    SearchConfig,
    StopConfig,
    SupportConfig,
    ValueBufferConfig,
)

CONFIG = Config(
    env=EnvConfig(name="assault", frame_size=64, reward_clip=1.0),
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
        normalisation="none",
        value_scale=1.0,
        prior_exponent=0.5,
    ),
    loss=LossConfig(discount_factor=0.97, td_lambda=0.95, value_weight=1.0),
    value_buffer=ValueBufferConfig(size=4, push_interval=391, chunk_size=4),
    optimiser=OptimiserConfig(
        learning_rate=5e-4, schedule_num_updates=15_625, max_gradient_norm=10.0
    ),
    actors=ActorsConfig(
        num_workers=1, environments_per_worker=64, sequence_length=30, sequence_overlap=10
    ),
    learner=LearnerConfig(
        batch_size=64, num_passes=2, num_minibatches=20, num_devices=1, publish_interval=40
    ),
    log=LogConfig(evaluation_episodes=10),
    stop=StopConfig(num_frames=2_000_000, minutes=10.0),
)
