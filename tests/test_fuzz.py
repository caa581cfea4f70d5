"""Thousands of damaged and made-up files for every reader: nothing but our own errors comes out, soon, and without much memory.

Shards have theirs in test_shards.py. FUZZ=20000 pytest tests/test_fuzz.py looks further.
"""
import json
import math
import os
import random
import re
import resource
import struct
import time
import zipfile
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer

from mulan_min import audio, checkpoint, data
from mulan_min.audio import AudioError
from mulan_min.config import config_from_dict, resolve
from mulan_min.errors import UserError
from mulan_min.mulan import MuLan
from mulan_min.tag_classifier import TagClassifier
from mulan_min.wordpiece import train_wordpiece

COUNT = int(os.environ.get("FUZZ", 2000))
MEMORY = 300      # MB that any number of files below 100 kB may take
# Numbers where counters of 1, 2, 4 and 8 bytes are at their ends, and claims of sizes that no file has.
SIZES = [0, 1, 2, 127, 128, 255, 32767, 32768, 65535, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**36 - 1, 2**60, 2**63 - 1, 2**64 - 1]


def resident(field):
    """VmRSS or VmHWM, the largest so far, in MB; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), 0)


@pytest.fixture(autouse=True)
def little_memory():
    """What a test held at its peak, beyond what the process held before, is bounded; gigabytes at once are not to be had."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")      # forgets the peak
    before, limits = resident("VmRSS"), resource.getrlimit(resource.RLIMIT_AS)
    if before:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + 2**32, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert resident("VmHWM") - before < MEMORY


class Tally(Counter):
    """Counts by kind of input what could be used and what was refused."""

    def run(self, kind, call, error, seconds=1.0):
        """What `call` returns, or None where it raises `error`, with one line, in time."""
        began = time.process_time()
        try:
            result = call()
            self[kind, True] += 1
        except error as refusal:
            result = None
            self[kind, False] += 1
            message = str(refusal)
            assert message and message.isprintable() and len(message) < 4000, message
        assert time.process_time() - began < seconds
        return result

    def check(self, share):
        """Of each kind at least this share was refused, and as large a one was used: else the mutants prove nothing."""
        print({f"{kind} {'used' if used else 'refused'}": count for (kind, used), count in sorted(self.items())})
        for kind in {kind for kind, _ in self}:
            refused, used = self[kind, False], self[kind, True]
            assert min(refused, used) >= share * (refused + used), (kind, refused, used)


