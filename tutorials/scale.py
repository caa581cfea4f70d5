"""Calculates the bytes, network, cores and hours that training on the paper's 44 million clips would need.

    python tutorials/scale.py           # prints every table of tutorials/forty_four_million.md
    python tutorials/scale.py -h        # lists the inputs that can be changed

This script measures nothing; it only calculates.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from mulan_min.command_line import run_script
from mulan_min.config import parse_ratio, preset
from mulan_min.errors import UserError

INPUTS = {      # flag: (default value, meaning, source)
    "clips": (44e6, "recordings, 30 s each", "published: arXiv 2208.12415"),
    "aset": (2_084_320, "recordings with ASET text among these", "published: all of AudioSet; we assume the clips include it"),
    "copies": (1, "how many times each of these is packed", "our choice"),
    "tflops": (989.4, "TFLOP/s of a GPU, dense bf16", "published: H100 SXM"),
    "share": (0.4, "share of these that AST and BERT reach", "assumed"),
    "share-resnet": (0.1, "share of these that ResNet-50 reaches", "assumed: batch norm and small layers wait for memory"),
    "memory": (80.0, "GB of memory in a GPU", "published: H100 SXM"),
    "bandwidth": (3350.0, "GB/s of its memory", "published: H100 SXM"),
    "nvlink": (450.0, "GB/s between two GPUs of a machine", "published: H100 SXM, half of 900"),
    "cores": (14.0, "CPU cores for each GPU, 8 GPUs a machine", "published: DGX H100, 112 for 8"),
    "network": (400.0, "Gb/s between machines for gradients, as much for shards", "assumed; a DGX H100 has 8 such for gradients"),
    "wait": (50.0, "microseconds for a small exchange between GPUs", "assumed"),
    "sf-tokens": (8.0, "tokens of a short text", "assumed: the middle of 4 to 12, as in bert_base.py"),
    "lf-tokens": (37.5, "tokens of a long text", "assumed: the middle of 15 to 60, as in bert_base.py"),
    "other-tokens": (8.0, "tokens of a playlist's title, or of a label", "assumed"),
    "queued": (9989.0, "samples/s that a core passes through the reader's queues", "measured: stream.py, the better of two runs"),
    "mels": (527.0, "spectrograms/s that a core computes", "measured: mel.py on one thread"),
    "kept-ast": (399.0, "MB kept per clip for the backward pass, AST", "measured: tests/test_scale.py"),
    "kept-resnet50": (55.7, "MB kept per clip for the backward pass, ResNet-50", "measured: tests/test_scale.py")}
MEASURED = "bytes/s", "clips encoded /s", "clips packed /s", "clips read out of shards /s", "windows of 10 s decoded /s"
FORMATS = {      # format: MEASURED for 30 s of music with one core, by stream.py --music; best of three runs beside other work
    "FLAC, 44.1 kHz stereo": (88718, 21.2, 234, 2232, 82), "MP3, 44.1 kHz stereo": (18239, 1.3, 911, 7216, 75),
    "Opus, 48 kHz stereo": (14593, 1.4, 1242, 7641, 19), "FLAC, 16 kHz mono": (20771, 26.7, 971, 8539, 553),
    "MP3, 16 kHz mono": (4760, 6.1, 3264, 13397, 382), "Opus, 16 kHz mono": (3511, 2.7, 3660, 13554, 51)}
PARAMETERS = {"ast": 86_265_728, "resnet50": 23_764_032, "text": 108_990_080}      # see tests/test_scale.py; also the next
MATRICES = 4.25      # b x B float32 matrices that the loss keeps; one of them is a mask of a quarter of the bytes
EXCHANGES = 53 * 5      # per step of ResNet-50's 53 synced batch norms
WINDOW, SPECTROGRAM = 640e3, 12.6e6      # bytes: 10 s in float32; memory traffic of its spectrogram, as mel.py counts it
CLIP, MACHINE, WORKERS, AHEAD = 30, 8, 8, 3      # s; GPUs; `workers` of the preset; batches ahead per worker (loader.py)
GPUS, RATIO = (8, 64, 512), parse_ratio(preset("paper").data.ratio)


def transformer(tokens, patches=0):
    """FLOPs of a forward pass of AST base or BERT base with its projection. One multiply-add counts as two FLOPs."""
    return 12 * tokens * (24 * 768 ** 2 + 4 * tokens * 768) + 2 * patches * 256 * 768 + 2 * 768 * 128


def resnet50(mels, frames):
    """FLOPs of a forward pass of ResNet-50 with its projection, counted in the same way."""
    conv = lambda inputs, outputs, kernel: 2 * inputs * outputs * kernel ** 2 * size[0] * size[1]
    size = [-(-n // 2) for n in (mels, frames)]
    total, size, inputs = conv(1, 64, 7), [-(-n // 2) for n in size], 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        width = 64 * 2 ** stage
        for block in range(depth):
            total += conv(inputs, width, 1)
            size = [-(-n // 2) for n in size] if stage and not block else size
            total += conv(width, width, 3) + conv(width, 4 * width, 1) + (0 if block else conv(inputs, 4 * width, 1))
            inputs = 4 * width
    return total + 2 * inputs * 128


def reads_per_window(ratio, coverage):
    """How many samples ShardStream reads for each sample that it returns.

    ratio: shares of the batch by source. coverage: the share of samples that have text of a source. The source that is
    rarest compared with its share of the batch decides.
    """
    return max(share / sum(ratio.values()) / coverage[source] for source, share in ratio.items())


def packed(v, copies):
    """-> (samples in the shards, samples read per window), when ASET recordings are packed `copies` times. Assumes that no other
    source is rare."""
    samples = v.clips + (copies - 1) * v.aset
    return samples, reads_per_window(RATIO, dict.fromkeys(RATIO, 1) | {"aset": copies * v.aset / samples})


def step(v, tower, gpus, batch):
    """-> (seconds of a step by kind of work, seconds by format of each part that the step may wait for, whether the batch is
    computed in chunks, GFLOPs (per clip, per text))."""
    lengths = dict.fromkeys(RATIO, v.other_tokens) | {"sf": v.sf_tokens, "lf": v.lf_tokens}
    text = 3 * sum(n * transformer(lengths[source]) for source, n in RATIO.items()) / sum(RATIO.values())
    sound = 3 * (transformer(1189, 1188) if tower == "ast" else resnet50(64, 1000))      # forward once, backward twice
    parameters, own, link = PARAMETERS[tower] + PARAMETERS["text"], batch / gpus, v.network / 8 * 1e9
    chunks = own * getattr(v, f"kept_{tower}") * 1e6 + 16 * parameters > 0.9 * v.memory * 1e9      # AdamW: 16 bytes each
    work = own * (sound / (v.share if tower == "ast" else v.share_resnet) + text / v.share) * (4 / 3 if chunks else 1)
    ring = 2 * (gpus - 1) / gpus / (v.nvlink * 1e9 if gpus <= MACHINE else link)      # s per byte; each link is crossed once
    times = {"towers": work / (v.tflops * 1e12), "gradients": 4 * parameters * ring, "embeddings": 3 * batch * 128 * 4 * ring,
             "batch norm": 0 if tower == "ast" else EXCHANGES * v.wait / 1e6}
    waits = {}      # format: {part: seconds}
    for name, (size, _, _, read, windows) in FORMATS.items():
        reads = packed(v, v.copies)[1]
        waits[name] = {"GPUs": times["towers"] + times["embeddings"] + times["batch norm"], "gradients": times["gradients"],
                       "cores": own * (reads * (1 / read + 1 / v.queued) + 1 / windows) / v.cores,
                       "shards": own * MACHINE * reads * size * CLIP / link}
    return times, waits, chunks, (sound / 1e9, text / 1e9)


def table(title, *rows):
    """Prints rows of cells as a Markdown table; the first row is the heading."""
    marked = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    print(f"\n{title}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in marked))


def tower_tables(v, tower):
    """Prints the two tables of an audio tower: a step in detail, and what the run waits for."""
    optim = preset("paper", tower).optim
    batch, steps, kept = optim.batch_size, optim.steps, getattr(v, f"kept_{tower}")
    times, waits, chunks, flops = zip(*(step(v, tower, n, batch) for n in GPUS))
    own, spent, heads = [batch / n for n in GPUS], [t["towers"] for t in times], [f"{n} GPUs" for n in GPUS]
    rates = [b / t for b, t in zip(own, spent)]
    table(f"{tower}: {steps:,} steps of {batch:,}, {steps * batch / 1e6:.0f} million windows, {steps * batch / v.clips:.1f} "
          "epochs; forward and backward {:.1f} GFLOP a clip, {:.1f} a text".format(*flops[0]), ["", *heads],
        *([name, *(form.format(x) for x in values)] for name, form, values in (
            ("clips a GPU", "{:.0f}", own), ("in chunks", "{}", ["yes" if c else "no" for c in chunks]),
            ("activations if at once, GB", "{:.0f}", [b * kept / 1e3 for b in own]),
            ("loss, b x B, MB", "{:.0f}", [MATRICES * b * batch * 4 / 1e6 for b in own]),
            *((f"{n}, ms a step", "{:.1f}", [t[n] * 1e3 for t in times]) for n in times[0]),
            ("towers alone: clips/s a GPU", "{:,.0f}", rates),
            *((f"towers alone: {what}, hours", "{:.2f}", [n * t / 3600 for t in spent])
              for what, n in (("epoch", v.clips / batch), ("run", steps))),
            ("spectrograms on the GPU, of the towers' time", "{:.1%}", [r * SPECTROGRAM / (v.bandwidth * 1e9) for r in rates]),
            ("... or on so many cores for each GPU", "{:.1f}", [r / v.mels for r in rates]),
            ("readers", "{:,}", [WORKERS * n for n in GPUS]),
            ("batches made ahead, GB a machine", "{:.1f}", [MACHINE * WORKERS * AHEAD * b * WINDOW / 1e9 for b in own]))))
    busy, machines, last = max(rates) / own[-1], GPUS[-1] // MACHINE, waits[-1]
    table(f"{tower}: what would keep the GPUs busy, and the hours of the run with what it waits for",
          ["format", "cores a GPU", "GB/s a machine", *heads, f"GB/s of all shards at {GPUS[-1]}"],
          *([name, f"{busy * last[name]['cores'] * v.cores:.1f}", f"{busy * last[name]['shards'] * v.network / 8:.1f}",
             *(f"{steps * max(w[name].values()) / 3600:.1f} h, {max(w[name], key=w[name].get)}" for w in waits),
             f"{machines * v.network / 8 * last[name]['shards'] / max(last[name].values()):,.0f}"] for name in FORMATS))


def main(argv=None):
    parser = argparse.ArgumentParser("python tutorials/scale.py", description=__doc__.split("\n")[0])
    for name, (value, what, source) in INPUTS.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"{what}; {source} [{value:,}]")
    v = parser.parse_args(argv)
    if low := [name for name, value in vars(v).items() if not value > 0]:
        raise UserError(f"--{low[0].replace('_', '-')} must be above 0")
    table("Inputs", ["flag", "value", "what", "source"],
          *([f"`--{name}`", f"{getattr(v, name.replace('-', '_')):,.10g}", *INPUTS[name][1:]] for name in INPUTS))
    table("Samples read for a window", ["ASET recordings packed, times", "samples, million", "read for a window"],
          *([str(k), f"{packed(v, k)[0] / 1e6:.1f}", f"{packed(v, k)[1]:.2f}"] for k in (1, 2, 4, 8)))
    table("Measured on two shared cores of an AMD EPYC, by one", ["format", *MEASURED],
          *([name, *(f"{x:,}" for x in row)] for name, row in FORMATS.items()))
    samples, reads = packed(v, v.copies)
    table("Storage", ["format", "kB a clip", "TB", "shards of 1 GB", "encoding, core hours", "packing, hours of a core",
                      "MB read for a window", "a reader's 512 clips, MB"],
          *([name, f"{size * CLIP / 1e3:,.0f}", f"{samples * size * CLIP / 1e12:.1f}", f"{samples * size * CLIP / 1e9:,.0f}",
             f"{samples / encoded / 3600:,.0f}", f"{samples / pack / 3600:.1f}", f"{reads * size * CLIP / 1e6:.2f}",
             f"{min(512 * size * CLIP, 2 ** 30) / 1e6:,.0f}"] for name, (size, encoded, pack, _, _) in FORMATS.items()))
    for tower in ("ast", "resnet50"):
        tower_tables(v, tower)


if __name__ == "__main__":
    run_script(main)
