"""MP3s without a Xing header: their frames, length and samples against libsndfile on the same file with the header; and silence where
libmpg123 prints."""
import io
import os
import struct
import sys
import threading

import numpy as np
import pytest
import soundfile

from mulan_min import mp3
from mulan_min.audio import AudioError, SoundBytes, check, duration, open_audio, read_window

RNG = np.random.default_rng(0)
DELAY = 1105 - 529      # samples by which the encoder (LAME, as stated in its header) delays the sound, less those of any decoder


def sound(rate, channels, seconds=8.0):
    """Four seconds of loud noise, then nearly silence: the bit rate of the first half says nothing about that of the second."""
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (round(rate * seconds), channels))
    return noise * np.where(np.arange(len(noise)) < 4 * rate, 1, 1e-4)[:, None]


def encoded(folder, rate, channels, mode="VARIABLE", seconds=8.0):
    """-> (MP3 with its Xing or Info header, the same without it)."""
    path = folder / f"{rate}-{channels}-{mode}.mp3"
    soundfile.write(path, sound(rate, channels, seconds), rate, bitrate_mode=mode, compression_level=0.5)
    whole = path.read_bytes()
    # the header is one frame; the next one begins with the same version and sample rate
    begin = min(i for i in range(50, 3000) if whole[i] == 0xFF and whole[i + 1] | 1 == whole[1] | 1 and whole[i + 2] & 12 == whole[2] & 12)
    return whole, whole[begin:]


@pytest.fixture(scope="module")
def stereo(tmp_path_factory):
    return encoded(tmp_path_factory.mktemp("mp3"), 44100, 2)


def read(content):
    with open_audio(SoundBytes(content, "x.mp3")) as file:
        samples = file.read(dtype="float32", always_2d=True)
        assert file.frames == len(samples)
        return samples


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000])
def test_a_file_without_a_header_has_the_length_and_samples_of_the_one_with_it(tmp_path, rate, channels, mode):
    whole, bare = encoded(tmp_path, rate, channels, mode)
    expected, found = soundfile.read(io.BytesIO(whole), dtype="float32", always_2d=True)[0], read(bare)
    assert len(expected) == 8 * rate
    frame = 1152 if rate >= 32000 else 576
    assert len(found) % frame == frame - 529 and DELAY <= len(found) - len(expected) < DELAY + 1152 + frame
    np.testing.assert_allclose(found[DELAY:][:len(expected)], expected, atol=1e-6)
    if mode == "VARIABLE":      # what libsndfile alone makes of it, so the test is about something
        assert abs(soundfile.info(io.BytesIO(bare)).frames - 8 * rate) > rate