def mutate(content, rng, head=300, others=()):
    """A copy with one to three faults: bits, bytes, numbers, pieces cut out or put in, the end missing. Most of them in the first
    `head` bytes."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        if not content:
            break
        kind, at = rng.randrange(7), rng.randrange(min(head, len(content)) if rng.random() < 0.6 else len(content))
        width, other = rng.choice([1, 2, 4, 8]), rng.choice(others or [bytes(content)])
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at] = rng.randrange(256)
        elif kind == 2:
            content[at:at + width] = (rng.choice(SIZES) % 256**width).to_bytes(width, rng.choice(["little", "big"]))
        elif kind == 3:
            content[at:at] = rng.randbytes(rng.randint(1, 64))
        elif kind == 4:
            del content[at:at + rng.randint(1, 64)]
        elif kind == 5:
            content[at:at + 64] = other[:rng.randint(1, 64)]
        elif rng.random() < 0.5:
            del content[at:]
    return bytes(content)


# ---- audio -------------------------------------------------------------------------------------

SOUNDS = {"mono.flac": (16000, 1, {}), "stereo.flac": (44100, 2, {}), "a.ogg": (44100, 2, {}), "b.ogg": (16000, 1, {}),
          "a.opus": (48000, 1, {"format": "OGG", "subtype": "OPUS"}), "a.mp3": (44100, 2, {}), "b.mp3": (16000, 1, {}),
          "a.wav": (16000, 1, {"subtype": "PCM_16"}), "b.wav": (44100, 2, {"subtype": "FLOAT"}),
          "c.wav": (8000, 1, {"subtype": "IMA_ADPCM"})}
TURNED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))      # the bits of each byte from last to first


def with_right_sums(content):
    """The pages of an Ogg file with the sums they should have, so that what is odd in them is looked at."""
    content = bytearray(content)
    starts = [found.start() for found in re.finditer(b"OggS", content[:-23])]
    for start, end in zip(starts, [*starts[1:], len(content)]):
        content[start + 22:start + 26] = bytes(4)
        # The same polynomial as zip's with the bits the other way round, from 0 and not from all ones.
        total = zlib.crc32(content[start:end].translate(TURNED), 2**32 - 1) ^ (2**32 - 1)
        content[start + 22:start + 26] = int(f"{total:032b}"[::-1], 2).to_bytes(4, "little")
    return bytes(content)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """{name: bytes} of 0.6 s of noise in every format."""
    folder, noise, found = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0), {}
    for name, (rate, channels, kind) in SOUNDS.items():
        soundfile.write(folder / name, 0.3 * noise.standard_normal((round(0.6 * rate), channels)), rate, **kind)
        found[name] = (folder / name).read_bytes()
    return found


def test_mutated_sounds(sounds, tmp_path, capfd):
    rng, tally = random.Random(0), Tally()
    for i in range(COUNT):
        name = rng.choice(list(sounds))
        content = mutate(sounds[name], rng, others=list(sounds.values()))
        if content[:4] == b"OggS" and rng.random() < 0.7:
            content = with_right_sums(content)
        path = tmp_path / name
        path.write_bytes(content)
        kind = path.suffix[1:]
        seconds = tally.run(f"{kind}, length", lambda: audio.duration(path), AudioError)
        assert seconds is None or audio.SHORTEST <= seconds < 1e6
        for call in (lambda: audio.read_window(path, 0.2, 0.25), lambda: audio.read_window(path)):
            wave = tally.run(kind, call, AudioError)
            assert wave is None or (wave.dtype == np.float32 and wave.ndim == 1 and np.isfinite(wave).all())
    tally.check(0.03)


def test_headers_that_lie(sounds, tmp_path):
    """Claims of 2^36 samples, of a rate of 1 Hz or 1 MHz, of 2^32 channels' worth: refused by what the file has in bytes."""
    def with_field(name, at, value, width, order="little"):
        content = bytearray(sounds[name])
        content[at:at + width] = value.to_bytes(width, order)
        return bytes(content)

    flac = bytearray(sounds["mono.flac"])      # STREAMINFO: rate 20 bits, channels 3, bits 5, length 36, from byte 18
    packed = int.from_bytes(flac[18:26], "big")
    claims = {}
    for length in (2**36 - 1, 2**33, 2**26, 0):      # 0: not known, as an encoder writes it into a pipe
        flac[18:26] = (packed >> 36 << 36 | length).to_bytes(8, "big")
        claims[f"{length}.flac"] = bytes(flac), "can hold|truncated"
    for rate in (1, 1000, 2**20, 2**31 - 1):
        claims[f"{rate}.wav"] = with_field("a.wav", 24, rate, 4), "not a sample rate of audio|less than"
    claims["length.wav"] = with_field("a.wav", 40, 0x7FFFFFF0, 4), None      # as from a pipe: what is there is taken
    claims["channels.wav"] = with_field("a.wav", 22, 1024, 2), "less than|not audio"
    for name, (content, match) in claims.items():
        path = tmp_path / name
        path.write_bytes(content)
        for call in (lambda: audio.read_window(path), lambda: audio.read_window(path, 0.2, 0.25)):
            if match:
                with pytest.raises(AudioError, match=match):
                    call()
            else:
                assert len(call()) > 0


def test_silence_is_dense_and_read(tmp_path):
    """The most samples a byte that FLAC makes of real files: stereo silence."""
    soundfile.write(tmp_path / "x.flac", np.zeros((48000 * 60, 2)), 48000)
    assert os.path.getsize(tmp_path / "x.flac") < 48000 * 60 * 2 / 300
    assert len(audio.read_window(tmp_path / "x.flac")) == 16000 * 60


# ---- manifest ----------------------------------------------------------------------------------

ODD = [None, True, False, 0, -1, 1, 1.5, -0.0, 1e-300, 1e15, 1e300, 10**15, 10**400, 2**63, math.nan, math.inf, -math.inf, "", " ", "\0",
       "\n", "a\nb", "\x1b[2J", "\ud83c", "\udcff", "é" * 300, "x" * 100_000, "../../../../etc/passwd", "/dev/zero", "train", "\u202e", [],
       {}, [[]], [""], ["ok", None], [{}], {"sf": ["x"]}, {"sf": []}, {"": ["x"]}, {"\ud800": ["x"]}, {"a": {"b": {}}}, ["x"] * 1000]
