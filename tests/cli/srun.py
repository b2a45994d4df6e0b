"""A stand-in for SLURM's `srun --kill-on-bad-exit` on one machine: `python srun.py NTASKS COMMAND ...`; it passes signals on."""

import os
import signal
import subprocess
import sys
import time

tasks, command = int(sys.argv[1]), sys.argv[2:]
job = {"JOB_ID": os.getpid(), "JOB_NAME": "test", "NTASKS": tasks, "NTASKS_PER_NODE": tasks, "NNODES": 1, "NODEID": 0}
job = os.environ | {f"SLURM_{name}": str(value) for name, value in job.items()} | {"SLURM_NODELIST": "localhost"}
ranks = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(tasks)]
started = [subprocess.Popen(command, env=job | rank) for rank in ranks]


def send(number: int, _=None) -> None:
    for one in started:
        one.send_signal(number)


signal.signal(signal.SIGTERM, send)
signal.signal(signal.SIGUSR1, send)
while not any(one.poll() for one in started) and any(one.poll() is None for one in started):
    time.sleep(0.1)
if any(one.poll() for one in started):
    send(signal.SIGTERM)
codes = [one.wait() for one in started]
sys.stderr.write(f"srun: exit codes {codes}\n")
sys.exit(max(abs(code) for code in codes))
