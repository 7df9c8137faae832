"""What of a text beyond the limit is read: the student learns from the part that tells."""

import json

import numpy as np
import pytest
from transformers import pipeline as classifier_of

from kdcli.pipeline import runner
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import Recipe

WORDS = ("parcel", "refund", "password")
OTHERS = ("size", "invoice", "delivery", "order", "account")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twenty words, of which one tells: the last but two, or one in the middle."""
    folder, random = tmp_path_factory.mktemp("long"), np.random.default_rng(0)
    for where, place in (("end", 17), ("middle", 9)):
        (folder / where).mkdir()
        for split, count in (("train", 240), ("validation", 60), ("test", 60)):
            rows = []
            for i in range(count):
                words = random.choice(OTHERS, 20).tolist()
                words[place] = WORDS[i % 3]
                rows.append(json.dumps({"text": " ".join(words), "label": WORDS[i % 3]}))
            (folder / where / f"{split}.jsonl").write_text("\n".join(rows))
    return folder


def distilled(where, keep, data, tiny_backbone, place, until):
    fit = {"batch_size": 16, "learning_rate": 3e-3, "epochs": 8}
    recipe = Recipe.model_validate({
        "name": "long",
        "data": {"dataset": str(data / where), "max_length": 16, "truncation": keep},
        "teacher": {"model": str(tiny_backbone), "fine_tune": fit},
        "student": {"keep_layers": [0, 2]},
        "distill": fit,
        "evaluate": {"latency_texts": 2, "baselines": []},
    })  # fmt: skip
    made = runner.run_pipeline(recipe, place / "run", SilentReporter(), until)
    models = json.loads((made.path / "evaluation.json").read_text())["models"]
    return made, {m["name"]: m["splits"]["test"]["accuracy"] for m in models}


@pytest.mark.parametrize(
    ("where", "keep", "seen"),
    [
        ("end", "head", False),
        ("end", "tail", True),
        ("end", "both", True),
        ("middle", "both", False),
        ("middle", "windows", True),
    ],
)
def test_what_is_kept_decides_what_is_learnt(where, keep, seen, data, tiny_backbone, tmp_path):
    until = "card" if seen else "evaluate"
    made, accuracy = distilled(where, keep, data, tiny_backbone, tmp_path, until)
    if not seen:
        assert max(accuracy.values()) < 0.6
        return
    assert min(accuracy.values()) > 0.9
    card = (made.path / "student/README.md").read_text()
    assert ("Plain transformers cuts such texts" in card) == (keep != "tail")
    if keep == "tail":
        # Plain transformers cuts at the same end.
        classify = classifier_of("text-classification", str(made.path / "student"))
        text = json.loads((data / "end/test.jsonl").read_text().splitlines()[0])["text"]
        assert classify(text, truncation=True, max_length=16)[0]["label"] == WORDS[0]
