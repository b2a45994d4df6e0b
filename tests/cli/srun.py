"""A stand-in for SLURM's `srun` on one machine: `python srun.py NTASKS COMMAND ...` sets its variables and passes signals on."""

import os
import signal
import subprocess
import sys

tasks, command = int(sys.argv[1]), sys.argv[2:]
job = {
    "SLURM_JOB_ID": str(os.getpid()),
    "SLURM_JOB_NAME": "test",
    "SLURM_NTASKS": str(tasks),
    "SLURM_NTASKS_PER_NODE": str(tasks),
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}
started = [
    subprocess.Popen(command, env=os.environ | job | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
    for rank in range(tasks)
]
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: [one.send_signal(number) for one in started])
codes = [one.wait() for one in started]
sys.stderr.write(f"srun: exit codes {codes}\n")
sys.exit(max(abs(code) for code in codes))
