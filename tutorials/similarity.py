"""Draws the picture of the README: cosines between recordings and labels, before and after training.

    python tutorials/similarity.py runs/resnet50 tutorials/figures/similarity.png
"""
import sys

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from mulan_min import MuLan
from mulan_min.data import read_collection
from mulan_min.demo.pieces import FAMILIES
from mulan_min.embedding import embed_recordings
from mulan_min.labels import truth_table


def main(run, picture):
    """`run`: folder of a trained run. `picture`: PNG file to write. Needs matplotlib.

    A row is the mean embedding of the test recordings that have one label, a column is the text of one label.
    """
    trained = MuLan.load(run)
    torch.manual_seed(trained.config.optim.seed)
    fresh = MuLan(trained.config, trained.tokenizer).to(trained.temperature.device).eval()
    test = read_collection(trained.config.data.data, "test")
    labels = [label for family in FAMILIES.values() for label in family]
    groups = truth_table(test, labels).T / truth_table(test, labels).sum(0)[:, None]      # (labels, recordings)

    figure, axes = plt.subplots(1, 2, figsize=(13, 6.4), layout="constrained", sharey=True)
    for axis, model, title in ((axes[0], fresh, "before training"), (axes[1], trained, "after training")):
        cosines = groups @ embed_recordings(model, test) @ model.embed_text(labels).numpy().T
        cosines -= cosines.mean(axis=0)      # the part that all recordings share distinguishes no labels
        image = axis.imshow(cosines, cmap="RdBu_r", vmin=-0.3, vmax=0.3)
        axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=7)
        axis.set_title(title)
        axis.set_xlabel("text: the plain label")
    axes[0].set_yticks(range(len(labels)), labels, fontsize=7)
    axes[0].set_ylabel("sound: mean over the test recordings with this label")
    figure.colorbar(image, ax=axes, label="cosine, column mean removed", shrink=0.8)
    figure.savefig(picture, dpi=75)


if __name__ == "__main__":
    main(*sys.argv[1:])
