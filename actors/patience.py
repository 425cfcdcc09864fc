"""How long a worker may owe an answer before it counts as hanging."""


class Patience:
    """Long for the first answer, which compiles; then by the slowest rollout so far, whatever
    machine that was on.

    Args:
      least_seconds: never less than this.
      first_seconds: until a rollout has been delivered.
    """

    def __init__(self, least_seconds: float = 600.0, first_seconds: float = 3600.0):
        self._least, self._first = least_seconds, first_seconds
        self._slowest: float | None = None

    def note(self, rollout_seconds: float) -> None:
        """Takes in how long a worker has worked on a rollout."""
        self._slowest = max(rollout_seconds, self._slowest or 0.0)

    @property
    def seconds(self) -> float:
        """The longest wait for an answer, from now on."""
        return max(self._least, self._first if self._slowest is None else 5.0 * self._slowest)