SECONDS = [0.59, 0.6, 0.7, 1e-9, 1e9, 999999999999999.9, 5, 0, math.nan, -1, "1", 10**400, None]
RAW = [b"1e400", b"-1e400", b"NaN", b"9" * 5000, b"0x10", b"01", b"'x'", b'"\\u0000"', b'"\\ud800"', b'"\\uZZZZ"', b"[" * 5000, b'{"a":' * 5000,
       b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\x0b", b"\xe2\x80\xa8", b"//", b"1" + b"0" * 4000, b'{"id": 1, "id": 2}']


def odd_line(line, rng):
    """A line of a manifest with an odd value, an odd key, odd bytes, or JSON that Python's module would not write."""
    kind = rng.randrange(4)
    if kind == 0:
        return mutate(line, rng, head=len(line))
    row = json.loads(line)
    for _ in range(rng.randint(1, 2)):
        inside = row["text"] if isinstance(row.get("text"), dict) and rng.random() < 0.3 else row
        key = rng.choice([*inside, "", "\0"] if rng.random() < 0.6 else ["start", "duration"])
        if kind == 1:
            inside[key] = rng.choice(ODD) if key not in ("start", "duration") else rng.choice(SECONDS)
        elif kind == 2:
            inside[key] = "@@"
        elif rng.random() < 0.5:
            inside.pop(key, None)
        else:
            inside[key] = inside.get(rng.choice([*inside, ""]))
    return json.dumps(row, ensure_ascii=True).encode().replace(b'"@@"', rng.choice(RAW))


def test_mutated_manifests(sounds, tmp_path):
    """What passes can be read as well, or is refused as audio."""
    for name in ("a.wav", "a.ogg"):
        (tmp_path / name).write_bytes(sounds[name])
    rows = [{"id": f"r{i}", "audio": ("a.wav", "a.ogg")[i % 2], "split": "train", "tags": ["waltz"], "start": 0.1 * i, "duration": 0.3,
             "text": {"sf": [f"a waltz {i}"], "pl": ["slow", "sad"]}} for i in range(3)]
    lines = [json.dumps(row).encode() for row in rows]
    rng, tally = random.Random(1), Tally()
    for i in range(COUNT):
        lines[0] = json.dumps(rows[0] | {"start": rng.uniform(0.0, 4.0)}).encode()      # often after the end of the file
        changed = [odd_line(line, rng) if rng.random() < 0.4 else line for line in lines]
        (tmp_path / "manifest.jsonl").write_bytes(b"\n".join(changed))
        for recording in tally.run("manifest", lambda: data.read_manifest(tmp_path), UserError) or []:
            data.file_seconds.cache_clear()
            wave = tally.run("window", lambda: data.read_clip_window(recording, 0.25, 16000, rng.random()), AudioError)
            assert wave is None or len(wave) == 4000
    tally.check(0.03)


# ---- checkpoints -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states():
    """What is in the checkpoints of two tiny models: one that reads text, one that knows labels."""
    torch.manual_seed(0)
    words = train_wordpiece(["slow sad waltz piano banjo"] * 5, 60)
    found = []
    for objective, labels in (("contrastive", []), ("tags", ["waltz", "slow"])):
        config = resolve({"preset": "smoke", "seconds": 0.3, "n_mels": 8, "patch_mels": 8, "stride_mels": 8, "ast_width": 4,
                          "text_width": 4, "dim": 4, "max_tokens": 8, "precision": "fp32", "objective": objective})
        model = TagClassifier(config, labels) if labels else MuLan(config, words)
        found.append({"step": 3, "best": 0.5, "seconds": 1.0, "config": config.to_dict(), "tokenizer": words.to_str(),
                      "labels": labels, "model": model.state_dict(), "optimizer": {}})
    return found


def odd_tensor(x, rng):
    """In place of a tensor: another kind, shape or place, or one that claims more numbers than it holds."""
    kind = rng.randrange(9)
    if kind < 3:
        return [x.double(), x.to(torch.bfloat16), x.clone().fill_(math.nan)][kind]
    if kind == 3:
        return x.new_zeros(rng.choice([0, 1, 7]), *x.shape[1:]) if x.dim() else x.new_zeros(2)
    if kind == 4:
        return torch.zeros(()).expand(x.shape if rng.random() < 0.5 else (10**9, 10**6))
    if kind == 5:
        return x.to("meta")
    if kind == 6:
        return x.to_sparse() if x.dim() else x.long()
    if kind == 7:
        return torch.zeros(x.shape, dtype=rng.choice([torch.int64, torch.bool, torch.complex64, torch.uint8]))
    return rng.choice([None, 1, "x", [1.0], {}])


def places(tree, path=()):
    """Paths of all values in nested dictionaries and lists."""
    yield path
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from places(tree[key], (*path, key))


def with_value(tree, path, value):
    """The tree with another value at a path; the rest is shared."""
    if not path:
        return value
    copy = tree.copy()
    copy[path[0]] = with_value(tree[path[0]] if path[1:] else None, path[1:], value)
    return copy


NUMBERS = [None, True, -1, 0, 1, 2, 3, 4, 7, 8, 0.0, -0.5, 0.05, 0.3, 1.0, 16000, 10**5, 10**9, 2**31, 2**63, 10**30, 1e9, 1e300, math.nan,
           math.inf, "", "ast", "resnet50", "slaney", "tags", "\0", [], [1], ["x"], {}, {"a": 1}]


def odd_state(state, rng):
    """A state with one or two values of another kind or size: in the config, the tokenizer, the tensors, the labels."""
    for _ in range(rng.choice([1, 1, 1, 2])):
        part = rng.choice(["config", "config", "tokenizer", "model", "model", "labels", "any"])
        if part == "config":
            config = state["config"]
            path = rng.choice([path for path in places(config) if len(path) == 2] if isinstance(config, dict) else [()])
            state = state | {"config": with_value(config, path, rng.choice(NUMBERS))}
        elif part == "tokenizer" and isinstance(state["tokenizer"], str):
            if rng.random() < 0.3:
                state = state | {"tokenizer": mutate(state["tokenizer"].encode(), rng, 2000).decode(errors="replace")}
            else:
                with suppress(ValueError):
                    tree = json.loads(state["tokenizer"])
                    path = rng.choice([path for path in places(tree) if path[:2] != ("model", "vocab") or rng.random() < 0.2])
                    state = state | {"tokenizer": json.dumps(with_value(tree, path, rng.choice(NUMBERS)))}
        elif part == "model" and isinstance(state["model"], dict) and state["model"]:
            name, tensors = rng.choice(list(state["model"])), dict(state["model"])
            tensors[name] = odd_tensor(tensors[name], rng) if torch.is_tensor(tensors[name]) else None
            if rng.random() < 0.2:
                tensors[rng.choice(["x", name + "x", 5])] = tensors.pop(name)
            state = state | {"model": tensors}
        elif part == "labels":
            state = state | {"labels": rng.choice([*NUMBERS, ["waltz", "fast"], ["waltz", 1], [[]], ["\0", ""], ["waltz"] * 3])}
        else:
            key = rng.choice([*state, "format"])
            state = state | {key: rng.choice(NUMBERS)} if rng.random() < 0.5 else {k: v for k, v in state.items() if k != key}
            state = {"config": None, "tokenizer": None, "model": None} | state
    return state


def rezip(content, change, path, method=zipfile.ZIP_STORED):
    """The members of a torch file, each as change(name, bytes) makes it, with the right sums."""
    path.write_bytes(content)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", method) as file:
        for name, body in members.items():
            file.writestr(name, change(name, body))


def use(path):
    """Loads a checkpoint as eval.py does, and makes one embedding of each kind."""
    state = checkpoint.load(path)
    model = (TagClassifier if checkpoint.objective_of(state) == "tags" else MuLan).from_state(state, path).eval()
    audio = model.embed_audio([np.zeros(4800, np.float32)])
    text = model.embed_text(["waltz"])
    assert audio.shape == (1, model.config.space.dim) and text.shape == audio.shape
    return model


@pytest.mark.filterwarnings("ignore")
def test_mutated_checkpoints(states, tmp_path):
    """Bytes of the file; bytes of its pickle with right sums; odd values in it, written as torch writes them."""
    rng, tally, path, wholes = random.Random(2), Tally(), tmp_path / "last.pt", []
    for state in states:
        checkpoint.save(path, state)
        wholes.append(path.read_bytes())
        assert use(path)
    for _ in range(COUNT):
        kind, which = rng.choice(["bytes", "pickle", "value"]), rng.randrange(2)
        if kind == "bytes":
            path.write_bytes(mutate(wholes[which], rng, len(wholes[which])))
        elif kind == "pickle":
            rezip(wholes[which], lambda name, body: mutate(body, rng, len(body)) if name.endswith("data.pkl") else body, path)
        else:
            torch.save({"format": checkpoint.FORMAT, **odd_state(states[which], rng)}, path)
        tally.run(kind, lambda: use(path), UserError, seconds=2.0)
    tally.check(0.03)


@pytest.mark.filterwarnings("ignore")
def test_mutated_safetensors(states, tmp_path):
    """Bytes of the file; bytes and numbers of its header, with the right length; odd values in it."""
    pytest.importorskip("safetensors", reason="the extra `weights`")
    rng, tally, path, wholes = random.Random(3), Tally(), tmp_path / "mulan.safetensors", []

    def write(state):
        notes = {"mulan_min": "1", "config": json.dumps(state["config"]), "labels": json.dumps(state.get("labels", []))}
        notes |= {"tokenizer": state["tokenizer"]} if isinstance(state["tokenizer"], str) else {}
        tensors = {str(name): x for name, x in state["model"].items() if torch.is_tensor(x) and x.layout == torch.strided and not x.is_meta}
        checkpoint.save_safetensors(path, {name: x for name, x in tensors.items() if x.numel() < 10**6}, notes)

    for state in states:
        write(state)
        wholes.append(path.read_bytes())
        assert use(path)
    for _ in range(COUNT):
        kind, which = rng.choice(["bytes", "header", "value"]), rng.randrange(2)
        whole = wholes[which]
        end = 8 + struct.unpack("<Q", whole[:8])[0]
        if kind == "bytes":
            path.write_bytes(mutate(whole, rng, len(whole)))
        elif kind == "header":
            tree = json.loads(whole[8:end])
            path_in = rng.choice([path for path in places(tree) if path])
            if rng.random() < 0.2:
                path_in = ("__metadata__", "note")      # which does no harm
            tree = with_value(tree, path_in, rng.choice([*NUMBERS, *["F16", "BF16", "I64"] * 5, [0, 4], [4, 0], [0, 2**60], [10**9, 10**9]]))
            header = json.dumps(tree).encode()
            header = header if rng.random() < 0.7 else mutate(header, rng, len(header))
            path.write_bytes(struct.pack("<Q", len(header)) + header + whole[end:])
        else:
            state = odd_state(states[which], rng)
            if not isinstance(state["model"], dict):
                continue
            write(state)
        tally.run(kind, lambda: use(path), UserError, seconds=2.0)
    tally.check(0.03)


def test_checkpoints_that_claim_gigabytes(states, tmp_path):
    """Small files that name a large model, and tensors to go with it: refused before memory is taken, or time."""
    path, state = tmp_path / "last.pt", states[0]
    for section, change, match in (
            ("front", {"n_mels": 10**9}, "--n-mels"), ("front", {"window": 1e9}, "--window"), ("front", {"seconds": 1e9}, "--seconds"),
            ("front", {"sample_rate": 10**9}, "--sample-rate"), ("tower", {"ast_depth": 10**9}, "--ast-depth"),
            ("tower", {"ast_width": 10**5}, "do not fit"), ("text", {"text_width": 2**40}, "do not fit"),
            ("text", {"max_tokens": 10**12}, "do not fit"), ("space", {"dim": 10**9}, "do not fit"),
            ("tower", {"audio": "resnet50", "resnet_width": 10**5}, "do not fit")):
        checkpoint.save(path, state | {"config": with_value(state["config"], (section,), state["config"][section] | change)})
        with pytest.raises(UserError, match=match):
            use(path)
    wide = with_value(state["config"], ("text", "text_width"), 20_000)      # 19 GB, all of them views of one number
    with torch.device("meta"):
        model = MuLan(config_from_dict(wide, ""), Tokenizer.from_str(state["tokenizer"]))
    one = {name: torch.zeros(()).expand(x.shape) for name, x in model.state_dict().items()}
    checkpoint.save(path, state | {"config": wide, "model": one})
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="claim more numbers than the file holds"):
        use(path)


def test_a_flipped_bit_in_a_weight_is_told(states, tmp_path):
    """torch.load itself would give the changed weight."""
    path = tmp_path / "last.pt"
    checkpoint.save(path, states[0])
    with zipfile.ZipFile(path) as file:
        member = max(file.infolist(), key=lambda member: member.file_size * ("/data/" in member.filename))
    content = bytearray(path.read_bytes())
    at = content.index(next(x for x in states[0]["model"].values() if x.nbytes == member.file_size).numpy().tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["step"] == 3
    with pytest.raises(UserError, match=f"last.pt: .*damaged.*{member.filename}"):
        checkpoint.load(path)


def test_packed_members_are_not_unpacked(tmp_path):
    """A thousand zeros are a byte in a zip, and torch unpacks them."""
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"model": {"x": torch.zeros(2**24)}})
    rezip(path.read_bytes(), lambda name, body: body, path, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20 and torch.load(path, weights_only=True)["model"]["x"].nbytes == 2**26
    with pytest.raises(UserError, match="last.pt: .*damaged"):
        checkpoint.load(path)
