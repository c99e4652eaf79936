"""One cell of a study: one algorithm on one data set with one seed. Its folder is a run's."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from dom2_fast import algos
from dom2_fast import config as configs


@dataclass(frozen=True)
class Cell:
    """What tells a cell from the others.

    Attributes:
        task, kind: of the data set, such as "simple_spread" and "expert".
        label: what tables call the method; algo: the algorithm.
        settings: of the algorithm, beside its seed and its reweighting.
        reweight: its `weights`, None: the algorithm's own.
        fraction: of the data's trajectories, in (0, 1].
        seed: of the data and of the run.
        steps: updates, None: the number that belongs to the settings.
    """

    task: str
    kind: str
    label: str
    algo: str
    settings: dict[str, Any] = field(default_factory=dict)
    reweight: str | None = None
    fraction: float = 1.0
    seed: int = 0
    steps: int | None = None

    @property
    def name(self) -> str:
        """TASK-KIND-LABEL[-fFRACTION][-wREWEIGHT]-sSEED, the name of its folder."""
        parts = [self.task, self.kind, self.label]
        if self.fraction != 1:
            parts.append(f"f{self.fraction:g}")
        if self.reweight is not None:
            parts.append(f"w{self.reweight}")
        return re.sub(r"[^\w.+-]", "_", "-".join([*parts, f"s{self.seed}"]))

    @property
    def method(self) -> tuple[str, str | None, float]:
        """What is compared over seeds and data sets: (label, reweighting, fraction)."""
        return self.label, self.reweight, self.fraction

    def config(self):
        """The algorithm's settings as `train` takes them.

        Raises:
            Dom2Error: an unknown setting, a value that can't be.
        """
        given = self.settings | {"seed": self.seed}
        if self.reweight is not None:
            given["weights"] = self.reweight
        return configs.from_dict(
            algos.algorithm(self.algo).config_class, given, f"settings of {self.label}"
        )

    def settled(self) -> dict[str, Any]:
        """The same as plain values, with what is left out as it holds on this data."""
        config = algos.algorithm(self.algo).settled(self.config(), self.task, self.kind)
        return configs.to_dict(config)
