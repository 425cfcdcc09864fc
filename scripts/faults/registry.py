"""What a fault is: something that is injected, a promise, and what happened then."""

import dataclasses
from collections.abc import Callable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What happened after a fault.

    Numbers that do not apply are None: then nothing was training.
    """

    held: bool
    happened: str
    frames_lost: int | None = None
    updates_lost: int | None = None


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault of the harness."""

    name: str
    injected: str
    promised: str
    is_quick: bool
    inject: Callable[[Path], Outcome]


FAULTS: dict[str, Fault] = {}


def fault(*, injected: str, promised: str, is_quick: bool) -> Callable:
    """Returns the decorator that enters `inject(empty directory) -> Outcome` under its name, `-`
    for `_`.

    Args:
      injected: what is done to the system.
      promised: what it promises then.
      is_quick: whether it needs no program and no Ray: the tests run these.
    """

    def enter(inject: Callable[[Path], Outcome]) -> Callable[[Path], Outcome]:
        name = inject.__name__.replace("_", "-")
        FAULTS[name] = Fault(name, injected, promised, is_quick, inject)
        return inject

    return enter