def test_windows_of_a_file_without_a_header_are_those_of_the_whole(tmp_path, stereo):
    path = tmp_path / "x.mp3"
    path.write_bytes(stereo[1])
    whole = read(stereo[1]).mean(axis=1)
    assert duration(path) == len(whole) / 44100
    for start in [0, 1, len(whole) - 4410, *np.random.default_rng(0).integers(0, len(whole), 60)]:
        window = read_window(path, start / 44100, 0.1, sample_rate=44100)
        np.testing.assert_allclose(window, whole[start:start + 4410], atol=1e-6)
    assert len(read_window(path)) == -(-len(whole) * 160 // 441)
    check(path)


OTHER = b"\xff\xf3\x40\xc4" + bytes(100)      # a frame of another kind: MPEG 2, 22050 Hz, 32 kbit/s


def id3(size):
    """An ID3v2 tag with a picture whose bytes look like frames."""
    body = OTHER * (size // len(OTHER) + 1)
    return b"ID3\x04\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + body[:size]


def surroundings(frames):
    """{name: an MP3 with something before, between or behind its frames}."""
    noise = np.random.default_rng(2).integers(0, 255, 20_000, np.uint8).tobytes()      # never FF
    positions = [position for position, _ in mp3.frames(frames)]
    first, second = (frames[:positions[100]], frames[positions[100]:])
    riff = b"RIFF" + struct.pack("<I", len(frames) + 36) + b"WAVEfmt " + struct.pack("<IHHIIHHI", 16, 85, 2, 44100, 9999, 1, 0, 0)
    return {"tag": id3(300_000) + frames, "two tags": id3(70_000) + id3(100_000) + frames, "noise before": noise + frames,
            "zeros before": bytes(3000) + frames, "RIFF": riff + frames, "ID3v1": frames + b"TAG" + bytes(125),
            "APE": frames + b"APETAGEX" + noise, "noise behind": frames + noise, "noise between": first + noise + second,
            "much between": first + 10 * noise + second, "a tag between": first + id3(200_000) + second,
            "false headers between": first + b"\0" + b"\xff\xfb\xe0\x64" * 50 + second, "half a frame behind": frames + second[:200],
            "frames of another kind between": first + 5 * OTHER + second, "a byte between": first + b"\0" + second}


@pytest.mark.parametrize("name", [
    "tag", "two tags", "noise before", "zeros before", "RIFF", "ID3v1", "APE", "noise behind", "noise between", "much between",
    "a tag between", "false headers between", "half a frame behind", "a byte between",
    "frames of another kind between"])
def test_what_stands_before_between_and_behind_the_frames_is_not_heard(stereo, name):
    np.testing.assert_array_equal(read(surroundings(stereo[1])[name]), read(stereo[1]))


def test_the_stream_that_libsndfile_reads(stereo):
    """The header and the frames, without what stands between them, wherever it is read."""
    content = surroundings(stereo[1])["noise between"]
    header, parts = mp3.count_frames(content)
    expected, stream = header + stereo[1], mp3.Counted(content, header, parts)
    assert len(parts) == 2
    for offset in (0, 10, len(header) - 1, len(header), len(header) + parts[0][1] - 3, len(expected) - 5, len(expected), len(expected) + 9):
        for size in (1, 4, 2000):
            stream.seek(offset + 7)
            stream.seek(-7, 1)
            found = b""
            while len(found) < size and (part := stream.read(size)):
                found += part
                assert stream.tell() == offset + len(found)
            assert found[:size] == expected[offset:offset + size]
    stream.seek(-5, 2)
    assert stream.tell() == len(expected) - 5


@pytest.mark.parametrize("word", [b"VBRI", b"Xing", b"Info"])
def test_a_header_that_libsndfile_cannot_use_is_not_heard_either(stereo, word):
    """VBRI, which Fraunhofer's encoder writes, and a Xing header without the number of frames."""
    header = bytearray(stereo[0][:len(stereo[0]) - len(stereo[1])])
    header[36:44] = word + bytes(4)      # flags: nothing is stated
    np.testing.assert_array_equal(read(bytes(header) + stereo[1]), read(stereo[1]))


def test_a_file_that_states_its_length_is_left_to_libsndfile(stereo):
    assert mp3.count_frames(stereo[0]) is None
    whole = soundfile.read(io.BytesIO(stereo[0]), dtype="float32")[0]
    np.testing.assert_array_equal(read(stereo[0]), whole)
    # but where libsndfile does not see that it is an MP3, the frames are counted and the header is skipped
    np.testing.assert_array_equal(read(bytes(3000) + stereo[0]), read(stereo[1]))


def test_no_frames_in_other_files(tmp_path):
    for name in ("x.wav", "x.flac", "x.ogg"):
        soundfile.write(tmp_path / name, sound(44100, 2), 44100)
        assert mp3.count_frames(mp3.mapped(tmp_path / name)) is None
    short = b"\xff\xf3\x14\xc4" + bytes(16) + b"Info"      # 8 kbit/s at 24 kHz: shorter than a Xing header
    for content in (short + short, b"", b"ID3", b"ID3\4\0\0\x7f\x7f\x7f\x7f", b"\xff", b"\xff\xfb\x90\x64", np.random.default_rng(3).bytes(200_000)):
        assert mp3.count_frames(content) is None
    with pytest.raises(AudioError, match="x.mp3: not audio"):
        read(np.random.default_rng(3).bytes(200_000))


def test_a_file_is_counted_again_only_when_it_has_changed(tmp_path, stereo, monkeypatch):
    path, counted = tmp_path / "x.mp3", []
    count = mp3.count_frames
    monkeypatch.setattr(mp3, "count_frames", lambda *given: counted.append(1) or count(*given))
    path.write_bytes(stereo[1])
    lengths = [duration(path), duration(path), len(read_window(path, 1.0, 0.5)) / 16000]
    assert len(counted) == 1 and lengths[0] == lengths[1]
    positions = [position for position, _ in mp3.frames(stereo[1])]
    path.write_bytes(stereo[1][:positions[50]])
    assert duration(path) == (50 * 1152 - 529) / 44100 and len(counted) == 2


# ---- what libmpg123 prints ---------------------------------------------------------------------


def damaged(stereo):
    """An MP3 with its header, and every 20th frame destroyed behind its own header."""
    content = bytearray(stereo[0])
    for position, length in [*mp3.frames(stereo[0])][10::20]:
        content[position + 4:position + length] = b"\xff" * (length - 4)
    return bytes(content)


def test_libmpg123_prints_nothing(stereo, tmp_path, capfd):
    path = tmp_path / "x.mp3"
    path.write_bytes(damaged(stereo))
    soundfile.read(path)
    assert "libmpg123" in capfd.readouterr().err      # what it does alone
    for source in (path, SoundBytes(damaged(stereo), "y")):
        read_window(source, 1.0, 2.0)
        check(source)
        assert capfd.readouterr().err == ""
    path.write_bytes(b"\xff\xfb\x90\x64" + RNG.bytes(5000))
    with pytest.raises(AudioError):
        read_window(path)
    assert capfd.readouterr().err == ""


def test_only_inside_of_it_nothing_is_printed(capfd):
    with pytest.raises(KeyError), mp3.without_prints():
        os.write(2, b"Note: Illegal header")
        raise KeyError
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
    for _ in range(3):      # it can be entered again, and leaves no descriptors open
        before = os.dup(2)
        os.close(before)
        with mp3.without_prints():
            pass
        after = os.dup(2)
        os.close(after)
        assert before == after


def test_descriptor_2_of_a_program_without_a_terminal_is_left_alone(monkeypatch, stereo):
    with monkeypatch.context() as patch:      # pytest itself calls os.dup2 after a test
        patch.setattr(sys, "__stderr__", None)
        patch.setattr(os, "dup2", lambda *_: pytest.fail("changed"))
        assert len(read_window(SoundBytes(stereo[0], "x"), 1.0, 0.5)) == 8000


def test_threads_that_read_at_once_leave_stderr_as_it_was(stereo, capfd):
    content, expected, found = damaged(stereo), read_window(SoundBytes(damaged(stereo), "x")), []
    threads = [threading.Thread(target=lambda: found.extend(read_window(SoundBytes(content, "x")) for _ in range(5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    capfd.readouterr()
    os.write(2, b"here")
    assert capfd.readouterr().err == "here" and len(found) == 20
    assert all(np.array_equal(window, expected) for window in found)
