"""What is refused before anything starts: every number out of its range, every combination that
cannot work.
"""

import dataclasses
import math
import types
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import presets
from configs.checks import check, check_devices
from configs.reader import read
from configs.schema import Config, ConfigError
from configs.serialise import to_dict

NAN, INF = math.nan, math.inf


REPLAY = {"replay.capacity": 100_000, "replay.min_decisions": 50_000}


def with_value(config, path, value):
    """Returns `config` with the field at the dotted `path` replaced."""
    name, _, rest = path.partition(".")
    return dataclasses.replace(
        config, **{name: with_value(getattr(config, name), rest, value) if rest else value}
    )


def with_values(values):
    config = Config()
    for path, value in values.items():
        config = with_value(config, path, value)
    return config


def numeric_fields(cls=Config, prefix=""):
    """Yields (dotted path, type, whether None is allowed) of every number in the schema."""
    for name, hint in typing.get_type_hints(cls).items():
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if dataclasses.is_dataclass(hint):
            yield from numeric_fields(hint, f"{prefix}{name}.")
        elif int in options or float in options:
            yield f"{prefix}{name}", int if int in options else float, type(None) in options


NUMERIC = {path: (kind, optional) for path, kind, optional in numeric_fields()}

# The lowest value that is refused below, and the highest above; written down apart from
# configs/schema.py.
NOT_NEGATIVE = {
    "env.max_noops", "network.num_blocks", "loss.reward_weight", "loss.value_weight",
    "loss.policy_weight", "loss.past_weight", "optimiser.final_learning_rate",
    "optimiser.weight_decay", "replay.capacity", "replay.tail_steps", "actors.start_spread",
    "loss.return_weight", "loss.entropy_weight",
}  # fmt: skip
FRACTIONS = {
    "env.sticky_action_prob",
    "search.dirichlet_fraction",
    "loss.discount_factor",
    "loss.td_lambda",
    "search.uniform_fraction",
}
RATES = {"learner.search_average_rate", "learner.target_average_rate"}


def out_of_range(path):
    """Returns a strategy of values that the field at `path` must refuse whatever the rest of the
    default config.
    """
    kind, _ = NUMERIC[path]
    below = {
        "seed": -1,
        "support.num_bins": 1,
        "actors.sequence_overlap": 4,
        "actors.sequence_length": 10,
    }
    if kind is int:
        numbers = st.integers(-(2**40), -1 if path in NOT_NEGATIVE else below.get(path, 0))
        return numbers | st.integers(2**32, 2**70) if path == "seed" else numbers
    if path == "support.min_value":
        return st.floats(300.0, INF) | st.sampled_from([NAN, -INF])
    if path == "support.max_value":
        return st.floats(-INF, -300.0) | st.sampled_from([NAN, INF])
    zero_allowed = path in NOT_NEGATIVE | FRACTIONS
    low = st.floats(-INF, 0.0, exclude_max=zero_allowed).filter(lambda x: x < 0 or not zero_allowed)
    too_high = st.floats(1.0, INF, exclude_min=True) if path in FRACTIONS | RATES else st.nothing()
    return low | too_high | st.just(NAN)


@pytest.mark.parametrize("path", sorted(NUMERIC))
@given(data=st.data())
def test_a_number_out_of_range_is_refused_with_its_field_and_value(path, data):
    value = data.draw(out_of_range(path))
    with pytest.raises(ConfigError) as refusal:
        check(with_value(Config(), path, value))
    lines = [line for line in str(refusal.value).splitlines() if f"{path} = {value}" in line]
    assert lines, f"{path} = {value} is not in: {refusal.value}"


def test_the_schema_has_the_numbers_that_this_file_thinks_it_has():
    assert len(NUMERIC) >= 58
    assert NOT_NEGATIVE | FRACTIONS | RATES <= NUMERIC.keys()
    assert NUMERIC["env.reward_clip"] == (float, True) and NUMERIC["learner.num_devices"] == (
        int,
        True,
    )
    assert "env.terminate_on_life_loss" not in NUMERIC


@pytest.mark.parametrize(
    "path", sorted(path for path, (_, optional) in NUMERIC.items() if optional)
)
def test_none_is_allowed_where_the_schema_says_so(path):
    check(with_value(Config(), path, None))


@pytest.mark.parametrize("path", sorted(NOT_NEGATIVE | FRACTIONS))
def test_zero_is_allowed_at_the_edge(path):
    check(with_value(Config(), path, 0))


