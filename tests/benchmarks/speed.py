"""Time to distil, beside rivals, in one sitting and in turn: ratios outlive a drifting machine.

    python tests/benchmarks/speed.py --data DIR --teacher DIR --output DIR [--peers DIR]

DATA is a folder with CLINC150's splits, TEACHER a classifier fine-tuned on them, PEERS a folder of
scripts that distil the same student with other tools and end with a line of JSON; each is run by
this Python, so what it imports has to be on the PYTHONPATH. Prints two Markdown tables.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from kdcli.data import dataset_loading as data
from kdcli.data.tokenization.tokenize import token_lengths, tokenize_dataset
from kdcli.models import model_io
from kdcli.models.model_complexity import count_parameters_and_flops
from kdcli.pipeline import runner
from kdcli.pipeline.options import RunOptions
from kdcli.progress import SilentReporter
from kdcli.recipe.loading import load_recipe
from kdcli.recipe.schema import Recipe

OWN = {
    "kd": [],
    "kd, no dropout": ["distill.dropout=0"],
    "kd, no dropout, a frozen layer": ["distill.dropout=0", "distill.freeze_layers=1"],
}
PEERS = {
    "the book's Trainer": ["book_trainer_clinc.py"],
    "TextBrewer, cached logits": ["textbrewer_clinc.py", "--cache"],
    "torchdistill": ["torchdistill_clinc.py"],
}
KEEP = [0, 2, 4]


@dataclass(frozen=True)
class Timed:
    """What a tool took: seconds of training, and for the whole process megabytes at its peak."""

    seconds: float
    accuracy: float
    megabytes: float
    seconds_to: Mapping[str, float]


class Watch(SilentReporter):
    """Notes when a stage reached which validation accuracy, and its first step."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.first: float | None = None
        self.accuracies: list[tuple[float, float]] = []

    def advance(self, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        """A step is done, or an epoch measured."""
        now = time.monotonic() - self.begun
        self.first = now if self.first is None else self.first
        if figures and "accuracy" in figures:
            self.accuracies.append((now, figures["accuracy"]))


def own(settings: Sequence[str], options: argparse.Namespace, name: str) -> Timed:
    """One of our own: the stages `outputs` and `distill`, the teacher's pass included."""
    folder = options.output / name.replace(", ", "-").replace(" ", "-")
    spoken = _child([sys.executable, __file__, "--one", *settings, *_flags(options, folder)])
    told = json.loads(spoken[0].splitlines()[-1])
    return Timed(told["seconds"], told["accuracy"], spoken[1], told["seconds_to"])


def one(options: argparse.Namespace) -> None:
    """In a process of its own: run, and print a line of JSON."""
    recipe = _recipe(options, options.one)
    watch = Watch()
    runner.run_pipeline(recipe, options.output, SilentReporter(), "student", RunOptions(fresh=True))
    start = watch.begun = time.monotonic()
    run = runner.run_pipeline(recipe, options.output, watch, "distill")
    seconds = time.monotonic() - start
    history = run.records["distill"].result["history"]
    reached = {
        f"{goal:.2f}": next((t for t, a in watch.accuracies if a >= goal), None)
        for goal in (0.90, 0.93)
    }
    told = {"seconds": seconds, "accuracy": history[-1]["accuracy"], "seconds_to": reached}
    print(json.dumps(told))


def rival(command: Sequence[str], options: argparse.Namespace) -> Timed:
    """Another tool, by its script."""
    script, *flags = command
    given = {"teacher": options.teacher, "out": options.output / "rival", "data": options.data}
    given |= {"keep": ",".join(map(str, KEEP)), "lr": options.rate, "epochs": options.epochs}
    given |= {"T": 2, "alpha": 0.5, "threads": torch.get_num_threads()}
    said = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    out, megabytes = _child([sys.executable, str(options.peers / script), *said, *flags])
    told = json.loads(out.splitlines()[-1])
    return Timed(told["train_wall_s"], told["val_accuracy"], megabytes, {})


def starts(options: argparse.Namespace) -> dict[str, float]:
    """Seconds from the command to its help, its plan, and its first step."""
    kd = [sys.executable, "-m", "kdcli"]
    folder = options.output / "start"
    settings = [part for s in _settings(options) for part in ("--set", s)]
    distill = [*kd, "distill", "clinc_plus", *settings, "--output", str(folder)]
    found = {"kd --help": _seconds([*kd, "--help"])}
    found["kd distill --dry-run"] = _seconds([*distill, "--dry-run"])
    begun = time.monotonic()
    _child([sys.executable, __file__, "--first", *_flags(options, folder)])
    found["the pipeline, first step of the student"] = time.monotonic() - begun
    return found


class First(SilentReporter):
    """Ends the process at the student's first step."""

    def start(self, stage: str, doing: str) -> None:
        """A stage begins."""
        self.stage = stage

    def advance(self, done: int, total: int, figures: Mapping[str, float] | None = None) -> None:
        """A step is done."""
        if self.stage == "distill":
            os._exit(0)


def peak() -> float:
    """The most floating-point operations a second that a matrix product reaches here."""
    best = 0.0
    for width in (1024, 2048):
        left, right = torch.rand(width, width), torch.rand(width, width)
        for _ in range(40):
            start = time.perf_counter()
            left @ right
            best = max(best, 2 * width**3 / (time.perf_counter() - start))
    return best


def work(options: argparse.Namespace) -> float:
    """Operations that the task takes, of unpadded tokens.

    The teacher's pass over train and validation, once, and of the student three passes' worth of
    train and one of validation in each epoch.
    """
    recipe = _recipe(options, [])
    folder = model_io.locate_model(str(options.teacher))
    teacher, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
    splits = data.load_dataset_splits(recipe.data, 0).splits
    train, validation = (
        float(token_lengths(tokenize_dataset(splits[name], tokenizer, 512)).sum())
        for name in ("train", "validation")
    )
    share = len(KEEP) / teacher.config.num_hidden_layers
    tokens = train + validation + options.epochs * share * (3 * train + validation)
    return count_parameters_and_flops(teacher).flops_per_token * tokens


def _settings(options: argparse.Namespace) -> list[str]:
    return [
        f"data.dataset={options.data}", f"teacher.model={options.teacher}",
        "teacher.fine_tune=null", "student.drop_every=null", f"student.keep_layers={KEEP}",
        "student.architecture=same", f"distill.learning_rate={options.rate}",
        f"distill.epochs={options.epochs}", "report_to=[]",
    ]  # fmt: skip


def _recipe(options: argparse.Namespace, settings: Sequence[str]) -> Recipe:
    return load_recipe("clinc_plus", [*_settings(options), *settings])


def _flags(options: argparse.Namespace, folder: Path) -> list[str]:
    given = {"data": options.data, "teacher": options.teacher, "output": folder}
    given |= {"epochs": options.epochs, "rate": options.rate}
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def _child(command: Sequence[str]) -> tuple[str, float]:
    """A command's output, and its peak memory in megabytes."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return out, usage.ru_maxrss / 1024


def _seconds(command: Sequence[str]) -> float:
    def once() -> float:
        start = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        return time.monotonic() - start

    return min(once() for _ in range(3))


def main() -> None:
    """Run each in turn, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--one", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        return one(options)
    if options.first:
        runner.run_pipeline(
            _recipe(options, []), options.output, First(), "distill", RunOptions(fresh=True)
        )
    options.output.mkdir(parents=True, exist_ok=True)
    found = {}
    peaks = peak()
    for name, settings in OWN.items():
        found[name] = own(settings, options, name)
        peaks = max(peaks, peak())
        print(name, found[name], file=sys.stderr)
    for name, command in PEERS.items() if options.peers is not None else ():
        found[name] = rival(command, options)
        print(name, found[name], file=sys.stderr)
    operations = work(options)
    base = found["kd"].seconds
    print("| | seconds | ratio | accuracy | of the peak | MB | to 0.90 | to 0.93 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, it in found.items():
        share = operations / it.seconds / peaks
        to = [f"{t:.0f} s" if t else "" for t in map(it.seconds_to.get, ("0.90", "0.93"))]
        print(f"| {name} | {it.seconds:.0f} | {it.seconds / base:.2f} | {it.accuracy:.2%} | "
              f"{share:.0%} | {it.megabytes:,.0f} | {to[0]} | {to[1]} |")  # fmt: skip
    print(f"\nThe matrix product's peak: {peaks / 1e9:.0f} GFLOP/s.\n")
    print("| from the command to | seconds |\n| --- | ---: |")
    for name, seconds in starts(options).items():
        print(f"| {name} | {seconds:.2f} |")
    return None


if __name__ == "__main__":
    main()
