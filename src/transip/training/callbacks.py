"""What may look on while a model is trained; pass yours to `train` with ``callbacks=``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transip.training.trainer import Trainer


class Callback:
    """Called by the trainer in every process; override what you need. The training clock stands still meanwhile."""

    def on_evaluation(self, trainer: Trainer, record: dict[str, Any]) -> None:
        """After an evaluation; `record` is then written to metrics.jsonl, and entries may be added to it."""

    def on_checkpoint(self, trainer: Trainer) -> None:
        """After a checkpoint has been written."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last step, its evaluation and its checkpoint."""
