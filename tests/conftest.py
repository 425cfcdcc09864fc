"""Order of the test files, and no deadline for hypothesis (its 200 ms measure the other jobs of a machine).

`make test` deals the files out to two processes. The pool's tests start Ray in their process and come first, before JAX
has threads: Ray forks, and a fork beside a lock that another thread holds can hang for ever. The longest file comes
second, so that no process ends with it alone.
"""

import hypothesis

hypothesis.settings.register_profile("busy machine", deadline=None)
hypothesis.settings.load_profile("busy machine")
_ORDER = {"test_actors_pool.py": 0, "test_scripts_programs.py": 1}


def pytest_collection_modifyitems(items):
    """Moves the tests of `_ORDER` to the front; the sort is stable."""
    items.sort(key=lambda item: _ORDER.get(item.path.name, len(_ORDER)))
