import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import signal

from mulan_min.audio import read_window
from mulan_min.config import preset
from mulan_min.errors import UserError
from mulan_min.mel import LogMel, filterbank, hertz_to_mel, mel_to_hertz

RATE = 16000


def music(seed, seconds=10.0):
    """A float32 waveform (samples,) of decaying notes with harmonics and vibrato, noise bursts, a slow fade, an offset."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    x = 0.01 * rng.standard_normal(len(t)) * np.exp(-((t % 0.5) / 0.05))  # two noise bursts per second
    for onset in np.arange(0, seconds, 0.25):
        pitch = 110 * 2 ** (rng.integers(0, 36) / 12)
        age = np.maximum(t - onset, 0)
        for harmonic in range(1, int(min(12, 7900 // pitch)) + 1):
            phase = harmonic * pitch * age + 0.02 * harmonic * np.sin(2 * np.pi * 5 * age)
            x += (t >= onset) * 0.1 / harmonic**1.5 * np.exp(-3 * age) * np.sin(2 * np.pi * phase)
    x = x * (1 - 0.5 * t / seconds) + 0.05 + 1e-4 * rng.standard_normal(len(t))
    return x.astype(np.float32)


CLIPS = np.stack([music(seed) for seed in range(3)])  # (3, samples)


@lru_cache
def triangles(n_mels, n_fft, dialect, f_min=20.0, f_max=8000.0):
    """The same filterbank, written as loops from the definition of a triangle."""
    if dialect == "kaldi":
        to_mel = lambda f: 2595 * math.log10(1 + f / 700)
        points = list(np.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2))
        axis = [to_mel(k * RATE / n_fft) for k in range(n_fft // 2 + 1)]
    else:
        to_mel = lambda f: f / (200 / 3) if f < 1000 else 15 + math.log(f / 1000) / (math.log(6.4) / 27)
        to_hertz = lambda m: m * 200 / 3 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27)
        points = [to_hertz(m) for m in np.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2)]
        axis = [k * RATE / n_fft for k in range(n_fft // 2 + 1)]
    bank = np.zeros((n_fft // 2 + 1, n_mels))
    for m in range(n_mels):
        left, centre, right = points[m : m + 3]
        for k, x in enumerate(axis):
            if left < x <= centre:
                bank[k, m] = (x - left) / (centre - left)
            elif centre < x < right:
                bank[k, m] = (right - x) / (right - centre)
    return bank


def reference(x, n_mels, dialect, length=400, hop=160, n_fft=512):
    """The log-mel spectrogram of one waveform in float64, frame by frame: (n_mels, frames)."""
    x = x.astype(np.float64)
    if dialect == "kaldi":
        x = x - x.mean()
    else:
        silence = np.zeros((length - hop) // 2)
        x = np.concatenate([silence, x, silence])
    window = signal.get_window("hann", length, fftbins=False)
    columns = []
    for begin in range(0, len(x) - length + 1, hop):
        frame = x[begin : begin + length]
        if dialect == "kaldi":
            frame = frame - frame.mean()
            frame = signal.lfilter([1, -0.97], [1], frame, zi=[-0.97 * frame[0]])[0]  # x[-1] is x[0]
        power = np.abs(np.fft.fft(frame * window, n_fft)[: n_fft // 2 + 1]) ** 2
        columns.append(power @ triangles(n_mels, n_fft, dialect))
    return np.log(np.maximum(np.stack(columns, 1), 1.192092955078125e-07 if dialect == "kaldi" else 1e-5))


@pytest.mark.parametrize("n_mels, dialect", [(64, "slaney"), (128, "slaney"), (128, "kaldi")])
def test_agrees_with_a_float64_reference(n_mels, dialect):
    ours = LogMel(n_mels, dialect)(torch.from_numpy(CLIPS)).numpy()
    expected = np.stack([reference(x, n_mels, dialect) for x in CLIPS])
    assert ours.shape == expected.shape == (3, n_mels, 1000 if dialect == "slaney" else 998)
    assert np.abs(ours - expected).max() < 1e-3
    assert expected.max() - expected.min() > 10  # the signals have a wide range of levels


@pytest.mark.parametrize("audio", ["ast", "resnet50"])
def test_the_laptop_presets_window_and_hop_agree_with_the_reference(audio):
    front = preset("laptop", audio).front
    length, hop = round(front.window * RATE), round(front.hop * RATE)
    ours = LogMel(front.n_mels, window=front.window, hop=front.hop)(torch.from_numpy(CLIPS[:1]))[0].numpy()
    expected = reference(CLIPS[0], front.n_mels, "slaney", length, hop, 1024)
    assert ours.shape == expected.shape == (front.n_mels, round(10 / front.hop))
    assert np.abs(ours - expected).max() < 1e-3


def test_recordings_agree_with_the_reference(small_world):
    """Audio files of the demo world: rendered music with drums, reverberation and hiss."""
    files = sorted(Path(small_world).glob("audio/*.flac"))[:60:12]
    waves = np.stack([read_window(path, 1.0, 2.0) for path in files])
    for dialect in ("slaney", "kaldi"):
        ours = LogMel(128, dialect)(torch.from_numpy(waves)).numpy()
        assert np.abs(ours - np.stack([reference(x, 128, dialect) for x in waves])).max() < 1e-3


@pytest.mark.parametrize("n_mels", [64, 128])
def test_slaney_agrees_with_librosa(n_mels):
    librosa = pytest.importorskip("librosa", reason="librosa is an optional oracle")
    # librosa centres the 400-sample window in the 512-sample FFT, so its frames begin 56 samples earlier
    padded = np.pad(CLIPS.astype(np.float64), ((0, 0), (120 + 56, 120 + 56)))
    window = signal.get_window("hann", 400, fftbins=False)
    shape = dict(n_fft=512, hop_length=160, win_length=400, window=window, center=False, n_mels=n_mels)
    power = librosa.feature.melspectrogram(y=padded, sr=RATE, fmin=20, fmax=8000, norm=None, **shape)
    ours = LogMel(n_mels)(torch.from_numpy(CLIPS)).numpy()
    assert np.abs(ours - np.log(np.maximum(power, 1e-5))).max() < 1e-3


def test_kaldi_agrees_with_transformers():
    transformers = pytest.importorskip("transformers", reason="transformers is an optional oracle")
    extractor = transformers.ASTFeatureExtractor()
    centred = [x - x.mean() for x in CLIPS]  # AST does this before Kaldi's fbank, transformers does not
    features = extractor(centred, sampling_rate=RATE, return_tensors="np")["input_values"]  # (3, 1024, 128)
    front = preset("paper", "ast").front
    mel = LogMel(128, "kaldi", mean=front.mel_mean, std=front.mel_std)
    raw = features[:, :998].transpose(0, 2, 1) * 2 * 4.5689974 - 4.2677393  # undo its normalisation
    ours = mel(torch.from_numpy(CLIPS))
    assert np.abs(ours.numpy() - raw).max() < 1e-3
    normal = mel.normalise(ours).numpy()
    assert np.abs(normal - features[:, :998].transpose(0, 2, 1)).max() < 1e-3 / 9


@pytest.mark.parametrize("dialect", ["slaney", "kaldi"])
def test_filterbank_agrees_with_the_definition(dialect):
    for n_mels, n_fft in ((40, 512), (64, 512), (128, 1024)):
        ours = filterbank(n_mels, n_fft, RATE, dialect)
        assert np.abs(ours - triangles(n_mels, n_fft, dialect)).max() < 1e-9


def test_no_slaney_filter_is_empty():
    for n_mels in (64, 128):
        assert (filterbank(n_mels, 512, RATE, "slaney").max(axis=0) > 0).all()
    assert (filterbank(128, 512, RATE, "kaldi").max(axis=0) == 0).any()  # AST's weights were trained like this


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mel_scales_have_an_inverse_and_known_values_at_1000_hertz(scale):
    hertz = np.array([0.0, 20, 440, 999, 1000, 1001, 6400, 8000])
    assert np.allclose(mel_to_hertz(hertz_to_mel(hertz, scale), scale), hertz)
    assert hertz_to_mel(1000, scale) == pytest.approx({"htk": 1000, "slaney": 15}[scale], rel=1e-4)


def test_a_sine_is_strongest_in_its_filter_and_frames_are_centred():
    t = torch.arange(10 * RATE) / RATE
    mel = LogMel(64)
    edges = mel_to_hertz(np.linspace(*hertz_to_mel([20, 8000], "slaney"), 66), "slaney")
    for band in (10, 30, 50):
        level = mel(torch.sin(2 * math.pi * edges[band + 1] * t)[None]).mean(-1)[0]  # (n_mels,)
        assert level.argmax() == band
    clicks = torch.zeros(2, 10 * RATE)
    clicks[0, 160 * 500 + 79] = clicks[1, 160 * 500 + 80] = 1.0  # the two samples beside the middle of hop 500
    profile = mel(clicks).sum(1)  # (2, frames)
    assert profile.argmax(1).tolist() == [500, 500]
    assert torch.allclose(profile[0, 498:503], profile[1, 498:503].flip(0), rtol=1e-4)


def test_silence_gives_the_floor_and_a_full_scale_sine_is_90_decibels_above():
    mel = LogMel(64)
    assert torch.allclose(mel(torch.zeros(1, RATE)), torch.tensor(math.log(1e-5)))
    sine = torch.sin(2 * math.pi * 1000 * torch.arange(RATE) / RATE)  # 1000 Hz is exactly FFT bin 32
    decibels = 10 / math.log(10) * (mel(sine[None]).max() - math.log(1e-5))
    assert 86 < decibels < 93


def test_clips_of_a_batch_are_independent_and_any_length_works():
    mel = LogMel(64)
    batch = mel(torch.from_numpy(CLIPS))
    assert torch.equal(mel(torch.from_numpy(CLIPS[1:2])), batch[1:2])
    assert mel(torch.zeros(1, 160)).shape == (1, 64, 1)
    assert mel(torch.zeros(2, 16159)).shape == (2, 64, 100)


def test_result_is_float32_under_autocast_and_for_half_precision_input():
    mel = LogMel(64)
    x = torch.from_numpy(CLIPS[:1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = mel(x)
    assert y.dtype == torch.float32 and torch.equal(y, mel(x))
    assert mel(x.half()).dtype == torch.float32


def test_normalisation_constants_are_saved_with_the_weights():
    source, target = LogMel(64, mean=-3.0, std=2.0), LogMel(64)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.normalise(torch.tensor([-3.0, 1.0])), torch.tensor([0.0, 1.0]))
    assert set(source.state_dict()) == {"mean", "std"}  # the filterbank is computed from the settings
    front = preset("paper", "ast").front
    assert (front.dialect, front.mel_mean, front.mel_std) == ("kaldi", -4.2677393, 4.5689974)  # as published with AST


@pytest.mark.parametrize("dialect", ["slaney", "kaldi"])
def test_without_constants_normalising_changes_nothing(dialect):
    x = torch.tensor([[-11.5, 0.0, 3.25]])
    assert torch.equal(LogMel(64, dialect).normalise(x), x)


@pytest.mark.parametrize("name, audio", [("paper", "resnet50"), ("laptop", "ast"), ("laptop", "resnet50")])
def test_the_constants_of_our_own_dialect_give_the_demo_world_mean_0_and_sd_half(small_world, name, audio):
    """They were measured on the large demo world, and must nearly fit a small one: sd to 6 %, mean to 0.03."""
    front = preset(name, audio).front
    assert front.dialect == "slaney"
    mel = LogMel(front.n_mels, front.dialect, RATE, front.window, front.hop, mean=front.mel_mean, std=front.mel_std)
    waves = np.stack([read_window(path, 10.0, 10.0) for path in sorted(Path(small_world).glob("audio/*.flac"))])
    normal = mel.normalise(mel(torch.from_numpy(waves)))
    assert normal.mean().item() == pytest.approx(0, abs=0.03) and normal.std().item() == pytest.approx(0.5, rel=0.06)


def test_an_unknown_dialect_and_short_waveforms_are_refused():
    with pytest.raises(UserError, match="htk"):
        LogMel(64, dialect="htk")
    with pytest.raises(UserError, match="159 samples"):
        LogMel(64)(torch.zeros(1, 159))
    with pytest.raises(UserError, match="399 samples"):
        LogMel(128, "kaldi")(torch.zeros(1, 399))
