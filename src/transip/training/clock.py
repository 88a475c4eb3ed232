"""How much of a run's budget is used, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from transip.config import TrainingSettings

EVALUATIONS = 10  # over the budget, where the recipe does not say how often


class TrainingClock:
    """Time spent on training, and the fraction of the budget (steps or minutes) that is used.

    Processes compare their clocks once a step, in `tick`: learning rates and decisions that follow from `progress`
    are the same in all of them.

    Args:
        settings: with the budget.
        seconds: that a resumed run has already been trained for.
        mean: of a number over the processes.
    """

    def __init__(
        self, settings: TrainingSettings, seconds: float = 0.0, mean: Callable[[float], float] = lambda value: value
    ):
        self._settings, self._mean = settings, mean
        self._seconds = seconds
        self._previous = self._now = 0.0  # progress, when `tick` was called
        self.start()

    def start(self) -> None:
        """Go on counting from the time spent so far."""
        self._origin = time.perf_counter() - self._seconds

    @property
    def seconds(self) -> float:
        """Time spent on training, never less than when last asked: clocks may stand still or go back."""
        now = time.perf_counter()
        if now - self._origin < self._seconds:
            self._origin = now - self._seconds
        self._seconds = now - self._origin
        return self._seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not training, and outside the budget."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._origin += max(time.perf_counter() - began, 0.0)

    def tick(self, step: int) -> None:
        """Compare clocks after `step` steps; all processes must call it together."""
        self._previous = self._now
        if self._settings.minutes is not None:
            self._now = min(self._mean(self.seconds) / (60 * self._settings.minutes), 1.0)
        self._now = self.progress(step)

    def progress(self, step: int) -> float:
        """Fraction of the budget, from 0 to 1, used after `step` steps; of one in minutes, when `tick` was called."""
        steps = self._settings.steps
        return self._now if steps is None else min(step / steps, 1.0)

    def is_due(self, step: int, every: int | None) -> bool:
        """Whether it is time for what is done every so many steps; None: in every tenth of the budget."""
        if every is not None:
            return step % every == 0
        before, now = (int(EVALUATIONS * progress + 1e-9) for progress in (self._previous, self._now))
        return now > before

    @property
    def seconds_left(self) -> float | None:
        """About how much longer training takes, without evaluations; None before anything is known."""
        return self._seconds * (1 / self._now - 1) if self._now else None
