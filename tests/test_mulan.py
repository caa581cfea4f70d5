"""The joint model: unit embeddings that depend on their own input alone."""
import os
import wave as wave_module

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from mulan_min import MuLan, checkpoint
from mulan_min.audio import AudioError, Clip, SoundBytes
from mulan_min.config import TOWERS, preset, resolve
from mulan_min.errors import UserError
from mulan_min.towers import TextTower
from mulan_min.wordpiece import encode, train_wordpiece

RATE = 16000
TEXTS = ["waltz", "a slow sad piano waltz, played late at night", "fast techno", "banjo!"]


def tokenizer():
    return train_wordpiece(TEXTS * 3, 300)


@pytest.fixture(scope="module", params=TOWERS)
def model(request):
    torch.manual_seed(0)
    model = MuLan(resolve({"preset": "smoke", "audio": request.param, "seconds": 1.0}), tokenizer()).eval()
    for p in model.text.parameters():      # BERT's small initial weights map every text to nearly one point
        torch.nn.init.normal_(p, std=0.3)
    return model


def noise(seconds, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def test_unit_length_for_any_audio_length(model):
    audio = model.embed_audio([noise(s, i) for i, s in enumerate((0.2, 1.0, 1.7, 5.3))])
    assert audio.shape == (4, 128)
    assert audio.norm(dim=1).numpy() == pytest.approx(np.ones(4), abs=1e-6)


def test_a_long_item_is_the_renormalised_mean_of_its_windows(model):
    time = np.arange(RATE) / RATE
    long = np.concatenate([noise(1.0), np.sin(2 * np.pi * 300 * time), np.zeros(RATE)]).astype(np.float32)
    each = model.embed_audio([long[:RATE], long[RATE:2 * RATE], long[2 * RATE:]])
    mean = each.sum(0)
    assert torch.allclose(model.embed_audio([long])[0], mean / mean.norm(), atol=1e-6)
    assert mean.norm() / 3 < 0.9999       # the windows differ, so that without renormalising the length would not be 1


def test_an_embedding_does_not_depend_on_its_batch_mates(model):
    items = [noise(s, i) for i, s in enumerate((1.0, 2.5, 0.5, 1.0))]
    together = model.embed_audio(items)
    for size in (1, 2, 3):
        assert torch.allclose(model.embed_audio(items, batch_size=size), together, atol=1e-5)
    assert torch.allclose(model.embed_audio(items[2:3])[0], together[2], atol=1e-5)
    texts = model.embed_text(TEXTS)
    for i, text in enumerate(TEXTS):      # alone, there is no padding at all
        assert torch.allclose(model.embed_text(text)[0], texts[i], atol=1e-5)
    assert (texts @ texts.T).fill_diagonal_(0).max() < 0.9999


def test_sorting_texts_by_length_changes_neither_embeddings_nor_gradients(model):
    texts = [" ".join(["slow waltz banjo techno sad"] * n) for n in (3, 1, 6, 2, 9, 1, 4, 12, 2, 7, 5)]
    tokens, mask = encode(model.tokenizer, texts, 64)
    weight = torch.randn(len(texts), 128, generator=torch.Generator().manual_seed(0))
    found = []
    for whole in (False, True):      # all in one piece, padded to the longest, is what the sorted parts must equal
        model.zero_grad()
        out = model.text(tokens, mask) if not whole else F.normalize(model.text.project(model.text.net(tokens, mask)[:, 0]), dim=-1)
        (out * weight).sum().backward()
        found.append([out.detach(), *[p.grad.clone() for p in model.text.parameters() if p.grad is not None]])
    assert len(found[0]) == len(found[1]) > 10
    assert all(torch.allclose(a, b, atol=1e-5 * b.abs().max().item() + 1e-7) for a, b in zip(*found))


def test_paths_and_arrays_agree(model, tmp_path):
    wave = noise(1.5)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    assert torch.equal(model.embed_audio([tmp_path / "a.wav"]), model.embed_audio([wave]))
    assert torch.equal(model.embed_audio(str(tmp_path / "a.wav")), model.embed_audio([wave]))


def refusal(model, items):
    with pytest.raises(UserError) as caught:
        model.embed_audio(items)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_integers_are_scaled_by_their_type_as_in_a_file(model, tmp_path):
    wave = noise(1.2)
    for subtype, dtype, full in (("PCM_16", np.int16, 2**15), ("PCM_32", np.int32, 2**31), ("PCM_U8", np.uint8, 2**7)):
        soundfile.write(tmp_path / "a.wav", wave, RATE, subtype=subtype)
        if dtype == np.uint8:      # soundfile gives no bytes; the standard library does
            with wave_module.open(str(tmp_path / "a.wav")) as file:
                integers = np.frombuffer(file.readframes(10**6), np.uint8)
        else:
            integers = soundfile.read(tmp_path / "a.wav", dtype=np.dtype(dtype).name)[0]
        assert integers.dtype == dtype and abs(integers.astype(float)).max() > full / 4
        expected = model.embed_audio([tmp_path / "a.wav"])
        for given in (integers, torch.tensor(integers), np.repeat(integers, 2)[::2]):      # the last is not contiguous
            assert torch.allclose(model.embed_audio([given]), expected, atol=1e-5)
    floats = model.embed_audio([wave])
    for given in (wave.astype(np.float64), torch.from_numpy(wave).double().requires_grad_(), wave.tolist()):
        assert torch.allclose(model.embed_audio([given]), floats, atol=1e-5)
    for given in (wave.astype(np.float16), torch.from_numpy(wave).bfloat16()):
        assert (model.embed_audio([given]) @ floats.T).item() > 0.99


def test_one_array_is_one_item_and_two_dimensions_are_refused(model, tmp_path):
    wave = noise(1.5)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    expected = model.embed_audio([wave])
    path = tmp_path / "a.wav"
    with open(path, "rb") as file:
        in_memory = SoundBytes(file.read(), "a.wav")
    for alone in (wave, torch.from_numpy(wave), path, str(path), os.fsencode(path), Clip(path), Clip(path, 0.0, 9.0), in_memory):
        assert torch.equal(model.embed_audio(alone), expected)
    for several in ((wave, path), iter([path, wave]), np.array([str(path)] * 2), {1: wave, 2: path}.values(), [in_memory, Clip(str(path))]):
        assert torch.equal(model.embed_audio(several), expected.repeat(2, 1))
    assert torch.equal(model.embed_audio(Clip(path, 0.5, 0.5)), model.embed_audio(wave[8000:16000]))
    for bad, axis in ((np.zeros((RATE, 2)), 1), (np.zeros((2, RATE), np.int16), 0), (torch.zeros(1, RATE), 0)):
        for items in (bad, [bad]):
            message = refusal(model, items)
            assert f"of shape {tuple(bad.shape)}; mix channels with x.mean(axis={axis}), pass a batch as list(x)" in message


def test_what_is_no_sound_is_refused(model):
    wave = noise(1.0)
    for bad, found in ((wave + 0j, "complex64"), (wave > 0, "bool"), ((wave * 1000).astype(np.int64), "int64"),
                       ((wave * 1000).astype(np.uint16), "uint16"), (wave[:1599], r"shape (1599,)"), (wave * 32768, "up to 1"),
                       (np.float32(1), "float32 of shape ()"), (torch.zeros(()), "float32 of shape ()")):
        for items in (bad, [bad], [wave, bad]):
            message = refusal(model, items)
            assert message.startswith("audio must be paths or 1-D arrays of finite samples at 16000 Hz: 0.1 s or longer") and found in message
    assert "float64 of shape ()" in refusal(model, wave.tolist())      # a list of numbers
    assert "int64 of shape ()" in refusal(model, (wave, RATE))      # what soundfile.read returns
    model.embed_audio([noise(0.1)])
    model.embed_audio([99 * np.sin(np.arange(RATE))])


def test_files_that_cannot_be_read_are_left_to_the_caller_who_asks_for_it(model, tmp_path):
    long, cut = tmp_path / "long.mp3", tmp_path / "cut.mp3"
    soundfile.write(long, noise(8.0), RATE)
    cut.write_bytes(long.read_bytes()[:-9000])      # its first windows are intact
    items, found = [noise(1.0), tmp_path / "none.wav", long, cut, noise(1.0, 1)], {}
    rows = model.audio.embed(items, batch_size=4, unreadable=found)
    assert sorted(found) == [1, 3] and "none.wav: No such file" in found[1] and "cut.mp3: truncated" in found[3]
    assert torch.allclose(rows[[0, 2, 4]], model.embed_audio([items[i] for i in (0, 2, 4)]), atol=1e-5)
    with pytest.raises(AudioError, match="none.wav"):
        model.embed_audio(items)
    with pytest.raises(UserError, match="1-D arrays"):      # a mistake in the call is no damaged file
        model.audio.embed([np.zeros((2, RATE))], unreadable={})


def test_embedding_leaves_training_mode_as_it_was(model):
    model.train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    first, second = model.embed_audio([noise(1.0)]), model.embed_audio([noise(1.0)])
    assert model.training and torch.equal(first, second)       # no SpecAugment, no dropout
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())      # no batch norm statistics
    model.eval()
    model.embed_audio([noise(1.0)]), model.embed_text(["waltz"])
    assert not any(module.training for module in model.modules())      # else the next model(audio) would mask and drop


