import os
import struct

import numpy as np
import pytest
import soundfile
from scipy import signal

from mulan_min import audio
from mulan_min.audio import AudioError, check, duration, pad_to, read_window


def chirp(rate, seconds=5.0, channels=1, seed=0):
    """(frames, channels) in -1..1: a sine of rising frequency and a little noise, different in each channel."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(rate * seconds)) / rate
    sine = 0.4 * np.sin(2 * np.pi * (150 * t + 100 * t * t))[:, None] / np.arange(1, channels + 1)
    return sine + 0.01 * rng.standard_normal((len(t), channels))


def write(path, samples, rate, **kind):
    soundfile.write(path, samples, rate, **kind)
    return path


LOSS = {"VORBIS": 0.1, "OPUS": 0.1, "MPEG_LAYER_III": 0.1, "IMA_ADPCM": 0.1, "ULAW": 0.05, "ALAW": 0.05}
LOSS |= {"PCM_S8": 0.01, "PCM_U8": 0.01}  # half a quantisation step, and rounding
FORMATS = [("WAV", kind) for kind in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")]
FORMATS += [("WAV", kind) for kind in ("ULAW", "ALAW", "IMA_ADPCM")]
FORMATS += [("FLAC", kind) for kind in ("PCM_S8", "PCM_16", "PCM_24")]
FORMATS += [("AIFF", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]


@pytest.mark.parametrize("rate, channels", [(16000, 1), (48000, 2)])
@pytest.mark.parametrize("container, kind", FORMATS)
def test_a_window_equals_the_same_window_of_the_whole_file(tmp_path, container, kind, rate, channels):
    original = chirp(rate, channels=channels)
    path = write(tmp_path / f"x.{container.lower()}", original, rate, format=container, subtype=kind)
    decoded = soundfile.read(path, always_2d=True)[0].mean(axis=1)  # float64
    assert abs(duration(path) - 5.0) < 0.1
    # the decoded file equals what was written, in level and timing, within the tolerance of the codec
    error = np.abs(decoded[: len(original)] - original.mean(axis=1))
    assert error[rate : 4 * rate].max() < LOSS.get(kind, 1e-3)
    whole = decoded if rate == 16000 else signal.resample_poly(decoded, 16000, rate)
    tolerance = 1e-3 if kind == "OPUS" else 2e-6  # after a seek Opus needs up to a second to be exact again
    for start in (0.0, 0.5, 1.2345, 2.7180625, 3.9):
        window = read_window(path, start, 1.0)
        first = round(start * 16000)
        assert window.shape == (16000,) and window.dtype == np.float32
        assert np.abs(window - whole[first : first + 16000]).max() < tolerance
    assert np.abs(read_window(path) - whole).max() < 2e-6


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("name", ["x.ogg", "x.mp3"])
def test_a_window_after_a_seek_is_exact_everywhere(tmp_path, name, rate):
    # decoders fail at a few positions only: Vorbis in the last page, MP3 where a frame uses bits of earlier frames
    path = write(tmp_path / name, chirp(rate, 20), rate)
    whole = np.pad(soundfile.read(path, dtype="float32")[0], (0, rate))
    rng = np.random.default_rng(0)
    for start in [*rng.integers(0, 19 * rate, 150), *rng.integers(18.5 * rate, 19.9 * rate, 20)]:
        window = pad_to(read_window(path, start / rate, 0.25, sample_rate=rate), rate // 4)
        assert np.abs(window - whole[start : start + rate // 4]).max() < 1e-6


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000, 96000, 37800, 44056])
def test_resampling_keeps_frequency_phase_and_level(tmp_path, rate):
    t = np.arange(rate * 3) / rate
    path = write(tmp_path / "x.wav", 0.5 * np.sin(2 * np.pi * 1000 * t + 0.7), rate, subtype="FLOAT")
    for start in (0.3, 1.00125):
        window = read_window(path, start, 1.0)
        t_window = (round(start * 16000) + np.arange(16000)) / 16000
        assert np.abs(window - 0.5 * np.sin(2 * np.pi * 1000 * t_window + 0.7)).max() < 2e-3


def test_resampling_removes_what_16_khz_cannot_hold(tmp_path):
    t = np.arange(3 * 44100) / 44100
    path = write(tmp_path / "x.wav", 0.5 * np.sin(2 * np.pi * 10000 * t), 44100, subtype="FLOAT")
    assert np.abs(read_window(path, 1.0, 1.0)).max() < 1e-3  # reduced by 54 dB, not aliased to 6 kHz


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 96000])
def test_consecutive_windows_of_a_resampled_file_equal_the_whole(tmp_path, rate):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, rate * 3)
    path = write(tmp_path / "x.wav", noise, rate, subtype="FLOAT")
    whole = read_window(path)
    assert len(whole) == 48000
    joined = np.concatenate([read_window(path, start / 4, 0.25) for start in range(12)])
    assert np.abs(joined - whole).max() < 1e-6
    assert np.abs(whole - signal.resample_poly(soundfile.read(path)[0], 16000, rate)).max() < 1e-5


def test_channels_are_averaged(tmp_path):
    samples = np.stack([np.full(16000, 0.5), np.full(16000, -0.25), np.full(16000, 0.125)], axis=1)
    path = write(tmp_path / "x.wav", samples, 16000, subtype="FLOAT")
    assert np.allclose(read_window(path), 0.125)


def test_only_the_window_is_decoded(tmp_path, monkeypatch):
    path = write(tmp_path / "x.flac", chirp(16000, 60), 16000)
    frames = []
    real = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda f, n, **kw: frames.append(n) or real(f, n, **kw))
    read_window(path, 40, 1)
    assert sum(frames) < 16000 + 10000


def test_lengths_padding_and_refusals(tmp_path):
    path = write(tmp_path / "x.wav", np.full(16000, 0.5), 16000)
    assert read_window(path, 0, 0.50003).shape == (8000,)  # rounded to the nearest sample
    assert read_window(path, 0.75, 0.5).shape == (4000,)  # the file ends before the window
    padded = pad_to(read_window(path, 0.75, 0.5), 8000)
    assert padded.shape == (8000,) and (padded[:4000] == 0.5).all() and (padded[4000:] == 0).all()
    assert read_window(path, 0.75).shape == (4000,)
    assert read_window(path, 0, 1.0).shape == (16000,)
    for start in (-0.1, 1.0, 5.0):
        with pytest.raises(AudioError, match="x.wav.*outside"):
            read_window(path, start, 0.5)
    odd = write(tmp_path / "odd.wav", chirp(44100, 1.0)[:-7], 44100)
    assert read_window(odd, 0.5, 10).shape == (15998 - 8000,)  # 44093 frames are 15997.5 samples, rounded up
    read_window(write(tmp_path / "least.wav", np.zeros(1600), 16000))
    with pytest.raises(AudioError, match="least.wav.*less than 0.1 s"):
        read_window(write(tmp_path / "least.wav", np.zeros(1599), 16000))


def broken_files(folder):
    """Writes one file for each way in which a whole file can be invalid: {name: part of the message}."""
    folder.mkdir(exist_ok=True)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.mp3").write_text("this is no music")
    (folder / "noise.ogg").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "headerless.raw").write_bytes(bytes(5000))
    (folder / "folder.wav").mkdir()
    write(folder / "silent.wav", np.zeros(0), 16000)
    write(folder / "short.wav", np.zeros(100), 16000)
    return {
        "empty.wav": "empty",
        "text.mp3": "not audio",
        "noise.ogg": "not audio",
        "headerless.raw": "not audio",
        "folder.wav": "directory",
        "missing.wav": "No such file",
        "silent.wav": "0 samples",
        "short.wav": "100 samples",
    }


def test_broken_files_are_refused_in_one_line(tmp_path):
    for name, part in broken_files(tmp_path / "bad").items():
        for call in (read_window, duration):
            with pytest.raises(AudioError) as caught:
                call(tmp_path / "bad" / name)
            message = str(caught.value)
            assert name in message and part in message and "\n" not in message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all files")
def test_no_permission(tmp_path):
    path = write(tmp_path / "x.wav", chirp(16000), 16000)
    path.chmod(0)
    with pytest.raises(AudioError, match="x.wav.*Permission denied"):
        read_window(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_only_inside_the_window(tmp_path, value):
    samples = chirp(16000, 4.0)
    samples[20000] = value
    path = write(tmp_path / "x.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="x.wav.*NaN or infinite"):
        read_window(path, 1.0, 1.0)
    assert np.isfinite(read_window(path, 2.0, 1.0)).all()


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg", "x.opus", "x.mp3"])
def test_truncated_files_are_refused_where_samples_are_missing(tmp_path, name):
    kind = {"format": "OGG", "subtype": "OPUS"} if name == "x.opus" else {}
    whole = write(tmp_path / name, chirp(16000, 20), 16000, **kind)
    expected = read_window(whole, 2.0, 1.0)
    data = whole.read_bytes()
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(data[: len(data) // 2])
    for start, seconds in ((15.0, 2.0), (8.0, 4.0), (2.0, None)):  # after the cut, across it, and from before it to the end
        with pytest.raises(AudioError, match=f"cut_{name}"):
            read_window(cut, start, seconds)
    if name != "x.flac":  # libsndfile cannot seek in a cut FLAC
        assert np.abs(read_window(cut, 2.0, 1.0) - expected).max() < 1e-3


def test_a_wav_from_a_pipe_of_unknown_length_is_read_to_its_end(tmp_path):
    path = write(tmp_path / "x.wav", chirp(16000, 2.0), 16000)
    data = bytearray(path.read_bytes())
    position = data.index(b"data") + 4
    data[position : position + 4] = data[4:8] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(data)
    assert read_window(path).shape == (32000,)


def test_an_mp3_without_a_length_can_be_read_to_its_end(tmp_path):
    path = write(tmp_path / "x.mp3", chirp(44100, 5.0), 44100, bitrate_mode="CONSTANT", compression_level=0.6)
    data = path.read_bytes()
    path.write_bytes(data[data.index(b"\xff\xfb", data.index(b"Info")) :])  # without the frame that holds it
    assert soundfile.info(path).frames > len(soundfile.read(path)[0])  # libsndfile now estimates, and too much
    assert abs(len(read_window(path)) - 80000) < 1600


def test_cut_windows_by_hand():
    cut_windows = lambda *given: np.stack([*audio.cut_windows(*given)])  # noqa: E731
    wave = np.arange(100, dtype=np.float32)
    assert np.array_equal(cut_windows(wave[:30], 10), wave[:30].reshape(3, 10))
    assert np.array_equal(cut_windows(wave[:34], 10)[:3], wave[:30].reshape(3, 10))
    for end in (31, 34, 35, 39):  # the rest becomes a window that ends with the audio
        assert np.array_equal(cut_windows(wave[:end], 10)[3:], [wave[end - 10 : end]])
    assert np.array_equal(cut_windows(wave[:3], 10), [[0, 1, 2, 0, 0, 0, 0, 0, 0, 0]])
    assert np.array_equal(cut_windows(wave[:14], 10), [wave[:10], wave[4:14]])
    long = np.arange(302, dtype=np.float32)
    assert np.array_equal(cut_windows(long[:301], 100), long[:300].reshape(3, 100))  # a rest of 1 % is dropped
    assert np.array_equal(cut_windows(long[:302], 100)[3:], [long[202:302]])


def test_an_impossible_sample_rate_is_refused(tmp_path):
    """The resampling filter for this rate would fill the memory."""
    soundfile.write(tmp_path / "fast.wav", np.zeros(200_000), 2**20 + 1)
    with pytest.raises(AudioError, match="fast.wav: 200000 samples at 1048577 Hz, not a sample rate of audio"):
        read_window(tmp_path / "fast.wav")


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("name", ["x.wav", "x.ogg", "x.mp3"])
def test_check_decodes_everything_in_blocks_and_keeps_nothing(tmp_path, monkeypatch, name, rate):
    with soundfile.SoundFile(path := tmp_path / name, "w", rate, 1) as file:
        for second in range(150):  # libsndfile crashes when it writes much Vorbis at once
            file.write(chirp(rate, 1.0, seed=second))
    read = []
    real = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda f, n, **kw: read.append((f.tell(), n)) or real(f, n, **kw))
    check(path)
    assert max(n for _, n in read) < 65 * rate and read[0][0] == 0 and read[-1][0] + read[-1][1] == soundfile.info(path).frames
    assert all(later <= begin + n for (begin, n), (later, _) in zip(read, read[1:]))  # no gaps
    for start, seconds, at in ((100.0, None, 149.9), (70.0, 65.0, 134.9)):
        read.clear()
        check(path, start, seconds)
        assert read[0][0] > (start - 3) * rate and read[-1][0] + read[-1][1] >= at * rate
    for start in (-1.0, 150.5):
        with pytest.raises(AudioError, match=f"{name}.*outside"):
            check(path, start)


def test_check_finds_faults_anywhere_in_the_clip(tmp_path):
    samples = chirp(16000, 150.0)
    samples[16000 * 140] = np.nan
    path = write(tmp_path / "x.wav", samples, 16000, subtype="FLOAT")
    for clip in ((), (139.0,), (100.0, 41.0)):
        with pytest.raises(AudioError, match="x.wav.*NaN or infinite"):
            check(path, *clip)
    check(path, 0.0, 139.0)
    check(path, 141.0)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(AudioError, match="x.wav: truncated"):
        check(path, 141.0)


@pytest.mark.parametrize("rate", [16000, 22050, 44100])
@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg", "x.mp3"])
def test_windows_of_a_clip_are_those_of_the_whole_clip(tmp_path, name, rate):
    path = write(tmp_path / name, chirp(rate, 20, channels=2), rate)
    for clip in ((0.0, None), (1.234, None), (3.0, 7.5), (17.0, 99.0), (2.0, 0.6)):
        whole = read_window(path, *clip)
        expected = np.stack([*audio.cut_windows(whole, 16000)])
        found = np.stack([*audio.cut_windows(audio.Clip(path, *clip), 16000)])
        assert found.dtype == np.float32 and found.shape == expected.shape == (max(1, -(-(len(whole) - 160) // 16000)), 16000)
        np.testing.assert_allclose(found, expected, atol=2e-6)
    for start in (-1.0, 21.0):
        with pytest.raises(AudioError, match=f"{name}.*outside"):
            next(audio.cut_windows(audio.Clip(path, start), 16000))


def test_windows_of_a_clip_are_decoded_one_by_one_from_one_open_file(tmp_path, monkeypatch):
    path, opened, read = write(tmp_path / "x.flac", chirp(16000, 60), 16000), [], []
    real_open, real_read = audio.open_audio, soundfile.SoundFile.read
    monkeypatch.setattr(audio, "open_audio", lambda path: opened.append(path) or real_open(path))
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda f, n, **kw: read.append(n) or real_read(f, n, **kw))
    windows = audio.cut_windows(audio.Clip(path), 16000)
    next(windows)
    assert opened == [path] and len(read) == 1 and read[0] <= 2 * 16000
    assert len([*windows]) == 59 and len(opened) == 1 and max(read) <= 3 * 16000
