"""The student learns what lies within the teacher as well, where a recipe asks for it."""

import pytest
import torch
from transformers import BertForSequenceClassification, BertTokenizerFast

from kdcli import pipeline
from kdcli.errors import MendableError, RecipeError
from kdcli.models import source
from kdcli.models.forward import collator_for
from kdcli.progress import Silent
from kdcli.recipe.schema import Recipe


@pytest.fixture
def recipe(tiny_teacher, small_data):
    def make(losses, **student):
        return Recipe.model_validate(
            {
                "name": "tiny",
                "data": {"dataset": str(small_data), "label": "intent"},
                "teacher": {"model": str(tiny_teacher)},
                "student": student or {"keep": [1, 3]},
                "distill": {"epochs": 4, "batch_size": 8, "learning_rate": 3e-3, "losses": losses},
            }
        )

    return make


def distance(folder, teacher_layers):
    """How far the student's states are from those of the teacher's layers."""
    found = []
    for name in ("teacher", "student"):
        model, tokenizer = (
            f(folder / name) for f in (source.load_classifier, source.load_tokenizer)
        )
        batch = collator_for(model, tokenizer)([tokenizer("where is my parcel")])
        with torch.no_grad():
            found.append(model(**batch, output_hidden_states=True).hidden_states)
    pairs = enumerate(teacher_layers)
    return sum(torch.dist(found[1][own + 1], found[0][other + 1]) for own, other in pairs)


def test_hidden_states_come_nearer_to_the_layers_they_were_cut_from(recipe, tmp_path):
    distances = {}
    for kind in ("soft_targets", "hidden_mse"):
        folder = tmp_path / kind / "run"
        run = pipeline.execute(recipe([{"kind": kind}]), folder, Silent(), "distill")
        distances[kind] = distance(folder, (1, 3))
        row = run.records["distill"].result["history"][-1]
        assert set(row["training_terms"]) == {kind}
    assert distances["hidden_mse"] < 0.7 * distances["soft_targets"]


def test_a_student_of_another_model_is_compared_with_layers_evenly_spread(
    recipe, config, tokenizer, tmp_path
):
    torch.manual_seed(1)
    smaller = type(config)(**{**config.to_dict(), "num_hidden_layers": 2, "hidden_size": 16})
    BertForSequenceClassification(smaller).save_pretrained(tmp_path / "smaller")
    tokenizer.save_pretrained(tmp_path / "smaller")
    terms = [{"kind": "hidden_cosine"}, {"kind": "relations", "heads": 2}, {"kind": "attention"}]
    folder = tmp_path / "run"
    changed = recipe(terms, model=str(tmp_path / "smaller"))
    run = pipeline.execute(changed, folder, Silent(), "distill")
    history = run.records["distill"].result["history"]
    for term in ("hidden_cosine", "relations", "attention"):
        assert history[-1]["validation_terms"][term] < history[0]["validation_terms"][term]
    assert not any(
        "projection" in n for n, _ in source.load_classifier(folder / "student").named_parameters()
    )


def test_states_of_other_tokens_can_t_be_compared(recipe, config, tokenizer, tmp_path):
    shuffled = BertTokenizerFast(
        vocab={piece: (i * 7) % 600 for piece, i in tokenizer.get_vocab().items()}
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "other")
    shuffled.save_pretrained(tmp_path / "other")
    changed = recipe([{"kind": "hidden_mse"}], model=str(tmp_path / "other"))
    with pytest.raises(MendableError, match="cut texts into other tokens"):
        pipeline.execute(changed, tmp_path / "run", Silent(), "distill")


def test_a_layer_that_the_teacher_hasn_t_got_is_told(recipe, tmp_path):
    changed = recipe([{"kind": "hidden_mse", "layers": [1, 4]}])
    with pytest.raises(RecipeError, match="no layer 4: the teacher has 4"):
        pipeline.execute(changed, tmp_path / "run", Silent(), "distill")
