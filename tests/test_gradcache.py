"""A batch in chunks against the whole of it: the same gradients, in float64, dropout and masks on."""
from functools import partial

import pytest
import torch
from test_distributed import BATCH, gradients, make, whole

import train
from mulan_min.gradcache import chunked_backward
from mulan_min.loss import cmc_loss


def embed_by(model):
    return lambda part: model(part["spectrograms"], part["tokens"], part["mask"])


@pytest.mark.parametrize("count", [11, 3, 2])
def test_chunks_give_the_gradients_of_the_whole_batch(count):
    expected, (model, batch) = whole("ast"), make("ast")
    loss = chunked_backward(model, batch, count, embed_by(model), partial(cmc_loss, keys=batch["keys"]))
    torch.testing.assert_close(loss, expected["loss"], atol=1e-12, rtol=0)
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, expected[name], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("audio", ["ast", "resnet50"])
def test_chunks_replay_dropout_and_masks_and_see_the_same_statistics_twice(audio):
    """The reference keeps the graphs of all chunks at once, and goes through them a single time."""
    changes = {"text_dropout": 0.3, "audio_dropout": 0.3, "freq_mask": 8, "time_mask": 10}
    (model, batch), (reference, _) = make(audio, **changes), make(audio, **changes)
    torch.manual_seed(7)
    parts = [embed_by(reference)({name: x[k::3] for name, x in batch.items()}) for k in range(3)]
    audio_rows, text_rows = (torch.stack([rows[i % 3][i // 3] for i in range(BATCH)]) for rows in zip(*parts))
    loss = cmc_loss(audio_rows, text_rows, reference.temperature, keys=batch["keys"])
    loss.backward()
    torch.manual_seed(7)
    found = chunked_backward(model, batch, 3, embed_by(model), partial(cmc_loss, keys=batch["keys"]))
    torch.testing.assert_close(found, loss.detach(), atol=1e-12, rtol=0)
    expected, before = gradients(reference), gradients_without_dropout(audio)
    for name, value in gradients(model).items():
        torch.testing.assert_close(value, expected[name], atol=1e-9, rtol=1e-9)
    assert not torch.allclose(expected["text.project.weight"], before["text.project.weight"])      # dropout was on
    for (name, buffer), other in zip(model.named_buffers(), reference.buffers()):
        torch.testing.assert_close(buffer, other, atol=1e-12, rtol=0, msg=name)


def gradients_without_dropout(audio):
    return {name: value for name, value in whole(audio).items() if name == "text.project.weight"}


def test_chunks_in_training(small_world, tmp_path):
    """--chunk-size changes no weight but by rounding; of a classifier neither."""
    for more in ([], ["--objective", "tags"]):
        runs = []
        for chunk in ("0", "5"):
            run = tmp_path / f"{len(more)}-{chunk}"
            model = train.main(["--preset", "smoke", "--data", small_world, "--run", str(run), "--workers", "0", "--audio", "ast",
                                "--precision", "fp32", "--steps", "4", "--freq-mask", "0", "--time-mask", "0", "--text-dropout", "0",
                                "--seconds", "2", "--chunk-size", chunk, *more])
            runs.append(dict(model.named_parameters()))
        for name, value in runs[0].items():
            rows = torch.ones(len(value), dtype=torch.bool) if value.dim() else ...
            if name.endswith("qkv.bias"):      # a bias of the keys has no gradient but rounding, which Adam makes steps of
                rows[len(value) // 3:2 * len(value) // 3] = False
            torch.testing.assert_close(runs[1][name][rows], value[rows], atol=2e-5, rtol=0)
