"""MP3 files. A Xing header, which is their first frame, states the number of frames. Without it libsndfile guesses the length from
the first bit rate and cannot read beyond. So the frames are counted here, and libsndfile gets them behind a Xing header."""
import mmap
import os
import re
import sys
import threading
from contextlib import contextmanager

KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320), (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
# A frame of layer III begins with FF, a byte for the version, one for bit rate, sample rate and padding, one for the channels. The
# second and third byte without their last bits (CRC, private) -> length in bytes. The lines are for MPEG 1, 2 and 2.5.
LENGTHS = {(version, i << 4 | j << 2 | padding << 1): samples * kbps * 125 // (rate // divisor) + padding
           for version, divisor, samples, table in ((0xFA, 1, 1152, KBPS[0]), (0xF2, 2, 576, KBPS[1]), (0xE2, 4, 576, KBPS[1]))
           for i, kbps in enumerate(table, 1) for j, rate in enumerate((44100, 48000, 32000)) for padding in (0, 1)}
START = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]|ID3[\2-\4]")      # of a frame, or of a tag
NEAR = 65536      # the first frame must begin within so many bytes after the tags (our choice)
descriptor_2 = threading.Lock()


def mapped(path):
    """The bytes of a file, which are read from the disk where they are used."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if os.path.getsize(path) else b""


def frame_at(data, at):
    """((version, sample rate), length in bytes) of the frame at byte `at`; (None, 0) if there is none."""
    key = (data[at + 1] & 0xFE, data[at + 2] & 0xFE) if data[at:at + 1] == b"\xff" and at + 2 < len(data) else None
    return ((key[0], key[1] & 0x0C), LENGTHS[key]) if key in LENGTHS else (None, 0)


def frames(data):
    """Yields (first byte, length in bytes) of each complete frame, whatever stands before, between and behind them. The first frame
    after something else must have another one of its kind behind it."""
    at, end, kind, limit = 0, None, None, NEAR
    while at < (len(data) if kind else limit):
        found, length = frame_at(data, at)
        if found and kind in (None, found) and (at == end or frame_at(data, at + length)[0] == found):
            if at + length <= len(data):
                yield at, length
            kind, end = found, at + length
            at = end
        elif data[at:at + 3] == b"ID3" and at + 9 < len(data):      # a tag; a picture in it may look like frames
            at += 10 + sum(byte << shift for byte, shift in zip(data[at + 6:at + 10], (21, 14, 7, 0)))
            limit = at + NEAR
        elif candidate := START.search(data, at + 1):
            at = candidate.start()
        else:
            return


def count_frames(data, is_readable=True):
    """The bytes of a file -> (a Xing header with the number of its frames, [(first byte, length) of each part of the file that holds
    frames only]). None if it is no MP3, or if it states its length and libsndfile can read it."""
    count, parts, first = 0, [], None
    for at, length in frames(data):
        head = b"" if count else data[at:at + 52].ljust(52, b"\0")
        if stated := re.search(rb"Xing|Info|VBRI", head[:48]):      # this frame holds no audio
            if is_readable and stated[0] != b"VBRI" and head[stated.end() + 3] & 1:      # libsndfile does not know VBRI
                return None
            continue
        count, first = count + 1, first or data[at:at + 4]
        begin, size = parts.pop() if parts and sum(parts[-1]) == at else (at, 0)
        parts.append((begin, size + length))
    if not count:
        return None
    version, quality, channels = first[1] & 0xFE, 0xE0 | first[2] & 0x0C, first[3]      # the highest bit rate
    side = ((32, 17), (17, 9))[version != 0xFA][channels >= 0xC0]      # bytes before the word, for MPEG 1 and 2: stereo, mono
    header = bytes((0xFF, version | 1, quality, channels)) + bytes(side) + b"Xing\0\0\0\1" + count.to_bytes(4, "big")
    return header.ljust(LENGTHS[version, quality], b"\0"), parts


class Counted:
    """The result of count_frames(data) as a file for libsndfile: the header, then the frames."""

    def __init__(self, data, header, parts):
        self.pieces, self.at = [header, *(memoryview(data)[begin:begin + length] for begin, length in parts)], 0

    def tell(self):
        return self.at

    def seek(self, offset, whence=0):
        self.at = max(0, offset + (0, self.at, sum(map(len, self.pieces)))[whence])

    def read(self, size):
        first = self.at      # in the piece
        for piece in self.pieces:
            if first < len(piece):
                self.at += len(content := bytes(piece[first:first + size]))
                return content
            first -= len(piece)
        return b""


@contextmanager
def without_prints():
    """libmpg123 prints lines about damaged frames, without the file's name, to file descriptor 2. In this context, which one thread at
    a time may enter, nothing is printed there."""
    if sys.__stderr__ is None:      # a program without a terminal: descriptor 2 may be any file
        yield
        return
    with descriptor_2, open(os.devnull, "wb") as nowhere, open(os.dup(2), "wb") as stderr:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr.fileno(), 2)
