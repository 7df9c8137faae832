"""Accuracy, size and speed of a run's teacher and student in each number format.

    python tests/benchmarks/number_formats.py RUN [--threads 1 2]

RUN is a finished run with a validation and a test split. `trimmed` is its student with the 16,000
vocabulary entries that its training texts need, without further training. Every format is measured
on the test split, in the runtime that runs it, with the threshold of `kd.json` (the teacher's is
chosen on validation). Other labels are those that differ from PyTorch's in float32, with a 95 %
Wilson interval. Models take turns at every text.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest

import kdcli
from kdcli.evaluation.efficiency.latency import BATCH_SIZE
from kdcli.evaluation.output.evaluation_schema import exported_model_suffix
from kdcli.models import model_io
from kdcli.onnx_export.precision_gates import find_exported_file
from kdcli.recipe.loading import load_recipe
from kdcli.runtime import Classifier

FORMATS = (
    ("onnx", "float32"),
    ("onnx", "int8"),
    ("onnx", "int8-weights"),
    ("openvino", "int8"),
)
FIRST_ANSWER = {
    "exported": "from kdcli.runtime import Classifier\n"
    "Classifier(F, file=N, num_threads=T).predict(['hello'])",
    "torch": "import torch\ntorch.set_num_threads(T)\nfrom transformers import pipeline\n"
    "pipeline('text-classification', F)('hello')",
}


def export_all(run: Path, folder: Path) -> dict[str, Path]:
    """Export teacher, student and a student with a small vocabulary in every format.

    Returns:
        The paths to measure, by name.
    """
    # The copy of the recipe says which texts the models are measured on.
    copy = folder / "run"
    copy.mkdir()
    shutil.copy(run / "recipe.yaml", copy)
    for part in ("teacher", "student"):
        shutil.copytree(run / part, copy / part, ignore=shutil.ignore_patterns("onnx"))
    trimmed = copy / "trimmed"
    data = load_recipe(str(run / "recipe.yaml")).data
    kdcli.init_student(
        run / "student",
        output=trimmed,
        data=data.dataset,
        text=data.text,
        keep_layers=[*range(model_io.load_config(run / "student").num_hidden_layers)],
        trim_vocab=True,
    )
    shutil.copy(run / "student" / "kd.json", trimmed)
    paths = {}
    for part in ("teacher", "student", "trimmed"):
        paths[part] = source = copy / part
        for export_format, precision in FORMATS:
            name = part + exported_model_suffix({"format": export_format, "precision": precision})
            output = kdcli.export(
                source,
                folder / name,
                format=export_format,
                precision=precision,
                max_drop=["accuracy=1"],
            )
            paths[name] = find_exported_file(output)[1]
    return paths


def accuracy_rows(paths: dict[str, Path], run: Path) -> dict[str, dict]:
    """Measure the accuracy of every format on the test split."""
    report = kdcli.evaluate(
        [str(path) for path in paths.values()],
        splits=["test"],
        overrides={"evaluate.latency_texts": 2},
    )
    names = dict(zip(paths, (m["name"] for m in report.evaluation["models"]), strict=True))
    predictions = report.comparison.predictions["test"]
    rows = {}
    for key, name in names.items():
        metrics = report.metrics[name]["test"]
        source = predictions[names[key.split("-")[0]]].predicted
        changed = int((predictions[name].predicted != source).sum())
        interval = binomtest(changed, len(source)).proportion_ci(method="wilson")
        rows[key] = {
            "in scope": metrics.get("in_scope_accuracy", metrics["accuracy"]),
            "with threshold": metrics.get("accuracy_at_threshold", metrics["accuracy"]),
            "changed": changed,
            "changed, low": interval.low,
            "changed, high": interval.high,
            "texts": len(source),
        }
    return rows


def classifiers(paths: dict[str, Path], threads: int) -> dict:
    """Return a function from texts to logits for each path."""
    torch.set_num_threads(threads)
    functions = {}
    for name, path in paths.items():
        if path.is_file():
            folder = model_io.get_model_folder(path)
            functions[name] = Classifier(folder, file=path.name, num_threads=threads).predict_logits
        else:
            model, tokenizer = model_io.load_classifier(path), model_io.load_tokenizer(path)
            functions[name] = partial(predict_with_pytorch, model, tokenizer)
    return functions


def predict_with_pytorch(model, tokenizer, texts: list[str]) -> torch.Tensor:
    """Return the logits of texts, read as one padded batch."""
    inputs = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).logits


def speed_rows(paths: dict[str, Path], texts: list[str], threads: int) -> dict[str, dict]:
    """Time every format: texts one by one, and in batches, the formats in turn."""
    functions = classifiers(paths, threads)
    batches = [texts[i : i + BATCH_SIZE] for i in range(0, 8 * BATCH_SIZE, BATCH_SIZE)]
    seconds = {name: {"one": [], "batch": []} for name in functions}
    for kind, items in (("one", [[text] for text in texts]), ("batch", batches)):
        for index, item in enumerate([*items[:20], *items]):  # the first are a warm-up
            for name, classify in functions.items():
                start = time.perf_counter()
                classify(item)
                if index >= len(items[:20]):
                    seconds[name][kind].append(time.perf_counter() - start)
    return {
        name: {
            "ms": 1e3 * np.median(times["one"]),
            "p99 ms": 1e3 * np.percentile(times["one"], 99),
            "texts/s": BATCH_SIZE / np.median(times["batch"]),
        }
        for name, times in seconds.items()
    }


def first_answer_seconds(path: Path, threads: int) -> float:
    """Return the processor time of a new process from its start to its first answer."""
    exported = path.is_file()
    folder = path.parent.parent if exported else path
    values = f"F, N, T = {str(folder)!r}, {path.name!r}, {threads}\n"
    code = values + FIRST_ANSWER["exported" if exported else "torch"]
    before = os.times()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def megabytes(path: Path) -> float:
    """Return the size of a model's weights or exported file."""
    if path.is_dir():
        return model_io.get_weights_megabytes(path)
    return Classifier(path.parent.parent, file=path.name).num_bytes / 1e6


def main() -> None:
    """Print a table for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--texts", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        paths = export_all(options.run, Path(scratch))
        accuracy = accuracy_rows(paths, options.run)
        corpus = kdcli.evaluate(
            str(paths["student"]), splits=["test"], overrides={"evaluate.latency_texts": 1}
        ).comparison.corpus
        texts = list(corpus.splits["test"]["text"][: options.texts])
        texts = (texts * (8 * BATCH_SIZE // len(texts) + 1))[: max(options.texts, 8 * BATCH_SIZE)]
        for threads in options.threads:
            speeds = speed_rows(paths, texts, threads)
            print(f"\n{threads} thread(s)\n")
            print("| model | in scope | with threshold | other labels | MB | ms | p99 | texts/s "
                  "| first answer |")  # fmt: skip
            print("| --- |" + " ---: |" * 8)
            for name, path in paths.items():
                row, speed = accuracy[name], speeds[name]
                low, high = 100 * row["changed, low"], 100 * row["changed, high"]
                cells = (
                    name,
                    f"{100 * row['in scope']:.2f} %",
                    f"{100 * row['with threshold']:.2f} %",
                    f"{row['changed']} of {row['texts']} ({low:.2f} to {high:.2f} %)",
                    f"{megabytes(path):.1f}",
                    f"{speed['ms']:.2f}",
                    f"{speed['p99 ms']:.2f}",
                    f"{speed['texts/s']:.0f}",
                    f"{first_answer_seconds(path, threads):.2f} s",
                )
                print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
