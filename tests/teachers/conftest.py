"""Texts whose labels a planted word decides, while the labels given for training are shuffled."""

import json

import numpy as np
import pytest

from kdcli.pipeline import runner
from kdcli.pipeline.options import RunOptions
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import Recipe

WORDS = ("parcel", "refund", "password")
OTHERS = ("size", "invoice", "delivery", "order", "account")
FIT = {"batch_size": 16, "learning_rate": 3e-3, "epochs": 8}


def label_of(text):
    """What the teacher knows."""
    return next(word for word in WORDS if word in text.split())


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    """A folder of JSON lines: the labels of train are shuffled, those of the others true."""
    folder, random = tmp_path_factory.mktemp("planted"), np.random.default_rng(0)
    for split, count in (("train", 240), ("validation", 60), ("test", 60)):
        texts = [
            " ".join(random.permutation([*random.choice(OTHERS, 2), WORDS[i % 3]]).tolist())
            for i in range(count)
        ]
        labels = [label_of(text) for text in texts]
        if split == "train":
            labels = [labels[i] for i in random.permutation(count)]
        rows = [{"text": t, "label": n} for t, n in zip(texts, labels, strict=True)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def texts_of(folder):
    """Every text of every split, once."""
    rows = (json.loads(r) for f in folder.glob("*.jsonl") for r in f.read_text().splitlines())
    return [*dict.fromkeys(row["text"] for row in rows)]


@pytest.fixture
def distilled(planted, tiny_backbone, tmp_path):
    """Distils from a teacher, beside a baseline of the same student, and gives the figures."""

    def run(teacher, *, data=planted, losses=({"kind": "soft_targets", "temperature": 1},), **more):
        recipe = Recipe.model_validate({
            "name": "told",
            "data": {"dataset": str(data)},
            "teacher": teacher,
            "student": {"model": str(tiny_backbone)},
            "distill": {**FIT, "losses": losses},
            "baseline": True,
            "evaluate": {"latency_texts": 2, "baselines": []},
        })  # fmt: skip
        made = runner.run_pipeline(
            recipe, tmp_path / "run", SilentReporter(), options=RunOptions(**more)
        )
        found = json.loads((made.path / "evaluation.json").read_text())
        return made, {model["name"]: model["splits"]["test"] for model in found["models"]}

    return run
