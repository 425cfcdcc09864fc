"""Atari on a machine without an accelerator: what `make train` runs.

    python scripts/train.py atari-cpu --env.name krull

Run time: stops after 10 minutes; give `--stop.minutes 45` for more. Expected score: see the README; its settings
are those of `minatar` carried over, not yet tuned on Atari.

Deviations from the paper, with reasons:
* grey frames of 64×64, four of them, an encoder of patches, vector latents: the emulator and the search have to share
  two cores with the learner;
* rewards clipped to ± 1, 61 bins to ± 15 on h(x): one value scale for every game;
* 16 simulations, root noise 0.2; γ 0.97, λ 0.95, value weight 1, Q floor 0.05: short horizons are what
  a short run can learn;
* 8 updates per 640 new steps, learning rate 5e-4, gradients clipped: a CPU's batches are small;
* 4 past heads: they reach back over 10 % of a 10-minute run.
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
    env=EnvConfig(name="krull", frame_size=64, reward_clip=1.0),
    network=NetworkConfig(
        latent="vector", encoder="light", history_length=4, num_channels=32, latent_size=128, hidden_size=128
    ),
    support=SupportConfig(min_value=-15.0, max_value=15.0, num_bins=61),
    search=SearchConfig(num_simulations=16, dirichlet_fraction=0.2, floor=0.05),
    loss=LossConfig(discount_factor=0.97, td_lambda=0.95, value_weight=1.0),
    value_buffer=ValueBufferConfig(size=4, push_interval=100, chunk_size=4),
    optimiser=OptimiserConfig(learning_rate=5e-4, schedule_num_updates=30_000, max_gradient_norm=10.0),
    actors=ActorsConfig(num_workers=1, environments_per_worker=32, sequence_length=30, sequence_overlap=10),
    learner=LearnerConfig(batch_size=32, num_passes=1, num_minibatches=8, num_devices=1, publish_interval=8),
    log=LogConfig(evaluation_episodes=10),
    stop=StopConfig(minutes=10.0),
)
