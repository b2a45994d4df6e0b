"""What a run tells: lines for whoever watches it, which its folder's `run.log` keeps."""

import sys


def say(line: str) -> None:
    """Print a line on standard error."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
