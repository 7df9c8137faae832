"""Kill `kd distill` at random moments until it has been killed often enough.

    python tests/benchmarks/faults.py --kills 50

Each run of the pipeline is killed (SIGKILL) again and again, and started again by the same
command, until it gets through; then its student and figures are compared with those of a run
that nobody touched. Prints a table of the stages that the kills fell in.
"""

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kdcli.safe_files import sha256_of_file

COMMAND = [
    sys.executable, "-m", "kdcli", "distill", "quickstart", "--checkpoint-every", "10",
    "--set", "teacher.fine_tune.epochs=2", "--set", "distill.epochs=3",
    "--set", "evaluate.latency_texts=20",
]  # fmt: skip


def start(folder: Path) -> subprocess.Popen[str]:
    """The command in a process group of its own, its words in a file."""
    folder.mkdir(exist_ok=True)
    with (folder / "stderr").open("w") as words:
        return subprocess.Popen(
            [*COMMAND, "--output", str(folder / "run")],
            stdout=subprocess.DEVNULL,
            stderr=words,
            start_new_session=True,
            text=True,
        )


def outcome(folder: Path) -> dict[str, object]:
    """What must come out the same: the weights' digests, and the figures but for the times."""
    run = folder / "run"
    models = json.loads((run / "evaluation.json").read_text())["models"]
    figures = {m["name"]: m["splits"] for m in models}
    weights = {n: sha256_of_file(run / n / "model.safetensors") for n in ("teacher", "student")}
    history = json.loads((run / "run.json").read_text())["stages"]["distill"]["result"]["history"]
    return {"figures": figures, "weights": weights, "history": history}


def present_stage(folder: Path) -> str:
    """The stage that the command last spoke of."""
    lines = (folder / "stderr").read_text().splitlines()
    stages = ("teacher", "student", "outputs", "distill", "evaluate", "settings", "page", "card")
    named = [line.partition(":")[0] for line in lines]
    return next((name for name in reversed(named) if name in stages), "start-up")


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--longest", type=float, default=20.0, help="seconds before a kill")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    place = Path(tempfile.mkdtemp())
    began = time.monotonic()
    assert start(place / "whole").wait() == 0, (place / "whole/stderr").read_text()
    expected = outcome(place / "whole")
    print(f"unbroken: {time.monotonic() - began:.0f} s", flush=True)
    kills: collections.Counter[str] = collections.Counter()
    same: collections.Counter[str] = collections.Counter()
    runs = 0
    while kills.total() < options.kills:
        runs += 1
        folder = place / f"run-{runs}"
        fell = collections.Counter[str]()
        process = start(folder)
        while True:
            try:
                process.wait(random.uniform(0.3, options.longest))
                break
            except subprocess.TimeoutExpired:
                fell[present_stage(folder)] += 1
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                process = start(folder)
        assert process.returncode == 0, (folder / "stderr").read_text()
        alike = outcome(folder) == expected
        kills += fell
        same += fell if alike else collections.Counter()
        print(f"run {runs}: {fell.total()} kills, {'the same' if alike else 'ANOTHER'}", flush=True)
    print("\n| killed in | kills | ended in the same bits |\n| --- | ---: | ---: |")
    for stage, count in [*kills.most_common(), ("all", kills.total())]:
        print(f"| {stage} | {count} | {same[stage] if stage != 'all' else same.total()} |")
    sys.exit(0 if same == kills else 1)


if __name__ == "__main__":
    main()
