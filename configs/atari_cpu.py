"""Atari on a machine without an accelerator: what `make train` runs.

python scripts/train.py atari-cpu --env.name krull
"""

from configs.schema import (
    ActorsConfig,
    Config,
    EnvConfig,
    LearnerConfig,
    LossConfig,
    NetworkConfig,
    OptimiserConfig,
    SearchConfig,
    StopConfig,
    SupportConfig,
    ValueBufferConfig,
)

CONFIG = Config(
    env=EnvConfig(name="krull", frame_size=80, reward_clip=1.0),
    network=NetworkConfig(
        latent="vector", encoder="light", history_length=4, num_channels=32, latent_size=128, hidden_size=128
    ),
    support=SupportConfig(min_value=-15.0, max_value=15.0, num_bins=61),
    search=SearchConfig(num_simulations=16, floor=0.1),
    loss=LossConfig(discount_factor=0.97, td_lambda=0.95),
    value_buffer=ValueBufferConfig(size=8, push_interval=200),
    optimiser=OptimiserConfig(learning_rate=5e-4, schedule_num_updates=5_000, max_gradient_norm=10.0),
    actors=ActorsConfig(num_workers=1, environments_per_worker=32, sequence_length=30, sequence_overlap=10),
    learner=LearnerConfig(batch_size=32, num_passes=1, num_minibatches=4, num_devices=1, publish_interval=4),
    stop=StopConfig(num_frames=1_600_000),
)
