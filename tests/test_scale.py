"""The page about 44 million clips: its formulas against counters, the real modules and sums by hand; its tables are what the
script prints, and so are the numbers in its text."""
import contextlib
import inspect
import io
import json
import re
import shlex
import subprocess
import sys
import tarfile
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from docs import ROOT
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mulan_min import distributed, loader
from mulan_min.bert import Bert
from mulan_min.config import parse_ratio, preset
from mulan_min.contrastive import encode_texts
from mulan_min.errors import UserError
from mulan_min.loss import cmc_loss
from mulan_min.resnet import ResNet50
from mulan_min.shards import stream as shards
from mulan_min.spectrogram_transformer import SpectrogramTransformer
from mulan_min.towers import AudioTower, TextTower
from mulan_min.wordpiece import train_wordpiece

sys.path[:0] = [str(ROOT / "tutorials"), str(ROOT / "tests" / "benchmarks")]
import scale  # noqa: E402

PAGE = (ROOT / "tutorials" / "forty_four_million.md").read_text(encoding="utf-8")


def printed(*flags):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        scale.main(list(flags))
    return out.getvalue()


def tables(text):
    """{text above: [[cell]]} of each table, without the line of dashes; the title is the last text before it."""
    found = {}
    for title, rows in re.findall(r"^(.*)\n\n((?:\|.*\n)+)", text + "\n", re.M):
        lines = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]
        found[title] = [line for line in lines if not set("".join(line)) <= {"-"}]
    return found


def hours(tower, *flags):
    """{format: [hours and what is waited for, at 8, 64, 512]}."""
    [rows] = [rows for title, rows in tables(printed(*flags)).items() if title.startswith(f"{tower}: what")]
    return {row[0]: row[3:6] for row in rows[1:]}


def cell(out, title, row, column):
    [rows] = [rows for found, rows in tables(out).items() if found.startswith(title)]
    [line] = [line for line in rows if line[0] == row]
    return float(line[rows[0].index(column)].replace(",", "").rstrip("%"))


def counted(call):
    with FlopCounterMode(display=False) as counter:
        y = call()
    forward = counter.get_total_flops()
    with counter:
        call().sum().backward()
    return forward, counter.get_total_flops(), y


# ---- sizes against the real modules ------------------------------------------------------------


@pytest.mark.parametrize("tower, formula, shape", [("ast", lambda: scale.transformer(1189, 1188), (1, 128, 998)),
                                                   ("resnet50", lambda: scale.resnet50(64, 1000), (1, 64, 1000))])
def test_flops_of_the_audio_towers_are_those_that_torch_counts(tower, formula, shape):
    model = AudioTower(preset("paper", tower)).to("meta").eval()
    forward, both, _ = counted(lambda: model(torch.empty(shape, device="meta")))
    assert formula() == forward
    assert both / forward == pytest.approx(3, rel=0.005)      # the first layer needs no gradient of its input


@pytest.mark.parametrize("tokens", [4, 37, 512])
def test_flops_of_bert(tokens):
    with torch.device("meta"):
        bert, project = Bert(), nn.Linear(768, 128)
        ids, mask = torch.zeros(1, tokens, dtype=torch.long), torch.ones(1, tokens, dtype=torch.bool)
    forward, both, _ = counted(lambda: project(bert(ids, mask)[:, 0]))
    assert scale.transformer(tokens) == forward and both / forward == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize("size", [(32, 100), (63, 333)])
def test_resnet_flops_at_odd_sizes(size):
    with torch.device("meta"):
        net, project = ResNet50().eval(), nn.Linear(2048, 128)
        forward, _, _ = counted(lambda: project(net(torch.empty(1, *size))))
    assert scale.resnet50(*size) == forward


def test_parameters_and_settings_are_those_of_the_preset():
    for tower in ("ast", "resnet50"):
        config = preset("paper", tower)
        assert scale.PARAMETERS[tower] == sum(p.numel() for p in AudioTower(config).to("meta").parameters())
        assert scale.RATIO == parse_ratio(config.data.ratio) == dict(sf=2, lf=2, pl=1, aset=1)
        assert scale.WORKERS == config.data.workers
        assert scale.WINDOW == 4 * config.front.seconds * config.front.sample_rate
    with torch.device("meta"):
        text = TextTower(config, config.text.vocab_size)
    assert scale.PARAMETERS["text"] == sum(p.numel() for p in text.parameters())
    assert f"prefetch_factor={scale.AHEAD} " in inspect.getsource(loader.loader)
    assert (shards.BUFFER, shards.BUFFER_BYTES) == (512, 2**30)
    # mel.py: waveform; windows, spectra, powers and 128 bands of 1000 frames, each written once and read once but the first
    assert scale.SPECTROGRAM == pytest.approx(4 * (160_000 + 1000 * (2 * 400 + 2 * 514 + 3 * 257 + 3 * 128)), rel=0.01)


