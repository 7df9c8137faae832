"""The teacher: a backbone fine-tuned on the data, or a classifier taken as it is."""

import json
from typing import TYPE_CHECKING, Any

from transformers import set_seed

from kdcli import distributed
from kdcli.data.dataset_splits import DatasetSplits
from kdcli.data.labels.label_matching import (
    are_default_label_names,
    explain_label_match,
    labels_to_numpy,
)
from kdcli.losses import label_only_losses
from kdcli.losses.combined import CombinedLoss
from kdcli.models import model_io
from kdcli.pipeline import run_datasets
from kdcli.pipeline.run_folder import StageContext
from kdcli.recipe.black_box_teachers import BlackBoxTeacher
from kdcli.recipe.teacher import ClassifierTeacherConfig
from kdcli.teachers import registry
from kdcli.training.label_loss import build_label_loss_options
from kdcli.training.train import TrainingRun, train_model

ABOUT_FILE = "teacher.json"

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def prepare_teacher(context: StageContext) -> dict[str, Any]:
    """Build the teacher's folder.

    Returns:
        `history`, a row for each epoch (empty where nothing was trained); `parameters`, where it
        is a model; `task`.
    """
    corpus, teacher = (
        run_datasets.load_recipe_dataset(context.recipe, context.reporter),
        context.recipe.teacher,
    )
    history: list[dict[str, Any]] = []
    if not isinstance(teacher, ClassifierTeacherConfig):
        return _prepare_black_box_teacher(teacher, corpus, context)
    if teacher.fine_tune is None:
        folder = model_io.locate_model(
            teacher.model, teacher.revision, allow_pickle=context.allow_pickle
        )
        model, tokenizer = model_io.load_classifier(folder), model_io.load_tokenizer(folder)
        _adopt_dataset_labels(model, corpus, context)
        run_datasets.configure_tokenizer_and_padding(
            context.recipe, corpus, model, tokenizer, "The teacher"
        )
    else:
        model, tokenizer, history = fine_tune_teacher(context, "teacher", corpus)
    model_io.save_model(model, tokenizer, context.output)
    return {
        "history": history,
        "parameters": model_io.count_parameters(model),
        "task": corpus.task.name,
    }


def fine_tune_teacher(
    context: StageContext, stage: str, dataset_splits: DatasetSplits
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase, list[dict[str, Any]]]":
    """The recipe's teacher with a head of its own, fine-tuned.

    Args:
        context: Says which model, and how.
        stage: What the logs call it.
        dataset_splits: The texts.

    Returns:
        Model, tokenizer and the training's table.
    """
    spec = context.recipe.white_box_teacher
    assert spec is not None and spec.fine_tune is not None
    folder = model_io.locate_model(spec.model, spec.revision, allow_pickle=context.allow_pickle)
    seed = context.recipe.seed if spec.seed is None else spec.seed
    set_seed(seed)
    # Where labels are weighed to count alike there and not there, odds are even.
    even = spec.fine_tune.class_weights == "balanced"
    prior = None if even else dataset_splits.label_prior(dataset_splits.label_names)
    model = model_io.load_classifier(
        folder,
        dataset_splits.label_names,
        dataset_splits.task.name,
        allow_new_head=True,
        initial_bias=prior,
    )
    tokenizer = model_io.load_tokenizer(folder)
    run_datasets.configure_tokenizer_and_padding(
        context.recipe, dataset_splits, model, tokenizer, "The teacher"
    )
    parts = ("train", "validation")
    rows = run_datasets.tokenize_splits(
        context.recipe, dataset_splits, model, tokenizer, splits=parts, reporter=context.reporter
    )
    task, labels = dataset_splits.task, labels_to_numpy(rows["train"])
    hard = build_label_loss_options(spec.fine_tune, labels, len(dataset_splits.label_names), task)
    objective = CombinedLoss(label_only_losses(task), label_options=hard, task=task)
    run = TrainingRun.for_stage(context, stage, seed)
    epochs = train_model(model, tokenizer, rows, spec.fine_tune, objective, run=run)
    return model, tokenizer, [epoch.to_row() for epoch in epochs]


def _prepare_black_box_teacher(
    black_box: BlackBoxTeacher, dataset_splits: DatasetSplits, context: StageContext
) -> dict[str, Any]:
    about = {"teacher": black_box.title, "labels": dataset_splits.label_names}

    def fit() -> None:
        context.output.mkdir()
        registry.fit_teacher(
            black_box, run_datasets.black_box_context(context, dataset_splits, context.output)
        )
        text = json.dumps(about, indent=2, ensure_ascii=False)
        (context.output / ABOUT_FILE).write_text(text + "\n", encoding="utf-8")

    distributed.broadcast_from_rank0(fit)
    return {"history": [], "task": dataset_splits.task.name}


def _adopt_dataset_labels(
    model: "PreTrainedModel", dataset_splits: DatasetSplits, context: StageContext
) -> None:
    model_io.check_problem_type(model.config, dataset_splits.task, "The teacher")
    names = model_io.get_label_names(model.config)
    places = dataset_splits.match_model_labels(names, dataset_splits.present_labels("train"))
    if why := explain_label_match(dataset_splits.label_names, names):
        context.reporter.info(f"The teacher's {why}.")
    if are_default_label_names(names) and sorted(places) == [*range(len(names))]:
        names = tuple(
            dataset_splits.label_names[places.index(output)] for output in range(len(names))
        )
    model_io.set_label_names(model.config, names, dataset_splits.task.name)