def test_bad_input_is_one_clear_line(model, tmp_path):
    for bad in (np.zeros((2, RATE)), np.zeros(0), np.full(RATE, np.nan)):
        with pytest.raises(UserError, match="1-D arrays of finite samples"):
            model.embed_audio([bad])
    for bad in (["ok", " "], [""], [3]):
        with pytest.raises(UserError, match="non-empty"):
            model.embed_text(bad)
    with pytest.raises(UserError, match="none.wav"):
        model.embed_audio([tmp_path / "none.wav"])
    assert model.embed_text([]).shape == (0, 128) and model.embed_audio([]).shape == (0, 128)


def test_load_gives_the_same_model(model, tmp_path):
    state = {"config": model.config.to_dict(), "tokenizer": model.tokenizer.to_str(), "model": model.state_dict()}
    checkpoint.save(tmp_path / "last.pt", state)
    for where in (tmp_path, tmp_path / "last.pt"):
        again = MuLan.load(where, device="cpu")
        assert not again.training
        assert torch.equal(again.embed_text(TEXTS), model.embed_text(TEXTS))
        assert torch.equal(again.embed_audio([noise(1.0)]), model.embed_audio([noise(1.0)]))
    state["model"].pop("temperature")
    checkpoint.save(tmp_path / "last.pt", state)
    with pytest.raises(UserError, match="last.pt: its weights do not fit"):
        MuLan.load(tmp_path)


