"""Old recipe keys are read, reported once, and change no stage key."""

import warnings

import pytest

from kdcli.errors import RecipeError
from kdcli.losses import BUILT_IN_LOSSES, EmbeddingMSE
from kdcli.losses.base import LayerMapping
from kdcli.losses.combined import CombinedLoss
from kdcli.pipeline.planning import plan_stages
from kdcli.pipeline.run_folder import RunFolder
from kdcli.recipe.loading import dump_recipe, load_recipe, recipe_for_trial
from kdcli.recipe.renamed_keys import RenamedKeyWarning
from kdcli.recipe.schema import Recipe
from kdcli.training.training_history import epoch_metrics_from_log

HEAD = "name: mine\ndata: {dataset: some/data}\n"
CLASSIFIER = HEAD + "teacher: {model: some/bert}\n"
LOSSES = CLASSIFIER.replace("mine", "all-losses") + "student: {num_hidden_layers: 3}\ndistill:\n"
OLD = """name: all-keys
data: {dataset: some/data, unlabelled: some/texts, truncate: both, max_length: 64}
augment: {mix: 0.5}
teacher:
  model: some/bert
  folds: 3
  calibrated: true
  fine_tune: {epochs: 2, warmup: 0.1, gradient_accumulation: 2, freeze: 1, average: 0.5, focal: 1.0}
  also:
    - {seed: 1, folds: 2, calibrated: true}
    - {model: other/bert, fine_tune: {keep: best, focal: 2.0}}
student: {layers: 3, strategy: measured, decoder_layers: 2, heads: 4, ffn: 256}
distill: {epochs: 2, warmup: 0.2, gradient_accumulation: 4, freeze: 2, focal: 0.5, keep: best}
baseline: true
evaluate: {refuse_at_most: 0.05, thresholds: each}
"""
NEW = """name: all-keys
data: {dataset: some/data, unlabeled: some/texts, truncation: both, max_length: 64}
augment: {crossover: 0.5}
teacher:
  model: some/bert
  cross_fit_folds: 3
  temperature_scaling: true
  fine_tune: {epochs: 2, warmup_ratio: 0.1, gradient_accumulation_steps: 2, freeze_layers: 1,
    weight_averaging_ratio: 0.5, focal_gamma: 1.0}
  ensemble_with:
    - {seed: 1, cross_fit_folds: 2, temperature_scaling: true}
    - {model: other/bert, fine_tune: {keep_checkpoint: best, focal_gamma: 2.0}}
student: {num_hidden_layers: 3, strategy: importance, num_decoder_layers: 2,
  num_attention_heads: 4, intermediate_size: 256}
distill: {epochs: 2, warmup_ratio: 0.2, gradient_accumulation_steps: 4, freeze_layers: 2,
  focal_gamma: 0.5, keep_checkpoint: best}
baseline: true
evaluate: {max_false_rejection_rate: 0.05, thresholds: per_label}
"""
# Computed before the renaming.
STAGE_KEYS = {
    "teacher": "f3e2a48e8dbb039b",
    "student": "7d4f94a14369f11a",
    "transfer": "7d2a751b508d9b48",
    "outputs": "010a65e7f63d4770",
    "distill": "a41578f56d6ceb22",
    "control": "c7621fdb034b7a76",
    "baseline": "d3f031526a433443",
    "evaluate": "466aea454252f636",
    "settings": "9094adb6ac563a31",
    "page": "ef20d312c2116021",
    "card": "51a83f87459ef78b",
}
CLINC_PLUS_KEYS = {
    "teacher": "3447af22584d1f3d",
    "student": "799228ad6b44a295",
    "outputs": "988f35506b7ebf72",
    "distill": "d2419bd7c131496e",
    "evaluate": "816fa8e4b9b48815",
    "settings": "64c978b78fa83971",
    "page": "9e24488f66522c29",
    "card": "e924a15d72f3d9f5",
}
ANSWERING = {
    "kind: endpoint, url: 'https://api.example.com/v1', model: m, key_variable: A_B, "
    "requests_a_minute: 5, price: [1, 2], at_most: 3": "8e5f97d379c965a9",
    "kind: zero_shot, model: m/x, template: 'It is {}.'": "d77d44f5fd1c7bd5",
    "kind: embeddings, model: m/x, head: nearest": "1b878a7aa9958e85",
    "kind: function, function: 'm:f', gives: logits": "2b344c7394c74d4a",
}
OLD_LOSSES = """  losses:
    - {kind: cross_entropy, weight: 0.5}
    - {kind: soft_targets, standardise: true, temperature: {start: 4, end: 1}}
    - {kind: logits_mse}
    - {kind: decoupled, target: 0.5, others: 3}
    - {kind: correlation, classes: 2, texts: 0.5}
    - {kind: hidden_mse, layers: [1, 3, 5]}
    - {kind: hidden_cosine, layers: [1, 3, 5]}
    - {kind: embeddings}
    - {kind: attention, layers: [0, 1, 2]}
    - {kind: relations, layer: 3, heads: 6}
    - {kind: contrastive}
"""
NEW_LOSSES = """  losses:
    - {kind: cross_entropy, weight: 0.5}
    - {kind: soft_targets, standardize_logits: true, temperature: {start: 4, end: 1}}
    - {kind: logits_mse}
    - {kind: decoupled_kd, target_class_weight: 0.5, non_target_class_weight: 3}
    - {kind: correlation, inter_class_weight: 2, intra_class_weight: 0.5}
    - {kind: hidden_mse, teacher_layers: [1, 3, 5]}
    - {kind: hidden_cosine, teacher_layers: [1, 3, 5]}
    - {kind: embedding_mse}
    - {kind: attention_kl, teacher_layers: [0, 1, 2]}
    - {kind: attention_relations, teacher_layer: 3, relation_heads: 6}
    - {kind: contrastive}
"""
# Computed before the renaming.
LOSSES_DISTILL_KEY = "bf84f95f00ff3543"
SOURCES = ("data", "unlabelled", "augment", "teacher", "student", "teacher.also.0",
           "teacher.also.1")  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::kdcli.recipe.renamed_keys.RenamedKeyWarning")


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return load_recipe(str(path), overrides)

    return load


