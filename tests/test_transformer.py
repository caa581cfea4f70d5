"""Oracles: the attention formula in float64, and torch's own TransformerEncoderLayer, outputs and gradients."""
import math

import pytest
import torch
from torch import nn

from mulan_min.bert import Bert
from mulan_min.errors import UserError
from mulan_min.spectrogram_transformer import SpectrogramTransformer
from mulan_min.transformer import SelfAttention, TransformerBlock, attend

WIDTH, HEADS, LENGTH = 24, 3, 11
MASK = torch.arange(LENGTH)[None] < torch.tensor([11, 4, 1, 8])[:, None]  # (4, L): number of real tokens in each row


def close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def formula(q, k, v, mask):
    """Attention in float64, one query at a time, over the real tokens only."""
    out = torch.zeros_like(q, dtype=torch.float64)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        real = mask[b] if mask is not None else torch.ones(k.shape[2], dtype=torch.bool)
        keys, values = k[b, h][real].double(), v[b, h][real].double()
        scores = torch.exp(keys @ q[b, h, i].double() / math.sqrt(q.shape[3]))
        out[b, h, i] = (scores / scores.sum()) @ values
    return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_attention_is_its_formula(masked, dtype, tolerance):
    torch.manual_seed(0)
    mask = MASK if masked else None
    q, k, v = (torch.randn(4, HEADS, LENGTH, 8, requires_grad=True) for _ in range(3))
    weights = torch.randn(4, HEADS, LENGTH, 8)
    out = attend(q.to(dtype), k.to(dtype), v.to(dtype), mask[:, None, None] if masked else None)
    close(out.double(), formula(q, k, v, mask), tolerance)
    gradients = torch.autograd.grad((out * weights).sum(), (q, k, v))
    expected = torch.autograd.grad((formula(q, k, v, mask) * weights).sum(), (q, k, v))
    for ours, theirs in zip(gradients, expected):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


def our_name(name):
    for old, new in {"self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj": "attention.out",
                     "linear1": "mlp.fc1", "linear2": "mlp.fc2"}.items():
        name = name.replace(old, new)
    return name


def torch_layer(block, norm_first):
    """torch's encoder layer with the weights of our block."""
    theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", norm_first=norm_first,
                                        batch_first=True, layer_norm_eps=block.norm1.eps)
    ours = block.state_dict()
    theirs.load_state_dict({name: ours[our_name(name)] for name in theirs.state_dict()})
    return theirs


@pytest.mark.parametrize("norm_first", [True, False])
def test_block_is_torchs_encoder_layer(norm_first):
    torch.manual_seed(0)
    block = TransformerBlock(WIDTH, HEADS, 4 * WIDTH, norm_first=norm_first)
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    theirs = torch_layer(block, norm_first)
    x = torch.randn(4, LENGTH, WIDTH)
    weights = torch.randn(4, LENGTH, WIDTH) * MASK[..., None]  # the states of padding are meaningless
    out, expected = block(x, MASK), theirs(x, src_key_padding_mask=~MASK)
    close(out[MASK], expected[MASK])
    (out * weights).mean().backward()
    (expected * weights).mean().backward()
    ours = dict(block.named_parameters())
    for name, parameter in theirs.named_parameters():
        close(ours[our_name(name)].grad, parameter.grad, 1e-6)


