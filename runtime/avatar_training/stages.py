"""One training stage: budget, learning rate, progress bar, checkpoints and loss curve."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_SAVE_EVERY_S: Final = 45.0
_WARM_UP: Final = 0.03


@dataclass(frozen=True, slots=True)
class Budget:
    """The end of a stage: after `steps`, or earlier after `seconds` of wall time."""

    steps: int
    seconds: float = math.inf


class Stage:
    """The loop of one stage; iterate over it, and report each step's losses.

    Steps use the random numbers of `rng(step)`, so a resumed run gets the same data as an
    uninterrupted one. A stage that ended by time is not reproducible.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        parts: Mapping[str, torch.nn.Module],
        learning_rate: float,
        budget: Budget,
        seed: int,
    ) -> None:
        self.name = name
        self._file = folder / f"{name}.pt"
        self._parts = parts
        self._budget = budget
        self._seed = seed
        self._rate = learning_rate
        parameters = [p for part in parts.values() for p in part.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
        self._parameters = parameters
        self._elapsed = 0.0
        self._step = 0
        self.curve: list[dict[str, float]] = []
        folder.mkdir(parents=True, exist_ok=True)
        if self._file.exists():
            self._load()

    @property
    def progress(self) -> float:
        """Return the used share of the budget, in [0, 1]."""
        return min(1.0, max(self._step / self._budget.steps, self._elapsed / self._budget.seconds))

    def rng(self, step: int) -> np.random.Generator:
        """Return the random numbers of one step."""
        return np.random.default_rng([self._seed, step, *self.name.encode()])

    def __iter__(self) -> Iterator[int]:
        saved = time.monotonic()
        with tqdm(
            total=self._budget.steps, initial=self._step, desc=self.name, mininterval=5
        ) as bar:
            while self.progress < 1.0:
                started = time.monotonic()
                torch.manual_seed(self._seed * 1_000_003 + self._step)
                for group in self._optimizer.param_groups:
                    group["lr"] = self._rate * _shape(self.progress)
                yield self._step
                self._step += 1
                self._elapsed += time.monotonic() - started
                bar.update()
                if self.curve:
                    bar.set_postfix(self.curve[-1], refresh=False)
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def learn(self, loss: torch.Tensor, **shown: float) -> None:
        """Take one optimizer step on `loss`."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        if self._step % 20 == 0:
            values = {"loss": float(loss.detach()), **shown}
            self.curve.append({k: round(v, 5) for k, v in values.items()})

    def report(self) -> dict[str, Any]:
        """Return the entry of this stage in the report."""
        return {
            "steps": self._step,
            "minutes": round(self._elapsed / 60, 2),
            "ended_by_time": self._step < self._budget.steps,
            "first": self.curve[0] if self.curve else None,
            "last": self.curve[-1] if self.curve else None,
        }

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "optimizer": self._optimizer.state_dict(),
            "progress": json.dumps([self._step, self._elapsed, self.curve]),
        }
        temporary = self._file.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.rename(self._file)

    def _load(self) -> None:
        state = torch.load(self._file, weights_only=True)
        for name, part in self._parts.items():
            part.load_state_dict(state["parts"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self._elapsed, self.curve = json.loads(state["progress"])


def _shape(progress: float) -> float:
    if progress < _WARM_UP:
        return max(progress / _WARM_UP, 0.02)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
