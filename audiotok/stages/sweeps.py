"""A stage over every combination of settings with several values, run by Hydra's own sweepers and launchers.

`audiotok train RECIPE train.learning_rate=1e-4,3e-4 --multirun` runs its jobs one after the other; `hydra/launcher=submitit_slurm` and its
keys (hydra.launcher.partition=gpu) have Slurm run them, for which `pip install 'audiotok[slurm]'`. With `engine=ray` the work of each job
of tokenize, reduce, evaluate and bench is done on a Ray cluster, job by job; hydra-ray-launcher 1.2, which would have several jobs there at
once, is not offered, because it takes cloudpickle back from version 3 to 2.

A job's outputs lie in a folder named by what differs, EXP_DIR/train.learning_rate=0.0001, and what a launcher keeps in EXP_DIR/multirun.
Launchers and sweepers are chosen on the command line alone: a recipe from elsewhere cannot name code that they would import.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null", "hydra.sweep.subdir=${hydra.job.num}")

MACHINERY = ["launcher", "sweeper", "callbacks", "job_logging", "hydra_logging"]

Job = Callable[[list[str]], None]  # what a job does with its overrides


def multirun(job: Job, *, configs: Path, found_by: Sequence[str], overrides: Sequence[str], exp_dir: str) -> None:
    """Call `job` with each combination of the overrides' values, wherever the launcher has it called, and an exp_dir of its own.

    `found_by` are the overrides that find the recipe, `exp_dir` that of the recipe by itself. Raises ValueError where no override has
    several values and where the recipe itself configures Hydra, and whatever a job raises.
    """
    if "://" in exp_dir:
        raise ValueError(
            f"--multirun keeps its own records in exp_dir, which is {exp_dir}; set one on this machine, exp_root may stay there"
        )
    swept = [text.partition("=")[0] for text in overrides if is_sweep(text)]
    if not swept:
        raise ValueError("--multirun wants a setting with several values, such as train.learning_rate=1e-4,3e-4")
    task = partial(_job, job=job, swept=swept, num_found=len([text for text in found_by if not text.startswith("hydra")]), exp_dir=exp_dir)
    own = [text for text in overrides if text.startswith("hydra")]
    with initialize_config_dir(str(configs), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
    assert hydra is not None, "it was initialised just now"
    quiet = [*QUIET, f"hydra.sweep.dir='{exp_dir}/multirun'"]
    told = [*quiet, *found_by, *overrides]
    if _machinery(hydra, told) != _machinery(hydra, [*quiet, *own]):
        raise ValueError(
            "the recipe, or a folder configs/ here, configures Hydra's launcher, sweeper, callbacks or logs; give them as key=value"
        )
    for returned in hydra.multirun("config", task_function=task, overrides=told)[0]:
        _ = returned.return_value  # raises what the job did


def is_sweep(override: str) -> bool:
    """Whether an override has several values."""
    return OverridesParser.create().parse_override(override).is_sweep_override()


def _machinery(hydra: Hydra, overrides: Sequence[str]) -> Any:
    """What Hydra would import code by."""
    cfg = hydra.compose_config("config", overrides=list(overrides), run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    return OmegaConf.to_container(OmegaConf.masked_copy(cfg.hydra, MACHINERY), resolve=False)


def _job(_: DictConfig, *, job: Job, swept: Sequence[str], num_found: int, exp_dir: str) -> None:
    """One job, in whatever process the launcher runs it."""
    told = list(HydraConfig.get().overrides.task)[num_found:]
    own = [text for text in told if text.partition("=")[0] in swept]
    job([*told, f"exp_dir='{exp_dir}/{named(own)}'"])


def named(overrides: Sequence[Any]) -> str:
    """A folder's name that tells the overrides."""
    return re.sub(r"[^\w.,=+-]+", "-", ",".join(sorted(overrides)))
