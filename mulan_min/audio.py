"""Audio files to mono float32: read a window by seeking, down-mix, resample, crop or pad; cut windows."""

import io
import math
import os
import re
import stat
from functools import lru_cache

import numpy as np
import soundfile
from scipy import signal

from mulan_min.errors import UserError

SHORTEST = 0.1  # seconds; less than this is not a recording (our choice)
# Hz; nobody sells music beyond. Of a made-up rate the filter that resamples it, or what it makes of the file, could fill the
# memory (our choice)
LOWEST, HIGHEST = 4000, 400_000
DENSEST = 1024  # samples of all channels in a byte; FLAC's silence has 600, a header that lies any number (our choice)
# Frames decoded before the window and thrown away, because after a seek MP3 lacks the bits that earlier
# frames saved for it, and Opus its predictions, which settle to about 60 dB below the sound.
SETTLE = 8192


class AudioError(UserError):
    """A sound file that cannot be used; the one-line message names the file."""


class SoundBytes(io.BytesIO):
    """A sound file in memory, to give where a path is asked for; `name` is for messages."""

    def __init__(self, content, name):
        super().__init__(content)
        self.content, self.name = content, name

    def __str__(self):
        return self.name

    def seek(self, offset, whence=0):  # in a damaged file libsndfile may ask for a place before the first byte
        return super().seek(min(max(offset, -(2**62) if whence else 0), 2**62), whence)


def _last_bytes(path, count) -> bytes:
    """At most `count` bytes from the end of a file."""
    if isinstance(path, SoundBytes):
        return path.content[-count:]
    with open(path, "rb") as plain:
        plain.seek(max(0, os.path.getsize(path) - count))
        return plain.read()


def open_audio(path) -> soundfile.SoundFile:
    """Open a file, or SoundBytes, to read. Raises AudioError: missing, no file, unreadable, empty, not audio, shorter than
    0.1 s, or a header that cannot be true."""
    try:
        if isinstance(path, SoundBytes):
            name, size = path, len(path.content)
            path.seek(0)
        else:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode):  # to open a pipe is to wait for who writes it
                raise AudioError(f"{path}: not a file, but a directory, a pipe or a device")
            # as bytes, for names that are not UTF-8; Windows has none of those
            name, size = os.fsencode(path) if os.name == "posix" else os.fspath(path), status.st_size
        file = soundfile.SoundFile(name)
    except (OSError, ValueError) as error:  # missing; a name that holds a zero
        raise AudioError(f"{path}: {getattr(error, 'strerror', error)}") from None
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name ending in .raw wants a format
        why = getattr(error, "error_string", error)  # without the name, which is said already
        try:
            reason = "the file is empty" if not _last_bytes(path, 1) else f"not audio that libsndfile can read ({why})"
        except OSError as os_error:
            reason = os_error.strerror  # no permission
        raise AudioError(f"{path}: {reason}") from None
    fault = f"less than {SHORTEST} s" if file.frames < SHORTEST * file.samplerate else None
    if not LOWEST <= file.samplerate <= HIGHEST:
        fault = "no rate of sound"
    elif file.frames * file.channels > DENSEST * size:
        fault = f"more than {size} bytes can hold"
    if fault:
        file.close()
        raise AudioError(f"{path}: {file.frames} samples at {file.samplerate} Hz, {fault}")
    return file


def duration(path) -> float:
    """Length in seconds as the header tells it, nothing decoded. Raises AudioError as read_window does."""
    with open_audio(path) as file:
        return file.frames / file.samplerate


def _is_cut_short(path, file: soundfile.SoundFile) -> bool:
    """True if the file was longer once: of a WAV or Ogg libsndfile trusts what is left; its header tells."""
    if file.format == "OGG":
        page = _last_bytes(path, 65536)  # an Ogg page is at most 65307 bytes
        flags = page.rfind(b"OggS") + 5
        return not (flags < len(page) and page[flags] & 4)  # 4: this page ends the stream
    sizes = re.search(r"data : (\d+) \(should be (\d+)\)", file.extra_info)  # libsndfile's log of the header
    # a size near 2^31 or above was written to a pipe, before the length was known
    return bool(sizes) and int(sizes[2]) < int(sizes[1]) < 0x7FFFF000


