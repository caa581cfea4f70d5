"""The contrastive step in bfloat16 against the one in float32, and the bounds of the temperature."""
import pytest
import torch
from test_distributed import gradients, make
from torch import nn

from mulan_min import contrastive
from mulan_min.config import resolve
from mulan_min.data import Recording

MATRICES = (nn.Linear, nn.Conv2d)


def one_step(audio, precision, chunk_size):
    """(loss, gradients, {dtypes of the outputs of linear layers and convolutions}, [(projection, embedding) of a tower])"""
    # Not width 2 as elsewhere: there the gradient of a bfloat16 convolution writes outside of its memory (torch 2.13, some CPUs).
    model, batch = make(audio, torch.float32, precision=precision, chunk_size=chunk_size, resnet_width=4)
    dtypes, projected, pairs = set(), [], []
    for module in model.modules():
        if isinstance(module, MATRICES):
            module.register_forward_hook(lambda _, __, out: dtypes.add(out.dtype))
    for tower in (model.audio, model.text):
        tower.project.register_forward_hook(lambda _, __, out: projected.append(out.detach()))
        tower.register_forward_hook(lambda _, __, out: pairs.append((projected.pop(), out.detach())))
    loss, _, _ = contrastive.backward(model, batch, 0, model, 1)
    return loss, gradients(model), dtypes, pairs


@pytest.mark.parametrize("audio, chunk_size", [("ast", 0), ("ast", 4), ("resnet50", 0)])
def test_a_step_in_bfloat16_multiplies_matrices_in_it_and_differs_by_its_rounding(audio, chunk_size):
    """bfloat16 has 8 bits, so a rounding is 0.2 % on average. Loss, normalisation and gradients stay float32."""
    loss, expected, dtypes, _ = one_step(audio, "fp32", chunk_size)
    assert dtypes == {torch.float32}
    rounded, found, dtypes, pairs = one_step(audio, "bf16", chunk_size)
    assert dtypes == {torch.bfloat16}
    assert rounded.dtype == torch.float32 and rounded != loss
    for part in ("audio.", "text.") if audio == "ast" else ():      # 53 batch norms of 11 clips amplify any rounding
        assert abs(rounded - loss) < 0.01 * loss
        a, b = (torch.cat([g.flatten() for name, g in grads.items() if name.startswith(part)]) for grads in (found, expected))
        assert a.dtype == torch.float32 and 1e-3 < (a - b).norm() / b.norm() < 0.1
    for projection, embedding in pairs:
        row = projection.double()
        assert embedding.dtype == torch.float32
        torch.testing.assert_close(embedding.double(), row / row.square().sum(1, keepdim=True).sqrt(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("value, expected", [(-1.0, 0.07), (0.0, 0.07), (0.069, 0.07), (0.3, 0.3), (1.2, 1.0)])
def test_after_a_step_the_temperature_is_between_the_runs_floor_and_1(value, expected):
    model, _ = make("ast", torch.float32, temperature_floor=0.07)
    model.temperature.data.fill_(value)
    assert contrastive.after_step(model) == {"temperature": model.temperature.item()} == {"temperature": pytest.approx(expected)}


def test_words_come_from_the_texts_of_the_sources_in_use_alone():
    """The vocabulary's and the warm-up's: not those of a source that --ratio leaves out, nor tags."""
    config = resolve({"preset": "smoke", "ratio": "sf=2,pl=1"})
    recordings = [Recording("a", None, "train", {"pl": ["calm"], "sf": ["waltz", "piano"], "lf": ["secret"]}, ["secret"]),
                  Recording("b", None, "train", {"aset": ["secret"]})]
    assert contrastive.texts_of(recordings, config) == [["waltz", "piano", "calm"], []]
    vocabulary = contrastive.build(config, recordings, []).tokenizer.get_vocab()
    assert {"##s", "w", "##z"} - vocabulary.keys() == {"##s"}
