"""Starts processes of one JAX program on this host: `start_jax.py N SCRIPT …`.

They end together: when one fails, the others are stopped.
"""

import os
import socket
import subprocess
import sys
import time

count, command = int(sys.argv[1]), [sys.executable, *sys.argv[2:]]
with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
names = ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
processes = [
    subprocess.Popen(
        command,
        env={
            **os.environ,
            **{
                f"KERAS_DISTRIBUTION_{name}": str(value)
                for name, value in zip(
                    names, (f"localhost:{port}", count, number), strict=True
                )
            },
        },
    )
    for number in range(count)
]
codes = [None] * count
while None in codes and not any(codes):
    time.sleep(0.1)
    codes = [each.poll() for each in processes]
for each in processes:
    each.kill()
print("Exit codes:", codes, flush=True)
sys.exit(int(any(codes)))