def _read(path, file: soundfile.SoundFile, first: int, last: int) -> np.ndarray:
    """Frames first..last of the file, which the header says exist, as mono float32 (last - first,)."""
    # libvorbis seeks a few hundred samples wrong inside the last page of an Ogg file, so start before that
    # page
    settle = max(0, min(first - SETTLE, file.frames - 2 * file.samplerate))
    try:
        file.seek(settle)
        sound = file.read(last - settle, dtype="float32", always_2d=True)  # (frames, channels)
    except (soundfile.LibsndfileError, MemoryError) as error:  # the latter for a length that the header made up
        raise AudioError(f"{path}: cannot be decoded here, perhaps truncated ({error})") from None
    lacking = last - settle - len(sound)
    tolerance = SHORTEST * file.samplerate if file.format == "MP3" else 0  # an MP3's length may be a guess
    if lacking > tolerance:
        end, promised = (last - lacking) / file.samplerate, file.frames / file.samplerate
        raise AudioError(f"{path}: truncated, the sound ends at {end:.2f} s of {promised:.2f} s")
    # 20 times faster than mean(axis=1), and unlike a matrix product it wakes no threads, which readers have none of to spare
    with np.errstate(all="ignore"):  # what is not finite is refused below
        sound = sound[:, 0] if file.channels == 1 else sum(sound[:, c] for c in range(file.channels)) * np.float32(1 / file.channels)
    sound = pad_to(sound[first - settle :], last - first)
    if not np.isfinite(sound).all():
        raise AudioError(f"{path}: NaN or infinite samples")
    return sound


@lru_cache(maxsize=8)
def _low_pass(up: int, down: int) -> np.ndarray:
    """The filter resample_poly would design anew at each call: 20 periods of the lower rate, Kaiser 5."""
    widest = max(up, down)
    return signal.firwin(20 * widest + 1, 1 / widest, window=("kaiser", 5.0)).astype(np.float32)


def read_window(path, start=0.0, seconds=None, sample_rate=16000, pad=True) -> np.ndarray:
    """Read `seconds` from `start` (None: to the end) as mono float32 (round(seconds * sample_rate),).

    Any rate and channel count of WAV, FLAC, Ogg Vorbis, Opus, MP3 and whatever else libsndfile reads. Only
    the window is decoded, with the margin that makes it equal to that window of the whole file resampled.
    Channels are averaged. A file that ends inside the window is completed with zeros, or refused when pad is
    False. Raises AudioError naming the file: missing, unreadable, empty, not audio, shorter than 0.1 s,
    truncated, NaN or infinite samples, or `start` outside of the file. An MP3 of variable rate without a Xing
    header does not know its length: its end is then an estimate, and a guess too long looks like a truncated
    file.
    """
    with open_audio(path) as file:
        rate, length = file.samplerate, file.frames
        ends = f"{length / rate:.2f} s"
        divisor = math.gcd(rate, sample_rate)
        up, down = sample_rate // divisor, rate // divisor
        total = -(-length * up // down)  # samples of the whole file after resampling, rounded up
        first = round(start * sample_rate)
        last = total if seconds is None else first + round(seconds * sample_rate)
        if last >= total and _is_cut_short(path, file):
            raise AudioError(f"{path}: truncated, only {ends} are left")
        if not 0 <= first < total:
            raise AudioError(f"{path}: a window at {start:g} s is outside of the file's {ends}")
        missing = max(0, last - total)
        if missing and not pad:
            raise AudioError(f"{path}: ends at {ends}, before the window's end at {last / sample_rate:g} s")
        last = min(last, total)
        if rate == sample_rate:
            sound = _read(path, file, first, last)
        else:
            # Input frames within half a filter of the window. The block starts at a multiple of `down`, where
            # input and output samples fall together, so the filter has the phase it has in the whole file.
            margin = 10 * max(up, down) // up + 1
            block = max(0, (first * down // up - margin) // down)
            end = min(length, last * down // up + margin + 1)
            sound = _read(path, file, block * down, end)
            sound = signal.resample_poly(sound, up, down, window=_low_pass(up, down))
            sound = sound[first - block * up : last - block * up]
    return pad_to(sound, len(sound) + missing)


def pad_to(sound: np.ndarray, samples: int) -> np.ndarray:
    """(n,) -> (max(n, samples),): zeros at the end where it is too short, else the same array, not copied."""
    return sound if len(sound) >= samples else np.pad(sound, (0, samples - len(sound)))


def cut_windows(waveform: np.ndarray, window_samples: int) -> np.ndarray:
    """Cut (samples,) into (n, window_samples) for evaluation, n >= 1, one after the other (our choice).

    All of the sound is heard: what is left at the end becomes a last window moved back to end with the audio, so
    no window holds added silence unless the whole waveform is shorter than one window. Less than a hundredth of
    a window, as resampling may leave, is dropped.
    """
    waveform = pad_to(waveform, window_samples)
    count = max(1, -(-(len(waveform) - window_samples // 100) // window_samples))
    starts = np.minimum(np.arange(count) * window_samples, len(waveform) - window_samples)
    return np.stack([waveform[s : s + window_samples] for s in starts])
