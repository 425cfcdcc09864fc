"""What can be refused before anything starts.

Every message names the field, its value and what is allowed.

The type and the bounds of a single field stand in `schema.py`; here is what depends on several.
"""

import dataclasses

from configs import reader
from configs.schema import Config, ConfigError


def check(config: Config) -> None:
    """Raises `ConfigError` with one line per problem if `config` cannot work."""
    reader.typed(Config, dataclasses.asdict(config))
    rules = (
        reader.out_of_bounds,
        _lengths,
        _batches,
        _replay,
        _networks,
        _behaviour,
        _value_targets,
        _rounds,
    )
    problems = [problem for rule in rules for problem in rule(config)]
    if problems:
        raise ConfigError("\n".join(problems))


def check_devices(config: Config, num_available: int) -> None:
    """Raises `ConfigError` if the batch cannot be split over the devices of this machine."""
    asked = config.learner.num_devices
    if asked is not None and asked > num_available:
        field = f"learner.num_devices = {asked}"
        raise ConfigError(f"{field}: this process sees {num_available} device(s)")
    devices = asked or num_available
    devices *= config.learner.num_processes
    name = "replay.batch_size" if config.replay.capacity else "learner.batch_size"
    batch_size = (config.replay if config.replay.capacity else config.learner).batch_size
    if batch_size % devices:
        raise ConfigError(
            f"{name} = {batch_size}: must be divisible by the {devices} devices "
            f"of the learner (set learner.num_devices or {name})"
        )


def _lengths(config: Config):
    actors, steps = config.actors, config.loss.num_unroll_steps
    if not actors.sequence_overlap < actors.sequence_length:
        yield (
            f"actors.sequence_overlap = {actors.sequence_overlap}: must be below "
            f"actors.sequence_length = {actors.sequence_length}"
        )
    if actors.sequence_overlap < steps and not config.replay.capacity:
        yield (
            f"actors.sequence_overlap = {actors.sequence_overlap}: must be at least "
            f"loss.num_unroll_steps = {steps}, or the last start states lack targets"
        )
    support = config.support
    if support.min_value >= support.max_value:
        most = f"support.max_value = {support.max_value}"
        yield f"support.min_value = {support.min_value}: must be below {most}"
    if config.env.max_pool_frames > config.env.action_repeat:
        yield (
            f"env.max_pool_frames = {config.env.max_pool_frames}: must be at most "
            f"env.action_repeat = {config.env.action_repeat}"
        )


def _batches(config: Config):
    learner, environments = config.learner, config.actors.environments_per_worker
    if learner.num_processes < 1:
        return
    share = learner.batch_size / learner.num_processes
    name = "learner.batch_size"
    if learner.num_processes > 1:
        name += " / learner.num_processes"
    if environments > 0 and share % environments:
        yield (
            f"{name} = {share:g}: must be divisible by "
            f"actors.environments_per_worker = {environments}, the sequences of one rollout"
        )
    num_starts = config.actors.sequence_length - config.actors.sequence_overlap
    if learner.num_minibatches > 0 and num_starts % learner.num_minibatches:
        yield (
            f"learner.num_minibatches = {learner.num_minibatches}: must divide the {num_starts} "
            "start states of a sequence (actors.sequence_length - actors.sequence_overlap)"
        )
    if learner.max_lag is not None and learner.max_lag < learner.publish_interval:
        yield (
            f"learner.max_lag = {learner.max_lag}: must be at least learner.publish_interval = "
            f"{learner.publish_interval}, or no rollout is new enough"
        )
    if config.actors.device == "tpu" and config.actors.device_fraction != 1.0:
        fraction = f"actors.device_fraction = {config.actors.device_fraction}"
        yield f"{fraction}: must be 1.0 with actors.device = tpu"


