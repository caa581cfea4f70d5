"""Audio files -> mono float32 waveforms: seek, decode, mix channels, resample; pad and cut into windows."""
import io
import os
import re
from collections import namedtuple
from contextlib import nullcontext
from fractions import Fraction
from functools import lru_cache

import numpy as np
import soundfile
from scipy import signal

from mulan_min import mp3
from mulan_min.errors import UserError

SHORTEST = 0.1  # s; shorter files are not recordings (our choice)
LOWEST_RATE, HIGHEST_RATE = 4000, 400_000  # Hz; a rate from a damaged header could fill the memory (our choice)
MAX_SAMPLES_PER_BYTE = 1024  # over all channels; FLAC reaches 600 for silence, a damaged header may state more (our choice)
# Frames decoded before the window and thrown away: after a seek, an MP3 decoder lacks bits from earlier frames, and an Opus decoder
# lacks its predictions. With these frames, the error of Opus is about 60 dB below the signal.
PRE_ROLL = 8192


class AudioError(UserError):
    """An audio file that cannot be used; the one-line message names the file."""


class SoundBytes(io.BytesIO):
    """An audio file in memory. It is used in place of a path; `name` appears in messages."""

    def __init__(self, content, name):
        super().__init__(content)
        self.content, self.name = content, name

    def __str__(self):
        return self.name

    def seek(self, offset, whence=0):  # for a damaged file libsndfile may seek before the first byte
        return super().seek(min(max(offset, -(2**62) if whence else 0), 2**62), whence)


Clip = namedtuple("Clip", "path start seconds", defaults=(0.0, None))  # a part of a file, as for read_window


def open_audio(path) -> soundfile.SoundFile:
    """Opens a path, or SoundBytes, for reading. Raises AudioError for a file that is missing, not a regular file, unreadable,
    empty, not audio, or shorter than 0.1 s, and for a header with impossible values."""
    try:
        if isinstance(path, SoundBytes):
            source, size = path, len(path.content)
            path.seek(0)
        else:
            size = os.stat(path).st_size
            if not os.path.isfile(path):  # opening a pipe would wait for its writer
                raise AudioError(f"{path}: not a file, but a directory, a pipe or a device")
            open(path, "rb").close()  # libsndfile does not report a missing permission
            source = os.fsencode(path) if os.name == "posix" else os.fspath(path)  # names on POSIX need not be UTF-8
        file = _sound_file(path, source)
    except (OSError, ValueError) as error:  # missing, no permission; ValueError: the name contains a zero byte
        raise AudioError(f"{path}: {getattr(error, 'strerror', error)}") from None
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: for a name ending in .raw soundfile needs a format
        reason = getattr(error, "error_string", error)  # without the path, which the message has already
        raise AudioError(f"{path}: {f'not audio that libsndfile can read ({reason})' if size else 'the file is empty'}") from None
    problem = f"less than {SHORTEST} s" if file.frames < SHORTEST * file.samplerate else None
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        problem = f"not a sample rate of audio ({LOWEST_RATE} to {HIGHEST_RATE} Hz)"
    elif file.frames * file.channels > MAX_SAMPLES_PER_BYTE * size:
        problem = f"more than {size} bytes can hold"
    if problem:
        file.close()
        raise AudioError(f"{path}: {file.frames} samples at {file.samplerate} Hz, {problem}")
    return file


def _sound_file(path, source) -> soundfile.SoundFile:
    """Opens `source`, which stands for `path`, with libsndfile; an MP3 that does not state its length, as counted frames."""
    file = failure = None
    with mp3.without_prints():
        try:
            file = soundfile.SoundFile(source)
        except (soundfile.LibsndfileError, TypeError) as error:  # perhaps an MP3 that begins with something else
            failure = error
        if failure or file.format == "MP3":
            if source is path:  # in memory
                data, counted = path.content, mp3.count_frames(path.content, not failure)
            else:
                data, counted = mp3.mapped(path), _count(path, not failure, os.path.getsize(path), os.stat(path).st_mtime_ns)
            if counted:
                return soundfile.SoundFile(mp3.Counted(data, *counted))
    if failure:
        raise failure
    return file


@lru_cache(maxsize=200_000)
def _count(path, is_readable, size, changed):
    """mp3.count_frames of a file, once for each size and time of its last change."""
    return mp3.count_frames(mp3.mapped(path), is_readable)


def duration(path) -> float:
    """Length in seconds according to the header; nothing is decoded. Raises AudioError as open_audio does."""
    with open_audio(path) as file:
        return file.frames / file.samplerate


def _is_truncated(path, file: soundfile.SoundFile) -> bool:
    """True if the end of a WAV or Ogg file is missing. For such a file libsndfile reports only the length that is left."""
    if file.format == "OGG":
        with io.BytesIO(path.content) if isinstance(path, SoundBytes) else open(path, "rb") as source:
            source.seek(max(0, source.seek(0, io.SEEK_END) - 65536))  # an Ogg page is at most 65307 bytes
            page = source.read()
        flags = page.rfind(b"OggS") + 5
        return not (flags < len(page) and page[flags] & 4)  # flag 4: the last page of the stream
    sizes = re.search(r"data : (\d+) \(should be (\d+)\)", file.extra_info)  # libsndfile's log of the header
    # a size near 2^31 or above comes from a pipe: the writer did not know the length
    return bool(sizes) and int(sizes[2]) < int(sizes[1]) < 0x7FFFF000