def stage_keys(recipe, folder):
    # The evaluation of the records had no simple baselines.
    recipe = recipe.model_copy(
        update={"evaluate": recipe.evaluate.model_copy(update={"baselines": ()})}
    )
    sources = {source: f"id-{source}" for source in SOURCES}
    plan = plan_stages(recipe, RunFolder.open(folder), source_keys=sources)
    return {planned.stage.name: planned.key for planned in plan}


@pytest.mark.parametrize("text", [OLD, NEW], ids=["old", "new"])
def test_renaming_keeps_stage_keys(load, text, tmp_path):
    assert stage_keys(load(text), tmp_path / "run") == STAGE_KEYS


def test_renaming_keeps_stage_keys_of_clinc_plus(tmp_path):
    assert stage_keys(load_recipe("clinc_plus"), tmp_path / "run") == CLINC_PLUS_KEYS


@pytest.mark.parametrize("teacher", ANSWERING)
def test_renaming_keeps_stage_keys_of_answering_teachers(load, teacher, tmp_path):
    recipe = load(f"name: {teacher[6:8]}\ndata: {{dataset: some/data}}\nteacher: {{{teacher}}}\n"
                  "student: {model: some/small}\n")  # fmt: skip
    assert stage_keys(recipe, tmp_path / "run")["outputs"] == ANSWERING[teacher]


