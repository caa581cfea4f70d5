"""Oracle: transformers' ResNetModel with the same weights, in evaluation and in training mode."""
import pytest
import torch
from torch import nn

from mulan_min.resnet import ResNet50

THEIR_STEM = "embedder.embedder."
PARTS = {"shortcut": "shortcut", "layer.0": "reduce", "layer.1": "spatial", "layer.2": "expand"}


def our_name(name):
    """transformers' parameter name -> ours; the blocks of our four stages are counted through."""
    if name.startswith(THEIR_STEM):
        name = name.replace(THEIR_STEM, "stem.")
    else:
        _, _, stage, _, layer, rest = name.split(".", 5)
        part = next(p for p in PARTS if rest.startswith(p))
        name = f"blocks.{(0, 3, 7, 13)[int(stage)] + int(layer)}.{PARTS[part]}{rest[len(part):]}"
    return name.replace(".convolution.", ".0.").replace(".normalization.", ".1.")


def pair(width=8, **ours):
    transformers = pytest.importorskip("transformers", reason="the oracle is transformers' ResNetModel")
    theirs = transformers.ResNetModel(transformers.ResNetConfig(
        num_channels=1, embedding_size=width, hidden_sizes=[4 * width, 8 * width, 16 * width, 32 * width]))
    torch.manual_seed(0)
    for module in theirs.modules():  # every number away from 0 and 1, so that none can be left out unseen
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.2, 0.8)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.1)
    model = ResNet50(width, **ours)
    model.load_state_dict({our_name(name): value for name, value in theirs.state_dict().items()})
    return model, theirs


# batch norm's division by the batch's own variance, 53 layers deep, blows up rounding: there, compare in
# float64
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
    for name, buffer in theirs.named_buffers():  # running statistics move alike in training
        torch.testing.assert_close(buffers[our_name(name)], buffer, atol=1e-5, rtol=1e-5)


def test_parameter_counts_are_the_public_ones():
    def count(**arguments):
        with torch.device("meta"):
            return sum(p.numel() for p in ResNet50(**arguments).parameters())

    assert count(in_channels=3) == 25_557_032 - 2_049_000  # torchvision's resnet50 less its 1000-class layer
    assert count() == 23_508_032 - 2 * 64 * 7 * 7  # the stem sees one channel, not three


def test_embedding_is_alone_as_in_a_batch():
    model, _ = pair()
    x = torch.randn(5, 64, 96) * torch.tensor([1.0, 3.0, 0.1, 10.0, 0.0])[:, None, None]
    model.eval()
    alone = torch.cat([model(x[i:i + 1]) for i in range(5)])
    torch.testing.assert_close(model(x), alone, atol=1e-5, rtol=1e-5)


def test_zero_init_starts_each_block_as_its_shortcut():
    torch.manual_seed(0)
    x = torch.rand(2, 64, 4, 4)  # positive: the last ReLU passes it
    assert torch.equal(ResNet50(16).eval().blocks[1](x), x)
    assert not torch.equal(ResNet50(16, zero_init=False).eval().blocks[1](x), x)
