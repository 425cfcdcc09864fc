"""How a machine is shared between actors and learner."""

import dataclasses

import pytest

from configs.checks import check
from configs.presets import PRESETS
from configs.schema import ConfigError
from scripts.training import core_shares


def change(config, section, **fields):
    return dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **fields)}
    )


@pytest.mark.parametrize(
    "preset, num_cores, expected",
    [
        ("atari-cpu-onpolicy", 1, (1, 64, 1, 0)),
        ("atari-cpu-onpolicy", 2, (1, 64, 1, 1)),  # one acts, one learns
        ("atari-cpu-onpolicy", 5, (4, 16, 1, 1)),
        ("minatar", 2, (2, 32, 1, 0)),  # lockstep: they take turns
        ("atari-paper", 16, (14, 6, 1, 2)),  # 6 divides a batch of 96
        ("atari-paper", 128, (119, 1, 1, 9)),
    ],
)
def test_one_worker_a_core_beside_the_learners(preset, num_cores, expected):
    share = core_shares.share_cores(PRESETS[preset], num_cores)
    assert tuple(share) == expected
    actors = dict(
        num_workers=share.num_workers, environments_per_worker=share.environments_per_worker
    )
    check(change(PRESETS[preset], "actors", **actors))


def test_auto_becomes_numbers_and_says_so(monkeypatch):
    monkeypatch.setattr(core_shares, "usable_cores", lambda: 5)
    config = change(PRESETS["atari-cpu-onpolicy"], "actors", num_workers="auto")
    resolved = core_shares.resolve(config, None)
    assert (resolved.actors.num_workers, resolved.actors.environments_per_worker) == (4, 16)
    share = core_shares.given_share(resolved, None)
    assert (
        str(share)
        == "actors: 4 worker(s) x 16 environments, 1 core(s) each; learner: 1 core(s) in reserve"
    )
    with pytest.raises(ConfigError, match="actors.num_workers = auto: only for an embedded Ray"):
        core_shares.resolve(config, "auto")
    assert core_shares.resolve(PRESETS["minatar"], "auto") is PRESETS["minatar"]
    on_gpu = change(config, "actors", num_workers="auto", device="gpu", device_fraction=0.25)
    with pytest.raises(
        ConfigError, match="auto: counts cores; with actors.device = gpu give a number"
    ):
        core_shares.resolve(on_gpu, None)


@pytest.mark.parametrize(
    "num_cores, expected", [(2, (1, 32, None, 1)), (5, (2, 16, 1, 1)), (8, (3, 8, 1, 1))]
)
def test_several_learner_processes_share_the_cores_and_the_batch(monkeypatch, num_cores, expected):
    monkeypatch.setattr(core_shares, "usable_cores", lambda: num_cores)
    config = change(
        change(PRESETS["atari-cpu-onpolicy"], "learner", num_processes=2),
        "actors",
        num_workers="auto",
    )
    assert tuple(core_shares.share_cores(config, num_cores)) == expected
    check(core_shares.resolve(config, None))


def test_what_given_workers_claim(monkeypatch):
    monkeypatch.setattr(core_shares, "usable_cores", lambda: 8)

    def cores(number, address=None, **fields):
        return core_shares.given_share(
            change(PRESETS["atari-cpu-onpolicy"], "actors", num_workers=number, **fields), address
        ).cores_per_worker

    assert [cores(1), cores(3), cores(7), cores(8)] == [7, 2, 1, None]
    assert (
        cores(96, "host:6379", cpus_per_worker=2.0) == 2
        and cores(96, "host:6379", cpus_per_worker=0.5) == 1
    )