def _replay(config: Config):
    """Yields what is wrong with a replay.

    Windows are drawn from what is stored: sequences may be short, and no passes go through them.
    """
    replay, learner, actors = config.replay, config.learner, config.actors
    if replay.capacity <= 0:
        return
    length = config.loss.num_unroll_steps + replay.tail_steps
    # checked again with a number
    workers = 1 if actors.num_workers == "auto" else actors.num_workers
    streams = workers * actors.environments_per_worker * learner.num_processes
    room = max(length, actors.sequence_length - 1) * streams
    for name, value, least, why in (
        (
            "replay.capacity",
            replay.capacity,
            room,
            f"a sequence and {length} decisions of {streams} environments",
        ),
        ("replay.capacity", replay.capacity, replay.min_decisions, "replay.min_decisions"),
        (
            "replay.min_decisions",
            replay.min_decisions,
            (length + 1) * streams,
            "some start state with its successors",
        ),
        (
            "actors.sequence_overlap",
            actors.sequence_overlap,
            1,
            "the state where the next sequence goes on",
        ),
    ):
        if value < least:
            yield f"{name} = {value}: must be at least {least}, {why}"
    for name in ("num_passes", "num_minibatches"):
        if getattr(learner, name) != 1:
            yield (
                f"learner.{name} = {getattr(learner, name)}: must be 1 with replay.capacity > 0; "
                f"see replay.ratio"
            )
    if learner.max_lag is not None:
        yield (
            f"learner.max_lag = {learner.max_lag}: must be None with replay.capacity > 0, which "
            f"keeps what is old"
        )
    if learner.num_processes > 0 and replay.batch_size % learner.num_processes:
        yield (
            f"replay.batch_size = {replay.batch_size}: must be divisible by "
            f"learner.num_processes = {learner.num_processes}"
        )
    if replay.saved and learner.num_processes > 1:
        yield (
            f"replay.saved = True: must be False with learner.num_processes = "
            f"{learner.num_processes}"
        )


def _networks(config: Config):
    if config.network.remat and config.network.latent == "vector":
        yield (
            "network.remat = True: only with network.latent = planes; vector latents have no "
            "blocks to compute again"
        )


def _behaviour(config: Config):
    policy, normalisation = config.search.policy, config.search.normalisation
    refused = ("none", "advantages") if policy == "visits" else ("tree",)
    if normalisation in refused:
        field = f"search.normalisation = {normalisation}"
        yield f"{field}: not with search.policy = {policy}; see --help"
    if config.search.uniform_fraction > 0 and policy != "gumbel":
        yield (
            f"search.uniform_fraction = {config.search.uniform_fraction}: only with "
            f"search.policy = gumbel, not {policy}"
        )
    for name in ("past_weight", "return_weight"):
        weight = getattr(config.loss, name)
        if policy == "gumbel_halving" and weight > 0:
            yield (
                "search.policy = gumbel_halving: its action has no exact behaviour probability, "
                f"which loss.{name} = {weight} needs; use search.policy = gumbel or visits, or "
                f"loss.{name} = 0"
            )


def _value_targets(config: Config):
    loss, replay = config.loss, config.replay
    if loss.value_target == "vtrace" and loss.bootstrap != "average":
        yield (
            f"loss.bootstrap = {loss.bootstrap}: must be average with loss.value_target = vtrace, "
            f"which compares "
            "the target average's policy with the one that acted"
        )
    if (
        loss.value_target == "n_step"
        and replay.capacity
        and replay.tail_steps < loss.num_target_steps
    ):
        yield (
            f"replay.tail_steps = {replay.tail_steps}: must be at least loss.num_target_steps = "
            f"{loss.num_target_steps}, or the last targets are shorter"
        )


def _rounds(config: Config):
    """Yields what is wrong with a deterministic run.

    At the end of a batch its actors are at rest, and act on with what was published then.
    """
    if not config.deterministic:
        return
    actors, learner = config.actors, config.learner
    if learner.collect_ahead:
        yield "learner.collect_ahead = True: must be False with deterministic = True"
    if learner.num_processes != 1:
        field = f"learner.num_processes = {learner.num_processes}"
        yield f"{field}: must be 1 with deterministic = True"
    if actors.max_in_flight != 1:
        yield f"actors.max_in_flight = {actors.max_in_flight}: must be 1 with deterministic = True"
    sequences = actors.num_workers * actors.environments_per_worker
    if sequences > 0 and learner.batch_size % sequences:
        yield (
            f"learner.batch_size = {learner.batch_size}: must be divisible by actors.num_workers * "
            f"actors.environments_per_worker = {sequences} with deterministic = True"
        )
    if config.replay.capacity:  # how many updates a batch asks for depends on the games
        if learner.publish_interval != 1:
            yield (
                f"learner.publish_interval = {learner.publish_interval}: must be 1 with "
                f"deterministic = True "
                "and replay.capacity > 0"
            )
        return
    updates = learner.num_passes * learner.num_minibatches
    if learner.publish_interval > 0 and updates % learner.publish_interval:
        yield (
            f"learner.publish_interval = {learner.publish_interval}: must divide the {updates} "
            "updates of a batch with deterministic = True"
        )