@pytest.mark.parametrize("path", sorted((FRACTIONS | RATES) - {"search.uniform_fraction"}))
def test_one_is_allowed_at_the_edge(path):
    check(with_value(Config(), path, 1.0))


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_every_preset_passes(name):
    check(presets.PRESETS[name])
    check_devices(presets.PRESETS[name], num_available=1)


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"loss.past_clip": 0.5},
            "loss.past_clip = 0.5: must be at least 1, or inf: the trace is clipped at 1 in any "
            "case",
        ),
        (
            {"actors.sequence_overlap": 30},
            "actors.sequence_overlap = 30: must be below actors.sequence_length = 30",
        ),
        (
            {"loss.num_unroll_steps": 11},
            "actors.sequence_overlap = 10: must be at least loss.num_unroll_steps = 11, "
            "or the last start states lack targets",
        ),
        (
            {"support.min_value": 300.0},
            "support.min_value = 300.0: must be below support.max_value = 300.0",
        ),
        (
            {"env.max_pool_frames": 5},
            "env.max_pool_frames = 5: must be at most env.action_repeat = 4",
        ),
        (
            {"learner.batch_size": 100},
            "learner.batch_size = 100: must be divisible by actors.environments_per_worker = 8, "
            "the sequences of one rollout",
        ),
        (
            {"learner.num_minibatches": 6},
            "learner.num_minibatches = 6: must divide the 20 start states of a sequence "
            "(actors.sequence_length - actors.sequence_overlap)",
        ),
        (
            {"learner.num_processes": 24},
            "learner.batch_size / learner.num_processes = 4: must be divisible by "
            "actors.environments_per_worker = "
            "8, the sequences of one rollout",
        ),
        (
            {"learner.publish_interval": 4, "learner.max_lag": 3},
            "learner.max_lag = 3: must be at least learner.publish_interval = 4, or no rollout is "
            "new enough",
        ),
        (
            {"replay.capacity": 15_000, "replay.min_decisions": 13_000},
            "replay.capacity = 15000: must be at least 22272, a sequence and 15 decisions of 768 "
            "environments",
        ),
        (
            {"replay.capacity": 30_000, "replay.min_decisions": 40_000},
            "replay.capacity = 30000: must be at least 40000, replay.min_decisions",
        ),
        (
            {"replay.capacity": 30_000, "replay.min_decisions": 12_000, "replay.tail_steps": 11},
            "replay.min_decisions = 12000: must be at least 13056, some start state with its "
            "successors",
        ),
        (
            REPLAY | {"actors.sequence_overlap": 0},
            "actors.sequence_overlap = 0: must be at least 1, the state where the next sequence "
            "goes on",
        ),
        (
            REPLAY | {"learner.num_passes": 2},
            "learner.num_passes = 2: must be 1 with replay.capacity > 0; see replay.ratio",
        ),
        (
            REPLAY | {"learner.num_minibatches": 2},
            "learner.num_minibatches = 2: must be 1 with replay.capacity > 0; see replay.ratio",
        ),
        (
            REPLAY | {"learner.max_lag": 10},
            "learner.max_lag = 10: must be None with replay.capacity > 0, which keeps what is old",
        ),
        (
            REPLAY | {"learner.num_processes": 3},
            "replay.batch_size = 64: must be divisible by learner.num_processes = 3",
        ),
        (
            REPLAY | {"learner.num_processes": 2, "replay.saved": True},
            "replay.saved = True: must be False with learner.num_processes = 2",
        ),
        (
            {"loss.value_target": "vtrace"},
            "loss.bootstrap = search: must be average with loss.value_target = vtrace, which "
            "compares the target "
            "average's policy with the one that acted",
        ),
        (
            REPLAY | {"loss.value_target": "n_step", "loss.num_target_steps": 11},
            "replay.tail_steps = 10: must be at least loss.num_target_steps = 11, or the last "
            "targets are shorter",
        ),
        (
            {"actors.device": "tpu", "actors.device_fraction": 0.5},
            "actors.device_fraction = 0.5: must be 1.0 with actors.device = tpu",
        ),
        (
            {"search.normalisation": "none"},
            "search.normalisation = none: not with search.policy = visits; see --help",
        ),
        (
            {"search.policy": "gumbel"},
            "search.normalisation = tree: not with search.policy = gumbel; see --help",
        ),
        (
            {"network.remat": True, "network.latent": "vector"},
            "network.remat = True: only with network.latent = planes; vector latents have no "
            "blocks to compute again",
        ),
        (
            {"search.policy": "gumbel_halving", "search.normalisation": "siblings"},
            "search.policy = gumbel_halving: its action has no exact behaviour probability, which "
            "loss.past_weight = "
            "0.25 needs; use search.policy = gumbel or visits, or loss.past_weight = 0",
        ),
    ],
    ids=lambda x: ",".join(x) if isinstance(x, dict) else "",
)
def test_a_combination_that_cannot_work_is_refused_in_one_line(values, message):
    with pytest.raises(ConfigError) as refusal:
        check(with_values(values))
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    "values",
    [
        {"actors.sequence_overlap": 29},
        {"loss.num_unroll_steps": 10},
        {"env.max_pool_frames": 1},
        {"learner.num_minibatches": 20},
        {"search.policy": "gumbel", "search.normalisation": "none"},
        {"search.policy": "gumbel", "search.normalisation": "siblings"},
        {"search.policy": "gumbel", "search.normalisation": "none", "search.uniform_fraction": 1.0},
        {
            "search.policy": "gumbel_halving",
            "search.normalisation": "none",
            "loss.past_weight": 0.0,
        },
        {"search.normalisation": "siblings"},
        {"loss.value_target": "vtrace", "loss.bootstrap": "average"},
        {"loss.value_target": "n_step", "loss.num_target_steps": 11},
        REPLAY | {"actors.sequence_overlap": 1, "actors.sequence_length": 4},
        REPLAY | {"replay.saved": True},
    ],
    ids=lambda values: ",".join(values),
)
def test_a_combination_at_the_edge_is_allowed(values):
    check(with_values(values))


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as refusal:
        check(with_values({"network.num_channels": 0, "learner.batch_size": 100, "seed": -3}))
    assert [line.partition(":")[0] for line in str(refusal.value).splitlines()] == [
        "network.num_channels = 0", "seed = -3", "learner.batch_size = 100",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "num_devices, num_available", [(1, 1), (None, 1), (2, 8), (None, 8), (96, 96)]
)
def test_a_batch_that_divides_over_the_devices_is_allowed(num_devices, num_available):
    check_devices(with_value(Config(), "learner.num_devices", num_devices), num_available)


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(
        ConfigError, match=r"^learner\.num_devices = 4: this process sees 2 device\(s\)$"
    ):
        check_devices(with_value(Config(), "learner.num_devices", 4), 2)


