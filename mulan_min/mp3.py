"""MP3 files. A Xing header, which is their first frame, states the number of frames. Without it libsndfile guesses the length from
the first bit rate and cannot read beyond. So the frames are counted here, and libsndfile gets them behind a Xing header."""
import os
import re
import sys
import tempfile
import threading
from contextlib import contextmanager

KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320), (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
# A frame of layer III begins with FF, a byte for the version, one for bit rate, sample rate and padding, one for the channels. The
# second and third byte without their last bits (CRC, private) -> length in bytes. The lines are for MPEG 1, 2 and 2.5.
LENGTHS = {(version, i << 4 | j << 2 | padding << 1): samples * kbps * 125 // (rate // divisor) + padding
           for version, divisor, samples, table in ((0xFA, 1, 1152, KBPS[0]), (0xF2, 2, 576, KBPS[1]), (0xE2, 4, 576, KBPS[1]))
           for i, kbps in enumerate(table, 1) for j, rate in enumerate((44100, 48000, 32000)) for padding in (0, 1)}
NEAR = 65536      # the first frame must begin within so many bytes after the tags (our choice)
PRINTED = re.compile(rb"^(\[src/libmpg123|Note: |Warning: ).*\n|^\n", re.MULTILINE)
redirecting = threading.Lock()


def frame_at(source, position):
    """((version, sample rate), length in bytes) of the frame at `position` of a binary file; (None, 0) if there is none."""
    source.seek(position)
    head = source.read(3)
    key = (head[1] & 0xFE, head[2] & 0xFE) if len(head) == 3 and head[0] == 0xFF else None
    return ((key[0], key[1] & 0x0C), LENGTHS[key]) if key in LENGTHS else (None, 0)


def frames(source):
    """Yields (position, length in bytes) of each complete frame, whatever stands before, between and behind them. The first frame
    after something else must have another one of its kind behind it."""
    size, position, end, kind, limit = source.seek(0, 2), 0, None, None, NEAR
    while position < (size if kind else limit):
        found, length = frame_at(source, position)
        if found and kind in (None, found) and (position == end or frame_at(source, position + length)[0] == found):
            if position + length <= size:
                yield position, length
            kind, position = found, position + length
            end = position
            continue
        source.seek(position)
        block = source.read(4096)
        if block[:3] == b"ID3" and len(block) > 9:      # a tag; a picture in it may look like frames
            position += 10 + sum(byte << shift for byte, shift in zip(block[6:10], (21, 14, 7, 0)))
            limit = position + NEAR
        else:
            candidate = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]").search(block, 1)
            position += candidate.start() if candidate else max(1, len(block) - 1)


def count_frames(source):
    """A binary file -> (a Xing header with the number of its frames, [(position, length in bytes) of each part of the file that holds
    frames only]). None if the file states its length, or is no MP3."""
    count, parts = 0, []
    for position, length in frames(source):
        if not count:
            source.seek(position)
            first = source.read(length)
            if stated := re.search(rb"Xing|Info|VBRI", first[:48]):      # this frame holds no audio
                if stated[0] != b"VBRI" and first[stated.end() + 3] & 1:      # libsndfile does not know VBRI
                    return None
                continue
        if not count or sum(parts[-1]) != position:
            parts.append((position, 0))
        parts[-1], count = (parts[-1][0], parts[-1][1] + length), count + 1
    if not count:
        return None
    version, quality, channels = first[1] & 0xFE, 0xE0 | first[2] & 0x0C, first[3]      # the highest bit rate
    side = ((32, 17), (17, 9))[version != 0xFA][channels >= 0xC0]      # bytes before the word, for MPEG 1 and 2: stereo, mono
    header = bytes((0xFF, version | 1, quality, channels)) + bytes(side) + b"Xing\0\0\0\1" + count.to_bytes(4, "big")
    return header.ljust(LENGTHS[version, quality], b"\0"), parts


class Counted:
    """The result of count_frames as a binary file for libsndfile: the header, then the frames of `source`."""

    def __init__(self, source, header, parts):
        self.source, self.header, self.parts, self.position = source, header, parts, 0
        self.size = len(header) + sum(length for _, length in parts)

    def tell(self):
        return self.position

    def seek(self, offset, whence=0):
        self.position = max(0, offset + (0, self.position, self.size)[whence])

    def readinto(self, buffer):
        begin, data = self.position - len(self.header), self.header[self.position:self.position + len(buffer)]
        for position, length in self.parts if begin >= 0 else ():
            if begin < length:
                self.source.seek(position + begin)
                data = self.source.read(min(len(buffer), length - begin))
                break
            begin -= length
        buffer[:len(data)] = data
        self.position += len(data)
        return len(data)


@contextmanager
def without_prints():
    """libmpg123 prints lines about damaged frames, without the file's name, to file descriptor 2. In this context they are dropped,
    and what others print there meanwhile is printed at its end. Does nothing while another thread is in it."""
    if sys.__stderr__ is None or not redirecting.acquire(blocking=False):      # None: descriptor 2 may be any file
        yield
        return
    try:
        with tempfile.TemporaryFile() as printed, open(os.dup(2), "wb") as stderr:
            os.dup2(printed.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(stderr.fileno(), 2)
                printed.seek(0)
                stderr.write(PRINTED.sub(b"", printed.read()))
    finally:
        redirecting.release()
