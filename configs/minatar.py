"""MinAtar's games with vector latents (`pip install .[minatar]`).

python scripts/train.py minatar --env.name MinAtar/Breakout-v1
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
    env=EnvConfig(name="MinAtar/Breakout-v1"),
    network=NetworkConfig(
        latent="vector", encoder="light", history_length=1, num_channels=16, latent_size=128, hidden_size=128
    ),
    support=SupportConfig(min_value=-15.0, max_value=15.0, num_bins=61),
    search=SearchConfig(num_simulations=16, floor=0.1),
    loss=LossConfig(discount_factor=0.97, td_lambda=0.95),
    value_buffer=ValueBufferConfig(size=8, push_interval=200),
    optimiser=OptimiserConfig(learning_rate=5e-4, schedule_num_updates=19_000, max_gradient_norm=10.0),
    actors=ActorsConfig(num_workers=1, environments_per_worker=64, sequence_length=30, sequence_overlap=10),
    learner=LearnerConfig(batch_size=64, num_passes=1, num_minibatches=8, num_devices=1, publish_interval=8),
    stop=StopConfig(num_frames=3_000_000),
)