def kept(call):
    """Bytes kept for the backward pass, each tensor's memory once."""
    seen = {}
    with torch.autograd.graph.saved_tensors_hooks(
            lambda x: seen.update({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}) or x, lambda x: x):
        call()
    return sum(seen.values())


def kept_by_a_clip(model, *shape):
    """What the second clip of a batch adds, weights being there already."""
    found = []
    for clips in (1, 2):
        x = torch.randn(clips, *shape)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(kept(lambda x=x: model(x)))
    return (found[1] - found[0]) / 1e6


def test_activations_of_a_clip():
    """Twelve blocks of the AST are alike, so that two tell."""
    assert kept_by_a_clip(ResNet50().train(), 64, 1000) == pytest.approx(scale.INPUTS["kept-resnet50"][0], rel=0.03)
    one, two = (kept_by_a_clip(SpectrogramTransformer(128, 998, (16, 16), (10, 10), depth=d), 128, 998) for d in (1, 2))
    assert one + 11 * (two - one) == pytest.approx(scale.INPUTS["kept-ast"][0], rel=0.03)


def test_matrices_kept_by_the_loss_of_a_process_among_many():
    b, B, d = 64, 1024, 8
    audio, text = (F.normalize(torch.randn(B, d), dim=1).requires_grad_() for _ in range(2))
    tau = torch.tensor(0.1, requires_grad=True)
    found = kept(lambda: cmc_loss(audio[:b], text[:b], tau, (audio, text, 0)))
    assert (found - 2 * 4 * B * d) / (4 * b * B) == pytest.approx(scale.MATRICES, rel=0.02)


def test_exchanges_of_the_batch_norms(monkeypatch):
    net = ResNet50(width=4)
    distributed.sync_batch_norm(net)
    norms = [module for module in net.modules() if type(module) is distributed.SyncedBatchNorm2d]
    calls, real = [], dist.all_reduce
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        monkeypatch.setattr(dist, "all_reduce", lambda *a, **k: calls.append(1) or real(*a, **k))
        norms[0].train()(torch.randn(3, 4, 5, 6, requires_grad=True)).square().sum().backward()
    finally:
        dist.destroy_process_group()
    assert len(norms) * len(calls) == scale.EXCHANGES


# ---- what the stream reads ---------------------------------------------------------------------