def test_the_formula_and_the_fused_kernel_agree_at_the_length_where_attend_switches():
    """1,000 tokens use the formula and 1,001 the fused kernel. Both are compared with float64, with a mask."""
    for length in (1000, 1001):
        q, k, v = torch.randn(3, 1, 2, length, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        mask = torch.arange(length)[None, None, None, :] < length - 300
        weights = ((q @ k.transpose(2, 3)) / 8 ** 0.5).masked_fill(~mask, -torch.inf).softmax(-1)
        result = attend(*(x.bfloat16() for x in (q, k, v)), mask).double()
        torch.testing.assert_close(result, weights @ v, atol=2e-2, rtol=0)


def test_layer_norm_stays_float32_under_autocast():
    """At an offset of 1000, bfloat16 has three bits left for the signal, too few for LayerNorm."""
    torch.manual_seed(0)
    block = TransformerBlock(WIDTH, HEADS, 4 * WIDTH)
    x = torch.randn(4, LENGTH, WIDTH) + 1000
    with torch.autocast("cpu", torch.bfloat16):
        mixed = block(x, MASK)
    assert mixed.dtype == torch.float32
    change, expected = mixed - x, block(x, MASK) - x
    assert (change - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("autocast", [False, True])
def test_dropout_repeats_with_the_random_state_and_is_off_in_evaluation(autocast):
    block, x = TransformerBlock(WIDTH, HEADS, 4 * WIDTH, dropout=0.3), torch.randn(4, LENGTH, WIDTH)

    def run():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return block(x, MASK)

    state = torch.get_rng_state()
    first, second = run(), run()
    torch.set_rng_state(state)
    assert torch.equal(run(), first) and not torch.equal(first, second)
    block.eval()
    evaluated = run()
    block.train()
    block.dropout.p = block.attention.dropout = 0.0
    assert torch.equal(run(), evaluated)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_dropout_keeps_the_mean(dtype):
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 1, 6, 4), torch.randn(1, 1, 6, 4), torch.ones(1, 1, 6, 4)
    q, k, v = (t.to(dtype).expand(4000, -1, -1, -1) for t in (q, k, v))
    out = attend(q, k, v, dropout=0.5).float()
    assert out.std() > 0.1 and abs(out.mean() - 1) < 0.02  # all values are 1, so every weighted mean is 1


def test_heads_must_divide_the_width():
    with pytest.raises(UserError, match="width 10 .* 3 heads"):
        SelfAttention(10, 3)


@pytest.mark.parametrize("norm_first", [True, False])
def test_both_sublayers_have_dropout_of_their_own(norm_first):
    """Attention gives 1 and the MLP 10 everywhere, the norms nothing: then the sums tell which of them were dropped."""
    torch.manual_seed(0)
    block = TransformerBlock(WIDTH, HEADS, 4 * WIDTH, dropout=0.2, norm_first=norm_first)
    block.norm1, block.norm2 = nn.Identity(), nn.Identity()
    for layer, value in ((block.attention.out, 1.0), (block.mlp.fc2, 10.0)):
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, value)
    out = block(torch.zeros(50, LENGTH, WIDTH)) * 0.8
    for value, share in ((0, 0.2 * 0.2), (1, 0.8 * 0.2), (10, 0.2 * 0.8), (11, 0.8 * 0.8)):
        found = (out - value).abs() < 1e-4
        assert abs(found.float().mean() - share) < 5 * (share * (1 - share) / out.numel()) ** 0.5  # 5 standard deviations
    assert (block.eval()(torch.zeros(1, LENGTH, WIDTH)) == 11).all()


def test_initial_weights_have_the_variance_of_one_over_the_inputs():
    """Each layer has other numbers of inputs and outputs; embedding tables have sd 0.02, cut at two of them."""
    torch.manual_seed(0)
    bert, ast = Bert(300, 64, 1, 4, 256), SpectrogramTransformer(64, 400, (16, 8), (16, 8), 96, 1, 4)
    block = bert.blocks[0]
    for layer, inputs in ((block.attention.qkv, 64), (block.attention.out, 64), (block.mlp.fc1, 64), (block.mlp.fc2, 256),
                          (ast.blocks[0].mlp.fc2, 4 * 96), (ast.patch_embedding, 16 * 8)):
        weight = layer.weight.detach()
        assert weight.std() * inputs ** 0.5 == pytest.approx(1, abs=5 / (2 * weight.numel()) ** 0.5)  # 5 standard deviations
        assert abs(weight.mean()) < 5 * weight.std() / weight.numel() ** 0.5 and not layer.bias.any()
    for table in (bert.words.weight, bert.positions.weight, ast.positions):
        assert table.abs().max() <= 0.04
        assert table.std().item() == pytest.approx(0.02 * 0.8796, rel=0.03)  # 0.8796: sd of a normal cut at 2 sd