def _decode(path, file: soundfile.SoundFile, first: int, last: int) -> np.ndarray:
    """Frames first..last of the file as mono float32 (at most last - first,). They must exist according to the header."""
    # inside the last page of an Ogg file, libvorbis seeks to a wrong frame, some hundreds away: start before that page
    begin = max(0, min(first - PRE_ROLL, file.frames - 2 * file.samplerate))
    try:
        with mp3.without_prints() if file.format == "MP3" else nullcontext():
            file.seek(begin)
            frames = file.read(last - begin, dtype="float32", always_2d=True)  # (frames, channels)
    except (soundfile.LibsndfileError, MemoryError) as error:  # MemoryError: the header's length is wrong
        raise AudioError(f"{path}: cannot be decoded here, perhaps truncated ({error})") from None
    end = begin + len(frames)
    tolerance = SHORTEST * file.samplerate if file.format == "MP3" else 0  # the length of an MP3 may be an estimate
    if last - end > tolerance or end <= first < last:
        raise AudioError(f"{path}: truncated, the audio ends at frame {end} of {file.frames}, {end / file.samplerate:.2f} s")
    # Adding the channels is 20 times faster than mean(axis=1), and unlike a matrix product it starts no threads.
    with np.errstate(all="ignore"):  # values that are not finite are refused below
        mono = sum(frames[first - begin :].T) * np.float32(1 / file.channels)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: NaN or infinite samples")
    return mono


@lru_cache(maxsize=8)
def _low_pass(up: int, down: int) -> np.ndarray:
    """The filter that resample_poly would compute again in each call: 20 periods of the lower rate, Kaiser window with beta 5."""
    return signal.firwin(20 * max(up, down) + 1, 1 / max(up, down), window=("kaiser", 5.0)).astype(np.float32)


def read_window(path, start=0.0, seconds=None, sample_rate=16000) -> np.ndarray:
    """Reads `seconds` of audio from `start` (None: to the end): mono float32 (round(seconds * sample_rate),), or fewer samples
    where the file ends earlier; pad_to adds zeros.

    Reads WAV, FLAC, Ogg Vorbis, Opus, MP3 and everything else that libsndfile reads, with any sample rate and number of channels.
    The channels are averaged. Only the window and a margin are decoded, but the result is the same as when the whole file is
    resampled and then cut. Raises AudioError as open_audio does, and for a truncated file, NaN or infinite samples, or a `start`
    outside of it.
    """
    with open_audio(path) as file:
        return _resample(path, file, *_bounds(path, file, start, seconds, sample_rate), sample_rate)


def check(path, start=0.0, seconds=None):
    """Decodes the clip in blocks of a minute, and keeps nothing. Raises AudioError where read_window would."""
    with open_audio(path) as file:
        first, last = _bounds(path, file, start, seconds, file.samplerate)
        for block in range(first, last, 60 * file.samplerate):
            _decode(path, file, block, min(last, block + 60 * file.samplerate))


def _bounds(path, file, start, seconds, sample_rate):
    """The clip's first sample and the sample behind its last one, at `sample_rate`."""
    total = -(-file.frames * sample_rate // file.samplerate)  # samples of the whole file after resampling, rounded up
    first = round(start * sample_rate)
    last = total if seconds is None else first + round(seconds * sample_rate)
    if last >= total and _is_truncated(path, file):
        raise AudioError(f"{path}: truncated, only {file.frames / file.samplerate:.2f} s are left")
    if not 0 <= first < total:
        raise AudioError(f"{path}: a window at {start:g} s is outside of the file's {file.frames / file.samplerate:.2f} s")
    return first, min(last, total)


def _resample(path, file, first, last, sample_rate):
    """Samples first..last of the file at `sample_rate`: mono float32 (last - first,)."""
    up, down = Fraction(sample_rate, file.samplerate).as_integer_ratio()  # in lowest terms
    if up == down:
        return _decode(path, file, first, last)
    # Input frames within half a filter of the window. The block starts at a multiple of `down`, where an output sample lies
    # exactly on an input frame, so the filter has the same phase as in the whole file.
    margin = 10 * max(up, down) // up + 1
    block = max(0, (first * down // up - margin) // down)
    end = min(file.frames, last * down // up + margin + 1)
    resampled = signal.resample_poly(_decode(path, file, block * down, end), up, down, window=_low_pass(up, down))
    return resampled[first - block * up : last - block * up]


def pad_to(waveform: np.ndarray, samples: int) -> np.ndarray:
    """(n,) -> (max(n, samples),): adds zeros at the end if it is too short, else returns the same array, not a copy."""
    return waveform if len(waveform) >= samples else np.pad(waveform, (0, samples - len(waveform)))


def cut_windows(item, window_samples: int, sample_rate=16000):
    """Yields the consecutive windows (window_samples,) of a waveform (samples,), or of a Clip, for evaluation (our choice). There
    is at least one. If samples are left at the end, the last window overlaps the one before it and ends with the audio. Less than
    1 % of a window, which may come from resampling, is dropped. Only audio shorter than one window is padded with zeros.

    A Clip is decoded window by window. Raises AudioError as read_window does.
    """
    with open_audio(item.path) if isinstance(item, Clip) else nullcontext() as file:
        first, last = _bounds(item.path, file, item.start, item.seconds, sample_rate) if file else (0, len(item))
        for i in range(max(1, -(-(last - first - window_samples // 100) // window_samples))):
            start = first + min(i * window_samples, max(0, last - first - window_samples))
            end = min(last, start + window_samples)
            yield pad_to(_resample(item.path, file, start, end, sample_rate) if file else item[start:end], window_samples)