@pytest.mark.parametrize("num_devices, num_available", [(5, 8), (None, 5)])
def test_a_batch_that_does_not_divide_over_the_devices_is_refused(num_devices, num_available):
    with pytest.raises(ConfigError, match=r"^learner\.batch_size = 96: .*the 5 devices"):
        check_devices(with_value(Config(), "learner.num_devices", num_devices), num_available)


def test_with_a_replay_it_is_the_start_states_of_an_update_that_divide_over_the_devices():
    config = with_values(REPLAY | {"replay.batch_size": 60, "learner.num_devices": 5})
    check_devices(config, 5)
    with pytest.raises(
        ConfigError, match=r"^replay\.batch_size = 60: must be divisible by the 8 devices"
    ):
        check_devices(with_value(config, "learner.num_devices", 8), 8)


@pytest.mark.parametrize(
    "path, value, message",
    [
        (
            "loss.past_latents",
            "onlin",
            "loss.past_latents = 'onlin': must be one of target, online",
        ),
        ("search.num_simulations", "4", "search.num_simulations = '4': must be a whole number"),
        (
            "actors.num_workers",
            1.5,
            "actors.num_workers = 1.5: must be a whole number or one of auto",
        ),
        ("stop.minutes", "long", "stop.minutes = 'long': must be a number or None"),
    ],
)
def test_a_value_of_another_type_is_refused_before_anything_else(path, value, message):
    """As a preset written in Python may hold one: the same line as on the command line or in a
    file.
    """
    with pytest.raises(ConfigError) as refusal:
        check(with_values({path: value, "seed": -3}))
    assert str(refusal.value) == message


def test_what_is_stored_is_refused_out_of_bounds_as_well():
    stored = to_dict(with_values({"search.num_simulations": 0, "seed": -3}))
    with pytest.raises(ConfigError) as refusal:
        read(Config, stored)
    assert str(refusal.value).splitlines() == [
        "search.num_simulations = 0: must be above 0",
        "seed = -3: must lie in [0, 2**32)",
    ]


def test_every_number_of_the_schema_has_bounds():
    """A field without would take a NaN; `actors.num_workers` is a number or `auto`."""
    hints = typing.get_type_hints(Config, include_extras=True)
    sections = {
        name: typing.get_type_hints(kind, include_extras=True)
        for name, kind in hints.items()
        if dataclasses.is_dataclass(kind)
    }
    bounded = {
        f"{section}.{name}"
        for section, fields in sections.items()
        for name, hint in fields.items()
        if hasattr(hint, "__metadata__")
    } | {name for name, hint in hints.items() if hasattr(hint, "__metadata__")}
    assert bounded == NUMERIC.keys() | {"actors.num_workers"}
