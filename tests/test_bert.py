"""Oracle: transformers' BertModel with the same weights, on padded batches."""
import pytest
import torch

from mulan_min.bert import Bert
from mulan_min.errors import UserError

NAMES = {"embeddings.word_embeddings": "words", "embeddings.position_embeddings": "positions",
         "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "norm",
         "encoder.layer.": "blocks.", "attention.output.dense": "attention.out",
         "attention.output.LayerNorm": "norm1", "intermediate.dense": "mlp.fc1",
         "output.dense": "mlp.fc2", "output.LayerNorm": "norm2"}


def our_tensors(theirs):
    """Named tensors of transformers (weights or gradients) -> the same tensors with our names and shapes."""
    ours = {}
    for name, tensor in theirs.items():
        if "self.key" in name or "self.value" in name:
            continue
        if "self.query" in name:
            tensor = torch.cat([theirs[name.replace("query", part)] for part in ("query", "key", "value")])
            name = name.replace("self.query", "qkv")
        for old, new in NAMES.items():
            name = name.replace(old, new)
        ours[name] = tensor
    return ours


def batch():
    """Rows of 9, 2 and 5 real tokens. The ids in the padding are random on purpose."""
    torch.manual_seed(0)
    return torch.randint(1, 50, (3, 9)), torch.arange(9)[None] < torch.tensor([9, 2, 5])[:, None]


@pytest.mark.parametrize("eps", [1e-12, 0.1])      # 0.1 changes the states, so that every LayerNorm must have it
def test_equals_transformers(eps):
    transformers = pytest.importorskip("transformers", reason="the oracle is transformers' BertModel")
    theirs = transformers.BertModel(transformers.BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=64,
        max_position_embeddings=12, layer_norm_eps=eps), add_pooling_layer=False).eval()
    ids, mask = batch()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model = Bert(50, 24, 3, 3, 64, max_tokens=12, dropout=0.1, eps=eps).eval()
    model.load_state_dict(our_tensors(theirs.state_dict()))
    out, expected = model(ids, mask), theirs(ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(out[mask], expected[mask], atol=1e-5, rtol=1e-5)
    weights = torch.randn(3, 9, 24) * mask[..., None]
    (out * weights).mean().backward()
    (expected * weights).mean().backward()
    gradients = our_tensors({name: p.grad for name, p in theirs.named_parameters()})
    assert len(gradients) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-5)


def test_parameter_count_is_the_public_one():
    with torch.device("meta"):
        count = sum(p.numel() for p in Bert().parameters())
    assert count == 109_482_240 - 768 * 769  # bert-base-uncased without its pooler


@pytest.mark.parametrize("autocast", [False, True])
def test_states_do_not_depend_on_the_batch_or_on_padding(autocast):
    ids, mask = batch()
    model = Bert(50, 24, 3, 3, 64).eval()
    tolerance = 2e-2 if autocast else 1e-5
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        together = model(ids, mask)
        for i, length in enumerate(mask.sum(1).tolist()):
            alone = model(ids[i:i + 1, :length], mask[i:i + 1, :length])
            torch.testing.assert_close(together[i:i + 1, :length], alone, atol=tolerance, rtol=0)
        ids[~mask] = 7  # other padding ids, exactly the same states
        assert torch.equal(model(ids, mask)[mask], together[mask])


def test_too_many_tokens_are_refused():
    with pytest.raises(UserError, match="9 tokens, but this BERT holds 8"):
        Bert(50, 24, 1, 3, 64, max_tokens=8)(*batch())


def test_dropout_of_the_embeddings_zeroes_its_share_and_scales_the_rest():
    """Without blocks the states are the normalised embeddings; in training a share of 0.3 is 0 and the rest is divided by 0.7."""
    torch.manual_seed(0)
    model, ids = Bert(50, 24, 0, 3, 64, dropout=0.3), torch.randint(1, 50, (40, 9))
    mask = torch.ones(40, 9, dtype=torch.bool)
    whole = model.eval()(ids, mask)
    dropped = model.train()(ids, mask)
    gone = (dropped == 0) & (whole != 0)
    assert abs(gone.float().mean() - 0.3) < 5 * (0.3 * 0.7 / gone.numel()) ** 0.5  # 5 standard deviations
    torch.testing.assert_close(dropped[~gone], whole[~gone] / 0.7)