def test_masks_are_filled_with_the_normalised_mean(model, monkeypatch):
    """SpecAugment sees the normalised spectrogram: 0 there is the mean. AST masks before and gets +0.467."""
    import mulan_min.towers as room
    seen = []
    monkeypatch.setattr(room, "spec_augment", lambda x, *widths: seen.append(x) or x)
    waves = torch.from_numpy(noise(1.0))[None].repeat(2, 1)
    model.train()
    model.audio(waves)
    model.eval()
    mel, front = model.audio.mel(waves), model.config.front
    assert torch.allclose(seen[0], (mel - front.mel_mean) / (2 * front.mel_std))


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_paper_sizes():
    """Towers of the paper preset, built without memory, against the public counts of timm, torchvision and transformers, less
    what those have besides and plus what an AST has instead."""
    config = preset("paper", "ast")
    with torch.device("meta"):
        ast, resnet = MuLan(config, tokenizer()), MuLan(preset("paper", "resnet50"), tokenizer())
        bert = TextTower(config, 30522).net
    vit_b_16 = 86_567_656 - (768 * 1000 + 1000)                                           # without classifier
    one_channel, positions = -2 * 16 * 16 * 768, (1 + 12 * 99 - (1 + 14 * 14)) * 768      # 998 frames: 12 x 99 patches
    assert count(ast.audio.net) == vit_b_16 + one_channel + positions
    assert count(resnet.audio.net) == 25_557_032 - (2048 * 1000 + 1000) - 2 * 64 * 7 * 7
    assert count(bert) == 109_482_240 - (768 * 768 + 768)                                 # without pooler


def test_embeddings_can_be_changed_and_learned_from(model):
    """A reader trains a small network on them: tensors of torch.inference_mode would refuse both."""
    for rows in (model.embed_text(TEXTS), model.embed_audio([noise(1.0)])):
        rows -= rows.mean()
        layer = torch.nn.Linear(rows.shape[1], 2)
        layer(rows).sum().backward()
        assert layer.weight.grad.abs().sum() > 0 and not rows.requires_grad
