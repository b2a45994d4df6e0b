"""What marks change: a guard refitted with parts of what it has flagged, each measured on further images.

    python -m benchmarks.refitting --guard runs/r20/guard --normal data/cifar10/test \\
        --anomalies data/svhn_digits/test data/places/test --unmarked data/tiny_imagenet/test

Prints a Markdown table: share flagged and AUROC against normal images, in %. The second folder of anomalies is marked by
its group alone. Images that the guard was fitted or calibrated on are left out; each folder is named as the one above it.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from lightning_gradood.guard import Guard, Marks, read_marked, refit
from lightning_gradood.metrics import auroc
from lightning_gradood.records import read_rows
from lightning_gradood.report import Triage


def drawn(folder: str, known: set[str], sizes: Sequence[int]) -> list[list[str]]:
    """Disjoint random samples of a folder's files, without those that are known."""
    paths = sorted(str(one.absolute()) for one in Path(folder).rglob("*") if one.is_file())
    chosen = random.Random(0).sample([one for one in paths if one not in known], sum(sizes))
    ends = np.cumsum(sizes).tolist()
    return [chosen[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def scores(guard: Guard, paths: Sequence[str]) -> np.ndarray:
    """Scores of image files."""
    return np.array([verdict.score for verdict in guard.score_files(paths)], dtype=float)


def marks_of(
    group_of: Mapping[str, str], source_of: Mapping[str, str], usual: Sequence[str]
) -> Iterator[tuple[str, list[Marks]]]:
    """What is marked, in words, and the marks of one refit or of several in turn."""
    first, second = (name for name in dict.fromkeys(source_of.values()) if name != "normal")
    one = {path: first for path in group_of if source_of[path] == first}
    groups = Counter(group for path, group in group_of.items() if source_of[path] == second)
    largest = groups.most_common(1)[0][0]
    group = {path: second for path in group_of if (group_of[path], source_of[path]) == (largest, second)}
    alarms = {path: "normal" for path in group_of if source_of[path] == "normal"}
    missed = sum(source_of[path] != "normal" for path in usual) / len(usual)
    yield "nothing: the old guard", []
    yield f"the {len(one)} of {first}", [Marks(one)]
    yield f"one group, {len(group)} of {second}", [Marks(group)]
    yield f"{first}, then that group", [Marks(one), Marks(group)]
    yield f"the {len(alarms)} false alarms alone", [Marks(alarms)]
    every = {path: source_of[path] for path in group_of}
    yield f"everything flagged; {100 * missed:.0f} % of group 0 are anomalies", [Marks(every, usual, len(usual))]


def main() -> None:
    """Score, group and mark 400 normal images and 100 of each anomaly, refit, and score others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guard", required=True, help="folder of a guard")
    parser.add_argument("--normal", required=True, help="folder of images like those of the guard")
    parser.add_argument("--anomalies", required=True, nargs=2, help="two folders, images of which are marked")
    parser.add_argument("--unmarked", required=True, help="a folder of anomalies that are never marked")
    given = parser.parse_args()
    guard = Guard.load(given.guard)
    known = set(guard.known.names)
    names = {Path(folder).absolute().parent.name: folder for folder in (*given.anomalies, given.unmarked)}
    marking, testing, source_of = dict[str, list[str]](), dict[str, list[str]](), dict[str, str]()
    marking["normal"], testing["normal"] = drawn(given.normal, known, (400, 400))
    for name, folder in names.items():
        last = folder == given.unmarked
        marking[name], testing[name] = drawn(folder, known, (0, 300) if last else (100, 200))
    source_of = {path: name for name, paths in marking.items() for path in paths}
    triage = Triage()
    for path, verdict in zip(source_of, guard.score_files([*source_of]), strict=True):
        triage.add(path, verdict)
    with tempfile.TemporaryDirectory() as folder:
        triage.write(Path(folder), guard, given.guard)
        table = read_rows(Path(folder, "marks.csv"))
    group_of = {
        path: str(group)
        for path, group in zip(table["path"], table["group"], strict=True)
        if path != "*" and str(group) != "0"
    }
    usual = [path for path, _ in triage.usual]
    sys.stdout.write(f"{len(group_of)} flagged in {len(set(group_of.values()))} groups\n\n")
    sys.stdout.write(f"| marked | {' | '.join(testing)}, never marked |\n|---|{'---|' * len(testing)}\n")
    for words, several in marks_of(group_of, source_of, usual):
        new = guard
        for marks in several:
            new, _ = refit(new, read_marked(new, marks))
        found = {name: scores(new, paths) for name, paths in testing.items()}
        cells = [f"{100 * np.mean(found['normal'] > new.threshold):.1f}"]
        for name in names:
            labels = np.repeat([0, 1], [len(found["normal"]), len(found[name])])
            area = auroc(np.concatenate([found["normal"], found[name]]), labels)
            cells.append(f"{100 * np.mean(found[name] > new.threshold):.1f}, {100 * area:.1f}")
        sys.stdout.write(f"| {words} | {' | '.join(cells)} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