def test_old_keys_give_the_same_recipe_and_new_keys_are_written(load):
    recipe = load(OLD)
    assert recipe == load(NEW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize("losses", [OLD_LOSSES, NEW_LOSSES], ids=["old", "new"])
def test_renaming_keeps_stage_keys_of_losses(load, losses, tmp_path):
    recipe = load(LOSSES + losses)
    assert {loss.kind for loss in recipe.distill.losses} == {*BUILT_IN_LOSSES} - {"labels_mse"}
    assert recipe == load(LOSSES + NEW_LOSSES)
    assert stage_keys(recipe, tmp_path / "run")["distill"] == LOSSES_DISTILL_KEY


def test_old_keys_of_losses_are_read_in_overrides_and_sweeps(load):
    sweep = "sweep: {distill.losses.9.heads: [3, 6], distill.losses.3.kind: [decoupled]}\n"
    recipe = load(
        LOSSES + OLD_LOSSES + sweep, "distill.losses.9.layer=1", "distill.losses.5.layers=[0, 1, 2]"
    )
    assert recipe.distill.losses[9].teacher_layer == 1
    assert recipe.distill.losses[5].teacher_layers == (0, 1, 2)
    assert recipe.sweep == {
        "distill.losses.9.relation_heads": (3, 6),
        "distill.losses.3.kind": ("decoupled_kd",),
    }
    replaced = load(LOSSES + OLD_LOSSES, "distill.losses=[{kind: relations, heads: 2}]")
    assert replaced.distill.losses[0].relation_heads == 2
    assert (
        load(CLASSIFIER, "distill.losses.0.standardise=true").distill.losses[0].standardize_logits
    )
    swept = "sweep: {distill.losses: [[{kind: hidden_mse, layers: [1]}]]}\n"
    assert load(CLASSIFIER + swept).sweep["distill.losses"] == (
        [{"kind": "hidden_mse", "teacher_layers": [1]}],
    )


def test_key_of_a_loss_is_renamed_for_its_kind_alone(load):
    with pytest.raises(RecipeError, match=r"distill\.losses\.0\.heads"):
        load(CLASSIFIER + "distill: {losses: [{kind: hidden_mse, heads: 2}]}\n")


def test_error_of_an_old_key_of_a_loss_names_its_line(load):
    with pytest.raises(RecipeError, match=r":7: distill\.losses\.0\..*relation_heads"):
        load(CLASSIFIER + "distill:\n  losses:\n    - kind: relations\n      heads: 0\n")


def test_terms_of_a_training_that_began_under_old_names_are_joined():
    log = [
        {"step": 2, "epoch": 1.0, "loss": 3.0, "loss/relations_0": 1.0,
         "loss/attention_relations_0": 0.5, "loss/attention_kl": 1.5},
        {"step": 2, "epoch": 1.0, "eval_loss": 2.0, "eval_loss/decoupled": 2.0,
         "eval_accuracy": 0.5},
    ]  # fmt: skip
    (row,) = epoch_metrics_from_log(log, "accuracy")
    assert row.training_terms == {"attention_relations_0": 1.5, "attention_kl": 1.5}
    assert row.validation_terms == {"decoupled_kd": 2.0}


def test_projections_keep_their_keys():
    combined = CombinedLoss([EmbeddingMSE()], LayerMapping(2, 4, (0,), 1))
    assert [*combined.projections] == ["embeddings-embeddings"]


def test_each_old_key_is_reported(load):
    with pytest.warns(RenamedKeyWarning) as caught:
        load(CLASSIFIER + "distill: {warmup: 0.1}\n", "student.keep=[0, 1]")
    assert [str(warning.message) for warning in caught] == [
        "distill.warmup is now distill.warmup_ratio.",
        "student.keep is now student.keep_layers.",
    ]


def test_override_with_an_old_key_replaces_the_new_key(load):
    recipe = load(CLASSIFIER + "distill: {warmup_ratio: 0.1}\n", "distill.warmup=0.2",
                  "distill={focal: 1}")  # fmt: skip
    assert (recipe.distill.focal_gamma, recipe.distill.warmup_ratio) == (1, 0)


def test_old_and_new_key_together_are_refused(load):
    with pytest.raises(RecipeError) as refused:
        load(CLASSIFIER + "distill:\n  warmup: 0.1\n  warmup_ratio: 0.2\n")
    message = str(refused.value)
    assert all(word in message for word in (":5:", "distill.warmup ", "distill.warmup_ratio"))


def test_error_of_an_old_key_names_its_line(load):
    with pytest.raises(RecipeError, match=r":6: distill\.warmup_ratio"):
        load(CLASSIFIER + "distill:\n  epochs: 3\n  warmup: 7\n")


def test_sweep_reads_old_keys_and_values(load):
    sweep = "sweep: {student.strategy: [spaced, measured], student.layers: [2, 3]}\n"
    recipe = load(CLASSIFIER + "student: {num_hidden_layers: 2}\n" + sweep)
    assert recipe.sweep == {
        "student.strategy": ("spaced", "importance"),
        "student.num_hidden_layers": (2, 3),
    }
    assert recipe_for_trial(recipe, {"student.layers": 3}).student.num_hidden_layers == 3


@pytest.mark.parametrize(
    ("key", "name"),
    {"num_train_epochs": "epochs", "lr_scheduler_type": "schedule", "adam_beta1": "betas",
     "load_best_model_at_end": "keep_checkpoint"}.items(),
)  # fmt: skip
def test_names_of_training_arguments_lead_to_those_of_kd(load, key, name):
    with pytest.raises(RecipeError, match=rf"distill\.{key} .* {name}\."):
        load(CLASSIFIER + f"distill: {{{key}: 1}}\n")


def test_schema_and_hints_offer_new_keys_alone(load):
    assert "warmup_ratio" in str(Recipe.model_json_schema())
    assert "'warmup'" not in str(Recipe.model_json_schema())
    with pytest.raises(RecipeError) as refused:
        load(CLASSIFIER + "data: {}\nstudent: {xyzzy: 1}\n".replace("data: {}\n", ""))
    assert "keep_layers" in str(refused.value)
    assert "ffn" not in str(refused.value)
