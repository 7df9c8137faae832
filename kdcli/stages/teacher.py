"""The teacher: a backbone fine-tuned on the data, or a classifier taken as it is."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from transformers import set_seed

from kdcli.data.labels import is_generic, match_labels
from kdcli.data.source import Corpus
from kdcli.models import source
from kdcli.recipe.schema import CrossEntropySpec
from kdcli.run import Job
from kdcli.stages import texts
from kdcli.training import losses, trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run(job: Job) -> dict[str, Any]:
    """Build the teacher's folder.

    Returns:
        `history`, a row for each epoch (empty where nothing was trained), and `parameters`.
    """
    recipe = job.recipe
    corpus = texts.load(recipe, job.reporter)
    folder = source.locate(recipe.teacher.model, recipe.teacher.revision)
    tokenizer = source.load_tokenizer(folder)
    history: list[trainer.Epoch] = []
    if recipe.teacher.fine_tune is None:
        model = source.load_classifier(folder)
        _agree_on_labels(model, corpus, job)
    else:
        set_seed(recipe.seed)
        model = source.load_classifier(folder, corpus.labels, fresh_head=True)
        parts = ("train", "validation")
        rows = texts.encoded(recipe, corpus, model, tokenizer, splits=parts, reporter=job.reporter)
        history = trainer.fit(
            model,
            tokenizer,
            rows["train"],
            rows["validation"],
            spec=recipe.teacher.fine_tune,
            objective=losses.objective([CrossEntropySpec()]),
            seed=recipe.seed,
            scratch=job.scratch,
            log=job.logs / "teacher.jsonl",
            reporter=job.reporter,
            checkpoint_every=job.checkpoint_every,
        )
    source.save(model, tokenizer, job.output)
    return {
        "history": [asdict(epoch) for epoch in history],
        "parameters": source.count_parameters(model),
    }


def _agree_on_labels(model: "PreTrainedModel", corpus: Corpus, job: Job) -> None:
    names = source.labels_of(model.config)
    match_labels(corpus.labels, names, present=corpus.present("train"))
    if is_generic(names) and not is_generic(corpus.labels):
        job.reporter.say("The teacher's labels have no names: they are taken in the data's order.")
        model.config.id2label = dict(enumerate(corpus.labels))
        model.config.label2id = {name: i for i, name in enumerate(corpus.labels)}
