"""The student learns what lies within the teacher as well, where a recipe asks for it."""

import shutil

import pytest
import torch
from datasets import Dataset
from transformers import BertForSequenceClassification, BertTokenizerFast

from kdcli.data.tokenization.tokenize import tokenize_dataset
from kdcli.errors import RecipeError, UserError
from kdcli.models import model_io
from kdcli.models.padding_invariance import create_collator
from kdcli.pipeline import runner
from kdcli.progress import SilentReporter
from kdcli.recipe.schema import Recipe
from kdcli.training import hidden_state_cache


@pytest.fixture
def recipe(tiny_teacher, small_data):
    def make(losses, **student):
        return Recipe.model_validate(
            {
                "name": "tiny",
                "data": {"dataset": str(small_data), "label": "intent"},
                "teacher": {"model": str(tiny_teacher)},
                "student": student or {"keep_layers": [1, 3]},
                "distill": {"epochs": 4, "batch_size": 8, "learning_rate": 3e-3, "losses": losses},
            }
        )

    return make


def distance(folder, teacher_layers):
    """How far the student's states are from those of the teacher's layers."""
    found = []
    for name in ("teacher", "student"):
        model, tokenizer = (
            f(folder / name) for f in (model_io.load_classifier, model_io.load_tokenizer)
        )
        batch = create_collator(model, tokenizer)([tokenizer("where is my parcel")])
        with torch.no_grad():
            found.append(model(**batch, output_hidden_states=True).hidden_states)
    pairs = enumerate(teacher_layers)
    return sum(torch.dist(found[1][own + 1], found[0][other + 1]) for own, other in pairs)


def test_hidden_states_come_nearer_to_the_layers_they_were_cut_from(recipe, tmp_path):
    distances = {}
    for kind in ("soft_targets", "hidden_mse"):
        folder = tmp_path / kind / "run"
        run = runner.run_pipeline(recipe([{"kind": kind}]), folder, SilentReporter(), "distill")
        distances[kind] = distance(folder, (1, 3))
        row = run.records["distill"].result["history"][-1]
        assert set(row["training_terms"]) == {kind}
    assert distances["hidden_mse"] < 0.7 * distances["soft_targets"]


@pytest.fixture
def begun(recipe, make_once, tmp_path):
    """A run whose student is yet to be trained."""

    def fill(folder):
        begun = recipe([{"kind": "soft_targets"}])
        runner.run_pipeline(begun, folder / "run", SilentReporter(), "outputs")

    return shutil.copytree(make_once("undistilled", fill) / "run", tmp_path / "run")


# Every loss that asks the teacher, for texts with one label. The models here are 32 wide.
OWN = {"attention_relations": {"relation_heads": 2}}
KINDS = (
    "soft_targets", "logits_mse", "decoupled_kd", "correlation", "hidden_mse", "hidden_cosine",
    "attention_kl", "attention_relations", "embedding_mse", "contrastive",
)  # fmt: skip


@pytest.mark.parametrize(
    "loss",
    [
        *({"kind": k, **OWN.get(k, {})} for k in KINDS),
        {"kind": "soft_targets", "standardize_logits": True},
    ],
    ids=[*KINDS, "standardized"],
)
def test_a_term_falls_on_texts_that_were_not_trained_on(recipe, begun, loss):
    spec = recipe([loss])
    slow = {"learning_rate": 3e-4, "batch_size": 16, "epochs": 3, "dropout": 0.0}
    spec = spec.model_copy(update={"distill": spec.distill.model_copy(update=slow)})
    run = runner.run_pipeline(spec, begun, SilentReporter(), "distill")
    losses = [row["validation_loss"] for row in run.records["distill"].result["history"]]
    assert losses[-1] < 0.98 * losses[0]


TERMS = [{"kind": k} for k in ("hidden_mse", "embedding_mse", "contrastive", "soft_targets")]


