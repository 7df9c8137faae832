"""The teacher: a backbone fine-tuned on the data, or a classifier taken as it is."""

from typing import TYPE_CHECKING, Any

from transformers import set_seed

from kdcli.data.labels import is_generic, match_labels
from kdcli.data.source import Corpus
from kdcli.models import source
from kdcli.recipe.losses import CrossEntropySpec
from kdcli.run import Job
from kdcli.stages import texts
from kdcli.stages.fitting import fit
from kdcli.training.objective import Objective

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run(job: Job) -> dict[str, Any]:
    """Build the teacher's folder.

    Returns:
        `history`, a row for each epoch (empty where nothing was trained), and `parameters`.
    """
    recipe = job.recipe
    corpus = texts.load(recipe, job.reporter)
    folder = source.locate(
        recipe.teacher.model, recipe.teacher.revision, allow_pickle=job.allow_pickle
    )
    history: list[dict[str, Any]] = []
    if recipe.teacher.fine_tune is None:
        model = source.load_classifier(folder)
        tokenizer = source.load_tokenizer(folder)
        _agree_on_labels(model, corpus, job)
    else:
        set_seed(recipe.seed)
        model = source.load_classifier(folder, corpus.labels, fresh_head=True)
        tokenizer = source.load_tokenizer(folder)
        parts = ("train", "validation")
        rows = texts.encoded(recipe, corpus, model, tokenizer, splits=parts, reporter=job.reporter)
        history = fit(
            job,
            "teacher",
            model,
            tokenizer,
            rows=rows,
            spec=recipe.teacher.fine_tune,
            objective=Objective([CrossEntropySpec()]),
        )
    source.save(model, tokenizer, job.output)
    return {
        "history": history,
        "parameters": source.count_parameters(model),
    }


def _agree_on_labels(model: "PreTrainedModel", corpus: Corpus, job: Job) -> None:
    names = source.labels_of(model.config)
    match_labels(corpus.labels, names, present=corpus.present("train"))
    if is_generic(names) and not is_generic(corpus.labels):
        job.reporter.say("The teacher's labels have no names: they are taken in the data's order.")
        source.set_labels(model.config, corpus.labels)