@pytest.mark.parametrize("share_lf, share_aset", [(0.5, 0.1), (0.15, 0.5), (1.0, 1.0)])
def test_samples_read_for_a_window(tmp_path, share_lf, share_aset):
    """Shards in which a source is rare, through the real reader: how many samples it reads for one that it gives."""
    import stream
    file, rare = io.BytesIO(), {"lf": share_lf, "aset": share_aset}
    stream.soundfile.write(file, torch.full((800,), 0.1).numpy(), 8000, format="FLAC")
    with tarfile.open(tmp_path / "train-000000.tar", "w") as tar:
        for i in range(1000):
            text = {s: ["words"] for s in ("sf", "lf", "pl", "aset") if int((i + 1) * rare.get(s, 1)) > int(i * rare.get(s, 1))}
            for ext, content in (("flac", file.getvalue()), ("json", json.dumps({"id": f"r{i}", "text": text}).encode())):
                member = tarfile.TarInfo(f"{i:09d}.{ext}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    config = stream.resolve({"batch_size": 60, "seconds": 0.1, "sample_rate": 8000, "workers": 0})
    reader = shards.Reader(shards.ShardStream([tmp_path], config, partial(encode_texts, train_wordpiece(["words"], 100), 64)), 0, 1)
    reader.batch(0)
    before = reader.reads
    for step in range(1, 31):
        reader.batch(step)
    expected = scale.reads_per_window(parse_ratio(config.data.ratio), {"sf": 1, "lf": share_lf, "pl": 1, "aset": share_aset})
    assert (reader.reads - before) / (30 * 60) == pytest.approx(expected, rel=0.05)


def test_the_benchmark_passes_over_all_samples_and_notices_growth(tmp_path):
    import stream
    stream.write_small(tmp_path, 4500)
    paths = sorted(tmp_path.glob("*.tar"))
    assert len(paths) == 3 and [len(tarfile.open(path).getnames()) for path in paths] == [4000, 4000, 1000]
    environment = {**stream.os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, str(ROOT / "tests" / "benchmarks" / "stream.py"), "--child", str(tmp_path)]
    reads, rate, peak, grown = json.loads(subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout)
    assert reads == 4500 and rate > 100 and peak > 50 and grown < 16
    assert list(stream.FORMATS) == list(scale.FORMATS)
    if stream.Path("/proc/self/status").exists():
        before = stream.mebibytes("VmRSS")
        more = torch.ones(16 * 2**20)
        assert 60 < stream.mebibytes("VmRSS") - before < 70 and more.numel()


# ---- sums by hand ------------------------------------------------------------------------------


def test_storage_by_hand():
    out, name = printed(), "FLAC, 16 kHz mono"
    clip = 20771 * 30      # bytes
    assert scale.FORMATS[name][:3] == (20771, 26.7, 971)
    for column, value in (("kB a clip", clip / 1000), ("TB", 44e6 * clip / 1e12), ("shards of 1 GB", 44e6 * clip / 1e9),
                          ("encoding, core hours", 44e6 / 26.7 / 3600), ("packing, hours of a core", 44e6 / 971 / 3600),
                          ("MB read for a window", clip / 1e6 * (1 / 6) * 44e6 / 2_084_320),
                          ("a reader's 512 clips, MB", 512 * clip / 1e6)):
        assert cell(out, "Storage", name, column) == pytest.approx(value, rel=0.003), column
    assert cell(out, "Storage", "FLAC, 44.1 kHz stereo", "a reader's 512 clips, MB") == 1074      # cut at 2^30 bytes
    # packed twice: 46.08 million samples, of which 4.169 million have ASET
    assert cell(printed("--copies", "2"), "Storage", name, "TB") == pytest.approx(46_084_320 * clip / 1e12, rel=0.003)
    assert cell(out, "Samples", "2", "read for a window") == pytest.approx(46_084_320 / (6 * 4_168_640), abs=0.006)


def test_a_step_by_hand():
    out, tflops = printed(), 0.4 * 989.4e12
    # two short texts, one title, one label of 8 tokens and two long texts of 37.5
    text = 3 * (4 * 12 * 8 * (24 * 768**2 + 32 * 768) + 2 * 12 * 37.5 * (24 * 768**2 + 150 * 768)) / 6 + 6 * 768 * 128
    clip = 3 * 254_557_163_520 + 6 * 768 * 128 + text      # FLOPs of the AST as torch counts them, its projection, the text
    at = lambda row, gpus, tower="ast: 1": cell(out, tower, row, f"{gpus} GPUs")
    for gpus, own, factor in ((8, 640, 4 / 3), (64, 80, 1), (512, 10, 1)):
        seconds = own * factor * clip / tflops
        assert at("towers, ms a step", gpus) == pytest.approx(seconds * 1e3, rel=0.003)
        assert at("towers alone: run, hours", gpus) == pytest.approx(seconds * 1e5 / 3600, rel=0.01)
    parameters = 86_265_728 + 108_990_080
    assert at("gradients, ms a step", 8) == pytest.approx(2 * 7 / 8 * 4 * parameters / 450e6, abs=0.05)
    assert at("gradients, ms a step", 64) == pytest.approx(2 * 63 / 64 * 4 * parameters / 50e6, abs=0.05)
    # of two towers: gathered once (half an all-reduce each), their gradients summed; B x 128 in float32
    assert at("embeddings, ms a step", 512) == pytest.approx(6 * 511 / 512 * 5120 * 512 / 50e6, abs=0.05)
    assert at("batch norm, ms a step", 512, "resnet50: 1") == pytest.approx(265 * 0.05, abs=0.06)
    assert at("batches made ahead, GB a machine", 8) == pytest.approx(64 * 3 * 640 * 160_000 * 4 / 1e9, abs=0.05)
    assert at("loss, b x B, MB", 8) == pytest.approx(4.25 * 640 * 5120 * 4 / 1e6, abs=0.6)


def test_readers_by_hand():
    """MP3 at 16 kHz: 3.52 clips of 142.8 kB read and 382 windows/s decoded for each window; 2,982 of them a GPU and second."""
    out, rate = printed(), 2982
    seconds = 3.5184 * (1 / 13397 + 1 / 9989) + 1 / 382
    row = lambda column: cell(out, "resnet50: what", "MP3, 16 kHz mono", column)
    assert row("cores a GPU") == pytest.approx(rate * seconds, abs=0.06)
    assert row("GB/s a machine") == pytest.approx(8 * rate * 3.5184 * 142_800 / 1e9, abs=0.06)
    assert row("GB/s of all shards at 512") == pytest.approx(6144 * 3.5184 * 142_800 / 0.0212 / 1e9, rel=0.01)


def test_what_is_scarce_is_what_the_run_waits_for():
    name = "FLAC, 16 kHz mono"
    plain = hours("ast")[name]
    assert [entry.split(", ")[1] for entry in plain] == ["GPUs", "GPUs", "gradients"]
    assert hours("ast", "--network", "3200")[name][2].endswith("GPUs")
    assert [entry.split(", ")[1] for entry in hours("ast", "--cores", "0.5")[name]] == ["cores"] * 3
    assert hours("ast", "--network", "10", "--nvlink", "1e6")[name][0].endswith("shards")
    assert float(hours("ast", "--cores", "0.25")[name][0].split()[0]) == pytest.approx(
        2 * float(hours("ast", "--cores", "0.5")[name][0].split()[0]), rel=0.01)
    assert float(hours("ast", "--share", "0.2")[name][0].split()[0]) == pytest.approx(2 * float(plain[0].split()[0]), rel=0.01)
    assert "| in chunks | no |" in printed("--memory", "400").replace("  ", " ")


@pytest.mark.parametrize("flags", [("--cores", "0"), ("--share", "-1"), ("--clips", "nan"), ("--copies", "0")])
def test_senseless_inputs_are_refused(flags):
    with pytest.raises(UserError, match=f"^{flags[0]} must be above 0$"):
        scale.main(list(flags))


# ---- the page ----------------------------------------------------------------------------------


def test_every_table_of_the_script_is_on_the_page():
    shown = list(tables(PAGE).values())
    for title, rows in tables(printed()).items():
        assert rows in shown, title


def test_what_the_page_says_of_other_inputs_is_what_the_script_prints():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines()
            if line.startswith("| `python tutorials/scale.py")]
    assert len(rows) >= 4
    for command, tower, name, *cells in rows:
        assert cells == hours(tower, *shlex.split(command.strip("`"))[2:])[name], command


