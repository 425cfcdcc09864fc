"""What a session listens to: signals, once and twice, and timers."""

import os
import signal

import pytest

from scripts.training import interrupts, timer
from scripts.training.interrupts import Interrupted, Interrupts, StopRequest


@pytest.fixture
def clock(monkeypatch):
    """Returns a list whose first entry is the time."""
    now = [100.0]
    for module in (interrupts, timer):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def send(number):
    os.kill(os.getpid(), number)


def test_one_sigterm_that_comes_as_two_is_one(clock):
    """As under SLURM with a supervisor: both get it, and the supervisor hands its own on."""
    found = Interrupts()
    with found.watched(after_grace=lambda: None):
        found.check()
        send(signal.SIGTERM)
        clock[0] += 1.0
        send(signal.SIGTERM)
        assert found.name == "SIGTERM"
        with pytest.raises(Interrupted):
            found.check()
        clock[0] += 2.0
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_closed_terminal_and_slurms_warning_are_a_sigterm(clock, number):
    found = Interrupts()
    with found.watched(after_grace=lambda: None):
        send(number)
        assert found.name == "SIGTERM"
        send(signal.SIGTERM)  # of the same end
        clock[0] += 3.0
        with pytest.raises(KeyboardInterrupt):
            send(number)


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        found = Interrupts()
        with found.watched(after_grace=lambda: None):
            send(signal.SIGHUP)
            assert found.name is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_twice_leaves_at_once(clock):
    found = Interrupts()
    with found.watched(after_grace=lambda: None):
        send(signal.SIGINT)
        assert found.name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_the_handlers_before_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupts().watched(after_grace=lambda: None):
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_timer_rings_and_what_takes_longer_than_its_interval_leaves_it_time_to_train(clock):
    due = timer.Timer(10.0)
    assert not due.rings()
    clock[0] += 10.0
    assert due.rings() and not due.rings()
    clock[0] += 15.0  # of what it rang for
    due.restart()
    assert not due.rings()
    clock[0] += 10.0
    assert due.rings()


def test_a_request_to_stop_is_a_file_that_every_machine_sees(tmp_path):
    ours, theirs = StopRequest(tmp_path), StopRequest(tmp_path)
    with theirs.watched(after_grace=lambda: None):
        assert theirs.name is None
        theirs.check()
        ours.ask("SIGTERM")
        assert theirs.name == "SIGTERM"
        with pytest.raises(Interrupted):
            theirs.check()
    ours.clear()
    ours.clear()
    assert theirs.name is None
