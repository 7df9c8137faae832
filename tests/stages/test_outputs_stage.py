"""The teacher is asked about every text, and its answers stay beside their texts."""

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdcli import pipeline
from kdcli.data.source import load
from kdcli.progress import Silent
from kdcli.recipe.schema import Recipe
from kdcli.training import signals


def test_each_row_is_what_the_teacher_says_of_that_text(tiny_teacher, small_data, tmp_path):
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"dataset": str(small_data), "label": "intent"},
            "teacher": {"model": str(tiny_teacher)},
        }
    )
    run = pipeline.execute(recipe, tmp_path / "run", Silent(), until="outputs")
    assert run.records["outputs"].result["rows"] == 120 + 34
    told = signals.read(run.path / "teacher-outputs")
    assert set(told) == {"train", "validation"}, "test texts are none of the student's business"
    model = AutoModelForSequenceClassification.from_pretrained(tiny_teacher)
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    corpus = load(recipe.data, recipe.seed)
    for split, outputs in told.items():
        texts = corpus.splits[split]["text"]
        with torch.no_grad():
            alone = [model(**tokenizer(t, return_tensors="pt")).logits[0].numpy() for t in texts]
        np.testing.assert_allclose(np.array(outputs["teacher_logits"]), alone, atol=1e-5)
