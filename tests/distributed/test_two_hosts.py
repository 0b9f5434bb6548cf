"""Two hosts of our own: network namespaces, joined by a cable, over ssh."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.distributed.launching import (
    ROOT,
    SCRIPTS,
    environment,
    needs_launcher,
)

HOSTS = Path(__file__).parent / "two_hosts.sh"


def launch_on_hosts(launcher, script, *arguments):
    needs_launcher(launcher)
    if os.geteuid() != 0:
        pytest.skip("only root may make hosts of its own")
    name = {"gloo": "horovodrun", "mpi": "mpirun"}[launcher]
    done = subprocess.run(
        [HOSTS, sys.executable, SCRIPTS / script, *map(str, arguments)],
        env={**environment(), "LAUNCHER": name},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    if done.returncode == 77:
        pytest.skip(f"no hosts of our own here: {done.stdout.strip()}")
    return done


@pytest.mark.parametrize("launcher", ["gloo", "mpi"])
def test_hosts_are_alike_after_removals(launcher, tmp_path):
    done = launch_on_hosts(launcher, "training.py", tmp_path, "plain")
    assert done.returncode == 0, done.stdout[-6000:]
    first, second = (np.load(tmp_path / f"plain-{r}.npz") for r in (0, 1))
    assert first["events"] == 3
    for key in first.files:
        np.testing.assert_array_equal(first[key], second[key], key)
    # 10 steps an epoch: what was reduced went through the cable.
    sent = int(re.search(r"sent (\d+)", done.stdout)[1])
    assert sent > 10 * first["bytes"][:, 0].sum()


def test_a_host_whose_rank_dies_ends_the_job():
    done = launch_on_hosts("gloo", "failing.py", "kill", 6)
    assert done.returncode != 0
    assert "FINISHED" not in done.stdout
    assert "Horovod has been shut down" in done.stdout
