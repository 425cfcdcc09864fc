"""Who may come in: no open port without a token, no run directory that a node does not see, no
SIGTERM for Ray.
"""

import signal
from unittest import mock

import pytest

from configs.schema import ConfigError
from scripts.training import cluster


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)


@pytest.mark.parametrize(
    "address", ["10.0.0.1:6379", "head.example:6379", "ray://10.0.0.1:10001", "[fd00::1]:6379"]
)
def test_a_cluster_beyond_this_machine_needs_a_token(address, monkeypatch):
    with pytest.raises(ConfigError, match="needs RAY_AUTH_MODE=token and its token"):
        cluster.check_address(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    cluster._require_token(address)


@pytest.mark.parametrize(
    "address", [None, "auto", "local", "127.0.0.1:6379", "[::1]:6379", "localhost:6379"]
)
def test_this_machine_is_reached_without_one(address):
    cluster._require_token(address)


def test_an_embedded_ray_is_not_opened_to_everyone(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(
        ConfigError, match="RAY_AUTH_MODE = disabled: .* listens on every interface"
    ):
        cluster.check_address(None)


def test_a_run_directory_that_a_node_does_not_see_is_refused(monkeypatch, tmp_path):
    nodes = [
        {"NodeManagerHostname": name, "Alive": name != "gone"} for name in ("head", "far", "gone")
    ]
    asked = []

    def sees(node, mark):
        asked.append((node["NodeManagerHostname"], mark.exists()))
        return node["NodeManagerHostname"] == "head"

    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster, "_sees", sees)
    with pytest.raises(
        ConfigError, match="not seen by far; .* a local path with more than one node is refused"
    ):
        cluster.check_shared("--out", tmp_path, "auto")
    assert asked == [("head", True), ("far", True)] and list(tmp_path.iterdir()) == []
    # An embedded Ray has one node: nothing is asked
    cluster.check_shared("--out", tmp_path / "nowhere", None)


def test_a_node_that_has_died_meanwhile_need_not_see_it(monkeypatch, tmp_path):
    def die(*args, **settings):
        raise cluster.ray.exceptions.TaskUnschedulableError("the node does not exist any more")

    monkeypatch.setattr(cluster.ray, "remote", mock.MagicMock())
    monkeypatch.setattr(cluster.ray, "get", die)
    monkeypatch.setattr(
        cluster.ray,
        "nodes",
        lambda: [{"NodeID": "0" * 56, "NodeManagerHostname": "far", "Alive": True}],
    )
    cluster.check_shared("--out", tmp_path, "auto")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_ray_starts_deaf_to_sigterm_and_we_are_not(number):
    def blocked():
        return number in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    with cluster._sigterm_blocked():
        assert blocked()
    assert not blocked()


@pytest.fixture
def starts(monkeypatch):
    """Returns what `ray.init` is to raise, start by start; None for a start that succeeds."""
    for name in ("RAY_AUTH_TOKEN", "RAY_worker_niceness", "RAY_task_events_report_interval_ms"):
        monkeypatch.setenv(name, "kept")  # and put back after the test, RAY_AUTH_MODE as well
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    ray, failures = mock.Mock(), []
    ray.init.side_effect = lambda **_: failures and (error := failures.pop(0)) and _raise(error)
    monkeypatch.setattr(cluster, "ray", ray)
    monkeypatch.setattr(cluster.signal, "signal", mock.Mock())
    return failures, ray


def _raise(error):
    raise error


def test_ray_that_does_not_start_is_started_again(starts, capsys):
    failures, ray = starts
    failures += [Exception("The current node\ntimed out during startup"), RuntimeError("gone")]
    cluster.start_ray(None, num_cpus=1)
    assert (ray.init.call_count, ray.shutdown.call_count, failures) == (3, 2, [])
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("once more (Exception: The current node timed out during startup)")
    assert second.endswith("(RuntimeError: gone)")


def test_ray_that_never_starts_is_one_line(starts):
    failures, ray = starts
    failures += [RuntimeError(f"number {n}") for n in (1, 2, 3)]
    with pytest.raises(ConfigError, match="in 3 attempts, at last RuntimeError: number 3; is the"):
        cluster.start_ray(None, num_cpus=1)
    assert ray.shutdown.call_count == 3
