"""Five readers on files that are damaged or made up: each ends with a result or a refusal, in seconds and in bounded memory.

    python -m benchmarks.fuzz --minutes 10 --targets image records guard score config

Hypothesis draws the cases: valid files with flipped bits, cut short, with chunks inserted, doubled, swapped or overwritten;
documents with a value, a name or a branch exchanged, under checksums that were made to fit; and bytes of no file. A case fails by
any exception but a refusal, by more than 10 seconds, and by the death of its process. Inputs that fail are kept in `--keep`.
"""

import argparse
import faulthandler
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks import fuzz_targets
from lightning_gradood.core import Refusal

SECONDS = 10
GIBIBYTES = 4
_ROUND = 50  # cases between two looks at the clock
_SLOW = {"config": 10}  # targets that get this fraction of `--cases`


class TooLong(BaseException):
    """A case takes longer than it may; no handler of errors stops it."""


class Outcomes:
    """What became of the cases of a target.

    Args:
        target: its name.
        keep: folder for inputs that fail.
    """

    def __init__(self, target: str, keep: Path) -> None:
        self.target, self.keep = target, keep
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0
        self.failures: list[str] = []

    def run(self, case: Any, reader: Callable[[Any], None]) -> None:
        """Read one case."""
        started = time.perf_counter()
        signal.alarm(SECONDS)
        faulthandler.dump_traceback_later(6 * SECONDS, exit=True)  # where compiled code does not come back
        try:
            reader(case)
            kind = "accepted"
        except Refusal:
            kind = "refused"
        except (Exception, TooLong) as error:
            kind = "failures"
            self._keep(case, error)
        finally:
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
        self.counts[kind] += 1
        self.slowest = max(self.slowest, time.perf_counter() - started)

    def _keep(self, case: Any, error: BaseException) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        if place in self.failures:
            return
        self.failures.append(place)
        self.keep.mkdir(parents=True, exist_ok=True)
        text = "".join(traceback.format_exception(error))
        (self.keep / f"{self.target}_{len(self.failures)}.txt").write_text(
            f"{case!r}\n\n{text}", errors="backslashreplace"
        )

    def summary(self) -> dict[str, Any]:
        """Numbers for the table."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        counts = {name: self.counts[name] for name in ("refused", "accepted", "failures")}
        return {"cases": self.counts.total(), **counts, "slowest": self.slowest, "peak": peak, "places": self.failures}


def work(target: str, minutes: float, cases: int, keep: Path) -> dict[str, Any]:
    """Run the cases of one target in this process, for some minutes or up to a number.

    Args:
        target: one of `fuzz_targets.TARGETS`.
        minutes: how long; 0 for `cases` cases, the same ones every time.
        cases: how many at most.
        keep: folder for inputs that fail.
    """
    warnings.simplefilter("ignore")
    outcomes, cases = Outcomes(target, keep), max(1, cases // _SLOW.get(target, 1))
    signal.signal(signal.SIGALRM, _stop)
    with tempfile.TemporaryDirectory() as folder:
        drawn, reader = fuzz_targets.TARGETS[target](Path(folder))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + GIBIBYTES * 2**30, resource.RLIM_INFINITY))
        end, number = time.monotonic() + 60 * minutes, 0
        while time.monotonic() < end or (not minutes and outcomes.counts.total() < cases):
            _round(outcomes, drawn, reader, number, _ROUND if minutes else min(_ROUND, cases))
            number += 1
    return outcomes.summary()


def _round(
    outcomes: Outcomes, drawn: st.SearchStrategy[Any], reader: Callable[[Any], None], number: int, cases: int
) -> None:
    @seed(number)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn)
    def one(case: Any) -> None:
        outcomes.run(case, reader)

    one()


def _stop(number: int, frame: Any) -> None:
    raise TooLong(f"more than {SECONDS} s")


def main() -> None:
    """Parse flags, run each target in a process of its own and print the table; exit code 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=fuzz_targets.TARGETS, default=list(fuzz_targets.TARGETS))
    parser.add_argument("--minutes", type=float, default=0, help="for each target; by default --cases counts")
    parser.add_argument(
        "--cases", type=int, default=200, help="of each target, a tenth of them for config; always the same"
    )
    parser.add_argument("--keep", type=Path, default=Path("fuzz_failures"), help="folder for inputs that fail")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        print(json.dumps(work(flags.worker, flags.minutes, flags.cases, flags.keep.absolute())))
        return
    print(
        f"{'target':<10}{'cases':>8}{'refused':>9}{'accepted':>10}{'failures':>10}{'slowest s':>11}{'peak MiB':>10}",
        flush=True,
    )
    failed = [target for target in flags.targets if not _line(target, flags)]
    if failed:
        print(f"failed: {', '.join(failed)}; see {flags.keep}")
        sys.exit(1)


def _line(target: str, flags: argparse.Namespace) -> bool:
    words = [
        "--worker",
        target,
        "--minutes",
        str(flags.minutes),
        "--cases",
        str(flags.cases),
        "--keep",
        str(flags.keep),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fuzz", *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{target:<10} died with {done.returncode}: {done.stderr[-1500:]}", flush=True)
        return False
    found = json.loads(done.stdout.splitlines()[-1])
    numbers = f"{found['cases']:>8}{found['refused']:>9}{found['accepted']:>10}{found['failures']:>10}"
    print(f"{target:<10}{numbers}{found['slowest']:>11.2f}{found['peak']:>10.0f}", flush=True)
    for place in found["places"]:
        print(f"    {place}")
    return not found["failures"]


if __name__ == "__main__":
    main()
