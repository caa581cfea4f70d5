"""A picture of the demo world: log-mel spectrograms of every genre (same lead) and every instrument (same four notes).

    python tutorials/gallery.py world.png
"""
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mulan_min.demo.instruments import SAMPLE_RATE, note  # noqa: E402
from mulan_min.demo.pieces import FAMILIES, RECIPES, Piece  # noqa: E402
from mulan_min.demo.rendering import add_note, render  # noqa: E402
from mulan_min.mel import LogMel  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def main(path):
    base = Piece("", "test", 3, "folk", "flute", (), "happy", "mid-tempo", 110.0, "busy", "dry", key=0, mode="major", meter=4)
    waveforms = {}
    for genre, recipe in RECIPES.items():
        waveforms[genre] = render(replace(base, genre=genre, backing=(recipe.backing[0],), bpm=sum(recipe.bpm) / 2,
                                          meter=3 if genre == "waltz" else 4), seconds=6.0)
    for name in FAMILIES["instrument"]:
        waveforms[name] = np.zeros(6 * SAMPLE_RATE, np.float32)
        for i, midi in enumerate((60, 64, 67, 72)):
            add_note(waveforms[name], note(name, 1, midi), 1.5 * i, 1.3, 0.2)
    figure, axes = plt.subplots(5, 6, figsize=(24, 15), layout="constrained")
    for axis, (title, waveform) in zip(axes.flat, waveforms.items()):
        spectrogram = LogMel(n_mels=64)(torch.from_numpy(waveform)[None])[0]   # (64, frames)
        axis.imshow(spectrogram.numpy(), origin="lower", aspect="auto", vmin=spectrogram.max() - 14, cmap="magma")
        axis.set(title=title, xticks=[], yticks=[])
    figure.savefig(path, dpi=60)


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["demo_world.png"])
