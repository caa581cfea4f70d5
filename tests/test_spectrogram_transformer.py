"""Oracle: transformers' ASTModel with the same weights."""
import pytest
import torch

from mulan_min.errors import UserError
from mulan_min.spectrogram_transformer import SpectrogramTransformer

NAMES = {"layernorm_before": "norm1", "layernorm_after": "norm2", "o_proj": "out"}


def our_tensors(theirs):
    """Named tensors of transformers (weights or gradients) -> the same tensors with our names and shapes."""
    ours = {"prefix": torch.cat([theirs.pop("embeddings.cls_token")[0],
                                 theirs.pop("embeddings.distillation_token")[0]]),
            "positions": theirs.pop("embeddings.position_embeddings")[0]}
    for name, tensor in theirs.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            tensor = torch.cat([theirs[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = name.replace("q_proj", "qkv")
        name = name.replace("embeddings.patch_embeddings.projection", "patch_embedding")
        for old, new in NAMES.items():
            name = name.replace(old, new)
        ours[name.replace("layers.", "blocks.").replace("layernorm.", "norm.")] = tensor
    return ours


@pytest.mark.parametrize("patch, stride", [(16, (10, 10)), (8, (8, 6))])
def test_equals_transformers(patch, stride):
    transformers = pytest.importorskip("transformers", reason="the oracle is transformers' ASTModel")
    torch.manual_seed(0)
    theirs = transformers.ASTModel(transformers.ASTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96, num_mel_bins=40,
        max_length=70, patch_size=patch, frequency_stride=stride[0], time_stride=stride[1],
        layer_norm_eps=1e-6))
    theirs.eval()
    for parameter in theirs.parameters():  # tokens, positions and biases start at zero: change them all
        torch.nn.init.normal_(parameter, std=0.2)
    model = SpectrogramTransformer(40, 70, (patch, patch), stride, 24, 3, 3, distilled=True).eval()
    model.load_state_dict(our_tensors(dict(theirs.state_dict())))
    x, weights = torch.randn(3, 40, 70), torch.randn(3, 24)
    out = model(x)
    expected = theirs(x.transpose(1, 2)).last_hidden_state[:, 0]  # their input is (B, frames, mels)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    (out * weights).mean().backward()
    (expected * weights).mean().backward()
    gradients = our_tensors({name: p.grad for name, p in theirs.named_parameters()})
    assert len(gradients) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-5)


def test_parameter_counts_are_the_public_ones():
    def count(*size, **arguments):
        with torch.device("meta"):
            return sum(p.numel() for p in SpectrogramTransformer(*size, **arguments).parameters())

    colours = 2 * 16 * 16 * 768  # an image has three channels, a spectrogram has one
    # ViT-B/16 without its classifier, as in timm and torchvision
    assert count(224, 224) + colours == 85_798_656
    # AST's position table has 12 x 101 patches at stride 10 and two tokens
    assert count(128, 1024, stride=(10, 10), distilled=True) - count(224, 224) == (1214 - 197 + 1) * 768


def test_patch_grids_of_the_paper():
    with torch.device("meta"):
        grids = [SpectrogramTransformer(128, 1000, stride=(s, s), depth=0).grid for s in (10, 16)]
    assert grids == [(12, 99), (8, 62)]


def test_features_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    model = SpectrogramTransformer(32, 64, width=24, depth=3, heads=3).eval()
    x = torch.randn(5, 32, 64) * torch.tensor([1.0, 3.0, 0.1, 10.0, 0.0])[:, None, None]
    alone = torch.cat([model(x[i:i + 1]) for i in range(5)])
    torch.testing.assert_close(model(x), alone, atol=1e-5, rtol=1e-5)


def test_every_patch_reaches_cls_and_position_matters():
    torch.manual_seed(0)
    model = SpectrogramTransformer(32, 64, width=24, depth=2, heads=3).eval()
    x = torch.randn(1, 32, 64, requires_grad=True)
    model(x).square().sum().backward()
    assert (x.grad != 0).all()
    assert not torch.allclose(model(x), model(x.roll(16, dims=2)), atol=1e-3)  # the same patches at other positions


@pytest.mark.parametrize("patch, stride", [((64, 16), (16, 16)), ((16, 128), (16, 16)), ((16, 16), (0, 16))])
def test_a_patch_that_does_not_fit_is_refused(patch, stride):
    with pytest.raises(UserError, match="32 mels by 100 frames"):
        SpectrogramTransformer(32, 100, patch, stride, 24, 1, 3)


@pytest.mark.parametrize("size", [(32, 99), (32, 101), (100, 32)])
def test_another_size_is_refused(size):
    with pytest.raises(UserError, match="built for 32 mels by 100 frames"):
        SpectrogramTransformer(32, 100, width=24, depth=1, heads=3)(torch.zeros(1, *size))


def test_dropout_of_the_tokens_zeroes_its_share_and_scales_the_rest():
    """Without blocks and norm the result is the [CLS] token itself, with its position."""
    torch.manual_seed(0)
    model, x = SpectrogramTransformer(32, 64, width=24, depth=0, heads=3, dropout=0.3), torch.randn(400, 32, 64)
    model.norm = torch.nn.Identity()
    whole, dropped = model.eval()(x), model.train()(x)
    gone = dropped == 0
    assert abs(gone.float().mean() - 0.3) < 5 * (0.3 * 0.7 / gone.numel()) ** 0.5  # 5 standard deviations
    torch.testing.assert_close(dropped[~gone], whole[~gone] / 0.7)
