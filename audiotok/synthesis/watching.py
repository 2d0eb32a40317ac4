"""Speaking as another way of speaking does, and keeping what it generated and the time that took: for those who measure."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch

from audiotok.decoding.acceptance import Rule
from audiotok.decoding.autoregressive import Generated
from audiotok.decoding.samplers import Sampler
from audiotok.synthesis.drafting import Drafting
from audiotok.synthesis.scripts import Script, Speaking


@dataclass
class Watched:
    """`generated` by the line of the script; `cpu_seconds` (of all threads) and `wall_seconds` of generation alone, without the sound's."""

    drafting: Drafting
    generated: dict[int, Generated] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    def prepare(self, make: Callable[[Callable[..., Any], Path], Speaking]) -> "Watched":
        return Watched(self.drafting.prepare(make))

    def speak(
        self, script: Script, model: Speaking, *, rule: Rule, rows: int, sampler: Sampler, device: torch.device
    ) -> Iterator[Generated]:
        coming = self.drafting.speak(script, model, rule=rule, rows=rows, sampler=sampler, device=device)
        while (one := self._timed(coming)) is not None:
            self.generated[script.lines[one.job]] = one
            yield one

    def _timed(self, coming: Iterator[Generated]) -> Generated | None:
        cpu, wall = process_time(), perf_counter()
        one = next(coming, None)
        self.cpu_seconds += process_time() - cpu
        self.wall_seconds += perf_counter() - wall
        return one