def test_states_from_disk_teach_what_the_teacher_beside_does(recipe, tmp_path, monkeypatch):
    still = recipe(TERMS).model_copy(
        update={"distill": recipe(TERMS).distill.model_copy(update={"dropout": 0.0})}
    )
    run = runner.run_pipeline(still, tmp_path / "disk" / "run", SilentReporter(), "distill")
    on_disk = run.records["distill"].result["history"]
    assert not (run.path / ".work").exists(), "they go once the student is trained"
    # No disk of a size that can be made here is too small for them.
    monkeypatch.setattr(hidden_state_cache, "_MAX_SHARE_OF_FREE_DISK", 0.0)
    alive = runner.run_pipeline(still, tmp_path / "live" / "run", SilentReporter(), "distill")
    live = alive.records["distill"].result["history"]
    for one, other in zip(on_disk, live, strict=True):
        for figures in ("training_terms", "validation_terms"):
            assert one[figures] == pytest.approx(other[figures], abs=1e-4)


def test_states_keep_their_tokens_whichever_side_the_padding_is(tokenizer, tiny_teacher, tmp_path):
    model = model_io.load_classifier(tiny_teacher)
    texts = ["where is my parcel", "hello", "i want my money back for the broken lamp"]
    rows = tokenize_dataset(Dataset.from_dict({"text": texts}), tokenizer, 32).add_column(
        "row", [0, 1, 2]
    )
    bare, collate = rows.remove_columns("row"), create_collator(model, tokenizer)
    hidden_state_cache.write_hidden_state_cache(model, collate, rows, [0, 2], tmp_path)
    found = hidden_state_cache.load_hidden_state_cache(rows, [0, 2], 32, tmp_path)
    for side in ("right", "left"):
        tokenizer.padding_side = side
        batch = found.wrap_collator(collate)([rows[i] for i in (2, 1)])
        states = hidden_state_cache.hidden_states_from_batch(batch)
        assert set(states) == {0, 2}
        for line, row in enumerate((2, 1)):
            with torch.no_grad():
                alone = model(**collate([bare[row]]), output_hidden_states=True)
            real = batch["attention_mask"][line].bool()
            for place in (0, 2):
                torch.testing.assert_close(states[place][line][real], alone.hidden_states[place][0])
                assert not states[place][line][~real].any()
    tokenizer.padding_side = "right"


def test_a_student_of_another_model_is_compared_with_layers_evenly_spread(
    recipe, config, tokenizer, tmp_path
):
    torch.manual_seed(1)
    smaller = type(config)(**{**config.to_dict(), "num_hidden_layers": 2, "hidden_size": 16})
    BertForSequenceClassification(smaller).save_pretrained(tmp_path / "smaller")
    tokenizer.save_pretrained(tmp_path / "smaller")
    terms = [{"kind": "hidden_cosine"}, {"kind": "attention_relations", "relation_heads": 2},
             {"kind": "attention_kl"}]  # fmt: skip
    folder = tmp_path / "run"
    changed = recipe(terms, model=str(tmp_path / "smaller"))
    run = runner.run_pipeline(changed, folder, SilentReporter(), "distill")
    history = run.records["distill"].result["history"]
    for term in ("hidden_cosine", "attention_relations", "attention_kl"):
        assert history[-1]["validation_terms"][term] < history[0]["validation_terms"][term]
    assert not any(
        "projection" in n
        for n, _ in model_io.load_classifier(folder / "student").named_parameters()
    )


def test_states_of_other_tokens_can_t_be_compared(recipe, config, tokenizer, tmp_path):
    shuffled = BertTokenizerFast(
        vocab={piece: (i * 7) % 600 for piece, i in tokenizer.get_vocab().items()}
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "other")
    shuffled.save_pretrained(tmp_path / "other")
    changed = recipe([{"kind": "hidden_mse"}], model=str(tmp_path / "other"))
    with pytest.raises(UserError, match="tokenize texts differently"):
        runner.run_pipeline(changed, tmp_path / "run", SilentReporter(), "distill")


def test_a_layer_that_the_teacher_hasn_t_got_is_told(recipe, tmp_path):
    changed = recipe([{"kind": "hidden_mse", "teacher_layers": [1, 4]}])
    with pytest.raises(RecipeError, match="no layer 4: the teacher has 4"):
        runner.run_pipeline(changed, tmp_path / "run", SilentReporter(), "distill")
