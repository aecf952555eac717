"""What reading a published prior gives, whatever its family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from sundae_rt.schedule import Schedule


@dataclass(frozen=True, slots=True)
class PublishedPrior:
    """A published prior, in evaluation mode, and what its config says of it.

    ``prior``: the model, whose ``config`` has its sizes; ``labels``: names by true class, or None; ``schedule``: the
    config's sampling settings; ``provenance``: free JSON; ``family``: the kind of model, as a manifest names it.
    """

    prior: nn.Module
    labels: tuple[str, ...] | None
    schedule: Schedule
    provenance: dict[str, Any]
    family: str = "sundae"
