"""Oracle: transformers' ResNetModel with the same weights, in evaluation and in training mode."""
import pytest
import torch
from torch import nn

from mulan_min.resnet import ResNet50

THEIR_STEM = "embedder.embedder."
PARTS = {"shortcut": "shortcut", "layer.0": "reduce", "layer.1": "spatial", "layer.2": "expand"}


def our_name(name):
    """Name of a parameter in transformers -> our name. We number the blocks of all four stages in one sequence."""
    if name.startswith(THEIR_STEM):
        name = name.replace(THEIR_STEM, "stem.")
    else:
        _, _, stage, _, layer, rest = name.split(".", 5)
        part = next(p for p in PARTS if rest.startswith(p))
        name = f"blocks.{(0, 3, 7, 13)[int(stage)] + int(layer)}.{PARTS[part]}{rest[len(part):]}"
    return name.replace(".convolution.", ".0.").replace(".normalization.", ".1.")


def pair(width=8):
    """Our network and that of transformers with the same weights."""
    transformers = pytest.importorskip("transformers", reason="the oracle is transformers' ResNetModel")
    theirs = transformers.ResNetModel(transformers.ResNetConfig(
        num_channels=1, embedding_size=width, hidden_sizes=[4 * width, 8 * width, 16 * width, 32 * width]))
    torch.manual_seed(0)
    for module in theirs.modules():  # no value is 0 or 1, so the test notices a missing one
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.2, 0.8)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.1)
    model = ResNet50(width)
    model.load_state_dict({our_name(name): value for name, value in theirs.state_dict().items()})
    return model, theirs


# In training mode, 53 batch norms divide by the variance of the batch, which amplifies rounding errors: compare in float64.
@pytest.mark.parametrize("training, dtype", [(False, torch.float32), (True, torch.float64)])
def test_equals_transformers(training, dtype):
    model, theirs = (m.train(training).to(dtype) for m in pair())
    x, weights = torch.randn(4, 64, 96, dtype=dtype), torch.randn(4, 256, dtype=dtype)
    out, expected = model(x), theirs(x[:, None]).pooler_output.flatten(1)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    (out * weights).mean().backward()
    (expected * weights).mean().backward()
    ours = dict(model.named_parameters())
    assert len(ours) == len(list(theirs.parameters()))
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours[our_name(name)].grad, parameter.grad, atol=1e-5, rtol=1e-5)
    buffers = dict(model.named_buffers())
    for name, buffer in theirs.named_buffers():  # training updates the running statistics
        torch.testing.assert_close(buffers[our_name(name)], buffer, atol=1e-5, rtol=1e-5)


def test_parameter_count_is_the_public_one():
    with torch.device("meta"):
        count = sum(p.numel() for p in ResNet50().parameters())
    published = 25_557_032 - 2_049_000  # torchvision's resnet50 without its 1000-class layer
    assert count == published - 2 * 64 * 7 * 7  # our first convolution has one input channel, not three


def test_features_do_not_depend_on_the_batch():
    model, _ = pair()
    x = torch.randn(5, 64, 96) * torch.tensor([1.0, 3.0, 0.1, 10.0, 0.0])[:, None, None]
    model.eval()
    alone = torch.cat([model(x[i:i + 1]) for i in range(5)])
    torch.testing.assert_close(model(x), alone, atol=1e-5, rtol=1e-5)


def test_each_block_starts_as_its_shortcut():
    torch.manual_seed(0)
    x = torch.rand(2, 64, 4, 4)  # positive, so the last ReLU does not change it
    block = ResNet50(16).eval().blocks[1]
    assert torch.equal(block(x), x)
    nn.init.ones_(block.expand[1].weight)  # without our gamma = 0
    assert not torch.equal(block(x), x)


def test_convolutions_start_with_a_variance_of_two_over_the_outputs():
    """He et al. 2015, in the mode that keeps the size of gradients: 2 / (kernel x output channels). Most layers have other numbers
    of inputs."""
    torch.manual_seed(0)
    layers = [module for module in ResNet50(8).modules() if isinstance(module, nn.Conv2d)]
    assert len(layers) == 53
    for layer in layers:
        weight, expected = layer.weight.detach(), (2 / (layer.kernel_size[0] ** 2 * layer.out_channels)) ** 0.5
        assert weight.std().item() == pytest.approx(expected, rel=5 / (2 * weight.numel()) ** 0.5)  # 5 standard deviations
