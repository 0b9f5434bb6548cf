"""Runs the papers' experiments as the files in `examples/conf/` say.

    python examples/run.py -cn higgs                       # once
    python examples/run.py -cn higgs --multirun            # the whole table
    python examples/run.py -cn higgs --multirun method=weights seed=0,1,2
    python examples/run.py -cn higgs --cfg job             # what can be set

A file of `conf/` is a table of a page of `docs/results/`: an experiment, what
is set, and what is swept over (`hydra.sweeper.params`). Each training that is
finished adds a line to `docs/results/data/<table>.jsonl` (`results=folder` for
another place), and is not run again; one that was broken off resumes at its
last checkpoint. `python examples/results.py` makes the tables from the lines.

A cluster takes a sweep at once, with SLURM by `pip install
hydra-submitit-launcher`, `hydra/launcher=submitit_slurm`, and, for its jobs to
find this folder, `PYTHONPATH=examples`.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
import json
import logging
import os
import platform
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hydra
import keras
from experiments import EXPERIMENTS, rows
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

logging.getLogger("absl").setLevel("WARNING")  # Hydra shows what it says.
for name in EXPERIMENTS:
    module = importlib.import_module(f"experiments.{name}")
    ConfigStore.instance().store(
        name, module.Config, group="experiment", package="_global_"
    )


@hydra.main(version_base="1.3", config_path="conf")
def main(composed: DictConfig) -> None:
    """Trains once, unless it was done before, and adds a row."""
    config: Any = OmegaConf.to_object(composed)
    run = sys.modules[type(config).__module__].run
    job = HydraConfig.get().job
    path = Path(config.results) / f"{job.config_name}.jsonl"
    if any(type(config)(**row["config"]) == config for row in rows.read(path)):
        print(f"{path} has {job.override_dirname or 'it'} already")
        return
    settings = rows.settings(config)
    text = json.dumps(settings, sort_keys=True)
    name = f"{job.config_name}-{hashlib.sha1(text.encode()).hexdigest()[:8]}"
    config.checkpoints = str(Path(config.checkpoints) / name)
    keras.utils.clear_session()
    keras.utils.set_random_seed(config.seed)
    start = time.perf_counter()
    result = run(config)
    given = HydraConfig.get().overrides.task
    overrides = [each for each in given if each.split("=")[0] in settings]
    row = {
        "config": settings,
        **result,
        "run_seconds": time.perf_counter() - start,
        "command": " ".join(["run.py -cn", job.config_name, *overrides]),
        **machine(),
    }
    rows.append(path, row)
    shutil.rmtree(config.checkpoints, ignore_errors=True)
    numbers = {k: v for k, v in rows.short(result).items() if not_long(v)}
    print(f"{path} has a new row: {numbers}")


def not_long(value: Any) -> bool:
    return not isinstance(value, list | dict)


def machine() -> dict[str, Any]:
    """Returns when and where it ran, and with what."""
    backend = keras.backend.backend()
    return {
        "date": datetime.date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "keras": keras.__version__,
            backend: importlib.import_module(backend).__version__,
            "keras-apoptosis": metadata.version("keras-apoptosis"),
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, "
        f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads",
    }


if __name__ == "__main__":
    main()
