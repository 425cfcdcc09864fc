"""Order of the test files: those that start Ray in this process come first, before JAX has threads.

Ray forks, and a fork beside a lock that another thread holds can hang for ever.  Hypothesis times no example: on a busy
machine its 200 ms measure the other jobs.
"""

import hypothesis

hypothesis.settings.register_profile("busy machine", deadline=None)
hypothesis.settings.load_profile("busy machine")
_FIRST = "test_actors_pool.py"


def pytest_collection_modifyitems(items):
    """Moves the tests of the pool to the front; the sort is stable."""
    items.sort(key=lambda item: item.path.name != _FIRST)
