"""The installed commands `muzero-train`, `muzero-resume` …: each runs its entry point as `python
-m` would.
"""

import functools
import runpy


def _command(name: str):
    """Returns what runs `scripts.<name>` as the main program, so that it may start itself again
    with jemalloc.
    """
    return functools.partial(
        runpy.run_module, f"scripts.{name}", run_name="__main__", alter_sys=True
    )


train = _command("train")
resume = _command("resume")
evaluate = _command("evaluate")
suite = _command("suite")
report = _command("report")
look = _command("look")
