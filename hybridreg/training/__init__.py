"""Training of every network: what is learned (Task), and how it is learned (train)."""

from hybridreg.training.run import require_lightning, train
from hybridreg.training.task import Batch, Task

__all__ = ["Batch", "Task", "require_lightning", "train"]
