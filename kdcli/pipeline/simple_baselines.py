"""Baselines without a teacher: classifiers that are fitted to the labels in seconds."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcli.data.column_access import get_text_tuples
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.errors import KdError
from kdcli.evaluation.evaluation_splits import select_evaluation_splits
from kdcli.evaluation.output.evaluation_schema import LONG_TABLES
from kdcli.evaluation.predict.calibrated_predictions import VALIDATION
from kdcli.pipeline import run_datasets
from kdcli.pipeline.stage import StageContext
from kdcli.recipe.black_box_teachers import EmbeddingTeacherConfig
from kdcli.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL

if TYPE_CHECKING:
    from datasets import Dataset

# A linear model of more texts takes minutes, and gains little.
MAX_TRAINING_TEXTS = 20_000
# Inverse regularization of the linear models.
_C = 10.0
_MAX_ITERATIONS = 300
# Logit of a label that no training text has, below the lowest of the others.
_ABSENT_MARGIN = 10.0
# Features of TF-IDF, the most frequent ones: of words and word pairs, and of 2 to 4 characters.
_MAX_WORDS, _MAX_CHARACTERS = 50_000, 30_000


def fit_baselines(context: StageContext) -> dict[str, Any]:
    """Fit the baselines, and write their logits on the evaluated splits: one npz file each.

    Returns:
        `seconds` of each baseline, fitting and predicting, and `training_texts`.
    """
    recipe, reporter = context.recipe, context.reporter
    corpus = run_datasets.load_recipe_dataset(recipe, reporter)
    splits = [*dict.fromkeys([*select_evaluation_splits(recipe.evaluate, corpus), VALIDATION])]
    train = corpus.splits["train"]
    if len(train) > MAX_TRAINING_TEXTS:
        drawn = np.random.default_rng(recipe.seed).choice(
            len(train), MAX_TRAINING_TEXTS, replace=False
        )
        train = train.select(np.sort(drawn))
        corpus = replace(corpus, splits={**corpus.splits, "train": train})
    context.output.mkdir()
    seconds: dict[str, float] = {}
    for name in recipe.simple_baselines:
        start = time.monotonic()
        try:
            if name == "tfidf":
                logits = _tfidf_logits(corpus, splits)
            elif corpus.task is SINGLE_LABEL:
                logits = _frozen_encoder_logits(context, corpus, splits)
            else:
                continue
        except KdError as error:
            reporter.info(f"Without the baseline {name}: {error.message}")
            continue
        with (context.output / f"{name}.npz").open("wb") as file:
            arrays: dict[str, Any] = {
                split: values.astype(np.float32) for split, values in logits.items()
            }
            np.savez(file, **arrays)
        seconds[name] = time.monotonic() - start
    return {"seconds": seconds, "training_texts": len(train)}


def read_baselines(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read the logits that `fit_baselines` wrote, by baseline and split: (texts, labels) each."""
    logits = {}
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as arrays:
            logits[file.stem] = dict(arrays)
    return logits


def separate_baselines(
    evaluation: Mapping[str, Any], fitted: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Move the baselines out of an evaluation's models, and out of their comparisons.

    Args:
        evaluation: The content of `evaluation.json`, with baselines among the models.
        fitted: What `fit_baselines` returned; None without baselines.

    Returns:
        The evaluation with `baselines`: `name`, `seconds`, `training_texts`, and `splits` with
        the metrics and the differences from the teacher and the student.
    """
    names = {} if fitted is None else fitted["seconds"]
    models, baselines = [], []
    for model in evaluation["models"]:
        is_baseline = model["name"] in names
        others = {
            split: {
                **{
                    key: value
                    for key, value in metrics.items()
                    if not is_baseline or key not in LONG_TABLES
                },
                "against": {k: v for k, v in metrics["against"].items() if k not in names},
            }
            for split, metrics in model["splits"].items()
        }
        if fitted is None or not is_baseline:
            models.append({**model, "splits": others})
            continue
        baselines.append(
            {
                "name": model["name"],
                "seconds": names[model["name"]],
                "training_texts": fitted["training_texts"],
                "settings": model["settings"],
                "splits": others,
            }
        )
    return {**evaluation, "models": models, "baselines": baselines}


def _tfidf_logits(corpus: DatasetSplits, splits: Sequence[str]) -> dict[str, np.ndarray]:
    """Fit a linear model to TF-IDF weights of words and characters, and return its logits."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline, make_union

    num_labels = len(corpus.label_names)
    train = corpus.splits["train"]
    references = corpus.ground_truth_labels(train, range(num_labels), num_labels)
    logistic = LogisticRegression(C=_C, max_iter=_MAX_ITERATIONS)
    model: Any = {
        SINGLE_LABEL: logistic,
        MULTI_LABEL: OneVsRestClassifier(logistic),
        REGRESSION: Ridge(),
    }[corpus.task]
    features = make_union(
        TfidfVectorizer(
            ngram_range=(1, 2),
            sublinear_tf=True,
            token_pattern=r"\w+|[^\w\s]",  # texts of symbols alone have words too
            max_features=_MAX_WORDS,
        ),
        TfidfVectorizer(
            analyzer="char_wb",
            ngram_range=(2, 4),
            sublinear_tf=True,
            max_features=_MAX_CHARACTERS,
        ),
    )
    pipeline = make_pipeline(features, model).fit(_joined_texts(train), references)
    present = np.unique(references) if corpus.task is SINGLE_LABEL else None
    if corpus.task is MULTI_LABEL:
        present = np.flatnonzero(references.any(0))
    return {
        split: _to_logits(pipeline, _joined_texts(corpus.splits[split]), present, num_labels)
        for split in splits
    }


def _to_logits(
    pipeline: Any, texts: Sequence[str], present: np.ndarray | None, num_labels: int
) -> np.ndarray:
    """Return logits, (texts, labels).

    Args:
        pipeline: The fitted model.
        texts: The texts.
        present: Ids of the labels that training texts have; None for scores.
        num_labels: Number of the data's labels.
    """
    if present is None:
        scores: np.ndarray = np.asarray(pipeline.predict(texts)).reshape(len(texts), 1)
        return scores
    decisions = np.asarray(pipeline.decision_function(texts))
    if decisions.ndim == 1:  # two labels
        decisions = np.stack([np.zeros(len(texts)), decisions], axis=1)
    if decisions.shape[1] > len(present):  # a column for each label
        decisions = decisions[:, present]
    logits = np.full((len(texts), num_labels), decisions.min(initial=0.0) - _ABSENT_MARGIN)
    logits[:, present] = decisions
    return logits


def _joined_texts(split: "Dataset") -> list[str]:
    return ["\n".join(texts) for texts in get_text_tuples(split)]


def _frozen_encoder_logits(
    context: StageContext, corpus: DatasetSplits, splits: Sequence[str]
) -> dict[str, np.ndarray]:
    """Fit a logistic regression to embeddings of the teacher's model before fine-tuning."""
    from kdcli.teachers import black_box_queries

    recipe = context.recipe
    teacher = recipe.white_box_teacher
    assert teacher is not None, "see Recipe.simple_baselines"
    config = EmbeddingTeacherConfig(model=teacher.model, revision=teacher.revision)
    context.scratch.mkdir(parents=True, exist_ok=True)
    setting = run_datasets.black_box_context(
        recipe, corpus, context.scratch, context.reporter, context.options
    )
    config.fit(setting)
    return black_box_queries.predict_teacher_logits(config, setting, splits)