def test_what_the_page_calls_the_bottleneck_is_it():
    """Names of what is waited for, format by format, as the page's own table tells it; and its hours and milliseconds."""
    rows, out = tables(PAGE)["## The bottleneck"], printed()
    opus, flac = "Opus, 48 kHz stereo", "FLAC, 44.1 kHz stereo"
    for column, tower in ((1, "ast"), (2, "resnet50")):
        for place, gpus in enumerate((8, 64, 512)):
            waits = {name: entries[place].split(" h, ") for name, entries in hours(tower).items()}
            usual = "gradients" if gpus == 512 else "GPUs"
            odd = {opus: "cores"}
            if column == 2 and gpus < 512:
                odd |= {flac: "shards", "MP3, 44.1 kHz stereo": "cores", "Opus, 16 kHz mono": "cores"}
            assert {name: what for name, (_, what) in waits.items()} == {name: odd.get(name, usual) for name in scale.FORMATS}
            told = rows[1 + place][column]
            assert {h for h in re.findall(r"([\d.]+) h\b", told)} == {h for h, what in waits.values() if what == usual}
            for number, row in zip(re.findall(r"([\d.]+) ms", told), ("gradients, ms a step", "towers, ms a step")):
                assert float(number) == cell(out, f"{tower}: 1", row, f"{gpus} GPUs")


# In the text, beside what the script prints.
KNOWN = {"44": "million, from the inputs", "24": "CLIPS of stream.py", "53": "EXCHANGES, tested above",
         "128": "bands, a byte each, 10 ms", "10": "s, a window", "0.1": "s, a small sample", "96": "clips, pass_over in stream.py"}


def test_numbers_in_the_text_are_in_the_tables():
    import stream
    assert stream.CLIPS == 24 and "batch_size\": 96" in inspect.getsource(stream.pass_over)
    out, pattern = printed(), r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?"
    rows = [row for table in tables(out).values() for row in table]
    text, measured = "", ""
    for line in PAGE.splitlines():
        if line.startswith("|") and len(line.split("|")) == 7 and "MiB" not in line and re.match(r"\| [\d,]+ \|", line):
            measured += line      # by stream.py
        elif not line.startswith(("#", "| `python")) and [cell.strip() for cell in line.strip("|").split("|")] not in rows:
            text += line + "\n"
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", " ", text, flags=re.S)
    shown = out + measured
    assert "46.3 h; with stereo" in text and "1,000,000" in measured
    assert set(re.findall(pattern, text)) - set(re.findall(pattern, shown)) - set(KNOWN) == set()
