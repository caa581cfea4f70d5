"""`--objective tags`: the audio tower as a classifier of labels, without any text (paper: the AudioSet pretraining of the audio
tower, and the end-to-end baseline). Another run may start from it: `--audio-init runs/tags`. Functions as in contrastive.py."""
from collections import Counter
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from mulan_min import distributed, metrics
from mulan_min.command_line import print0
from mulan_min.config import parse_ratio
from mulan_min.contrastive import LOG_LINE, after_step, stage_1_steps  # noqa: F401  the same for both
from mulan_min.data import audio_of
from mulan_min.device import autocast
from mulan_min.errors import MissingData, UserError
from mulan_min.labels import has_both_classes, label_table, labels_of, read_labels, with_tags
from mulan_min.mulan import check_texts, load_best, restore
from mulan_min.towers import AudioTower
from mulan_min.validation import middle_windows

LEAVES_UNUSED = False
VALID_LINE = "step {step:5d}  validation: labels, macro AUC {valid_auc:.3f} (chance 0.500)"


class LabelClassifier(nn.Module):
    """Audio embeddings (B, d), unit rows -> logits (B, C): one vector (d,) and one bias for each label."""

    def __init__(self, labels, dim):
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(len(labels), dim) / dim ** 0.5)
        self.bias = nn.Parameter(torch.zeros(len(labels)))

    def forward(self, audio, temperature):
        return audio @ self.vectors.T / temperature + self.bias


class TagClassifier(nn.Module):
    """MuLan's audio tower and a linear classifier. config: a Config; labels: the C labels to learn. For example:

        model = TagClassifier.load("runs/tags")
        logits = model(waveforms)                # (B, samples) -> (B, C)
        audio = model.embed_audio(["song.wav"])  # (1, 128)
    """
    tokenizer = None      # it reads no text

    def __init__(self, config, labels):
        super().__init__()
        self.config, self.labels = config, list(labels)
        self.audio = AudioTower(config)
        self.classifier = LabelClassifier(labels, config.space.dim)
        self.temperature = nn.Parameter(torch.tensor(config.space.temperature))

    def forward(self, audio):
        """Waveforms (B, samples) or spectrograms (B, mels, frames) -> logits (B, C)."""
        return self.classifier(self.audio(audio), self.temperature)

    def embed_audio(self, items, batch_size=32):
        """N paths or 1-D float arrays at the run's sample rate -> (N, d), unit rows; see `AudioTower.embed`."""
        return self.audio.embed(items, batch_size)

    @torch.no_grad()
    def embed_text(self, texts):
        """N of the classifier's labels -> their vectors (N, d) float32 on the CPU, unit rows. So zero-shot tagging can
        evaluate a classifier too. Raises MissingData for any other text."""
        columns = {label: c for c, label in enumerate(self.labels)}
        texts = check_texts(texts)
        if unknown := [text for text in texts if text not in columns]:
            raise MissingData(f"'{unknown[0]}' is no label of this model: trained with --objective tags, it reads no text")
        return F.normalize(self.classifier.vectors[[columns[text] for text in texts]], dim=-1).cpu()

    def networks(self):
        """What torch.compile compiles: [(module, whether its input shapes change)]."""
        return [(self.audio.net, None)]

    load = classmethod(load_best)

    @classmethod
    def from_state(cls, state, source):
        """The model in a checkpoint's state; error messages name `source`. Raises UserError."""
        return restore(state, source, "tags", lambda config: cls(config, state["labels"]))


# ---- the functions that train.py calls -------------------------------------------------


prepare = with_tags      # tags are one more source of text, for --ratio tags=1


def build(config, recordings, valid):
    """An untrained TagClassifier. Each label's bias starts at the logit of its share of the recordings, so a rare label gets a low
    probability from the first step. Raises UserError."""
    model = TagClassifier(config, choose_labels(recordings, config))
    measure_prior(model, recordings, valid)
    model.classifier.bias.data = model.label_prior.logit(1e-3)
    return model


def load(state, path, recordings, valid):
    """The TagClassifier of a checkpoint's state. Raises UserError."""
    model = TagClassifier.from_state(state, path)
    measure_prior(model, recordings, valid)
    return model


def warm_up(model, recordings, device):
    """Does nothing, because there is no text tower."""


def make_targets(model):
    """Returns the function that makes a batch's label table, see `data.collate`."""
    return partial(label_targets, model.labels, parse_ratio(model.config.data.ratio))


def label_targets(labels, sources, recordings, texts):
    return {"targets": label_table(recordings, labels, sources)}


def chances(model):
    """(binary cross entropy, R@1) of a model that knows only each label's share of the training recordings."""
    prior = model.label_prior
    return F.binary_cross_entropy(prior, prior).item(), prior.max().item()


def backward(net, batch, step, model, world):
    """Like contrastive.backward. The loss is the binary cross entropy, averaged over the labels. R@1 is the share of recordings
    whose highest logit belongs to one of their labels."""
    def forward(audio, targets):
        logits = net(audio).float()
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
        return losses, losses, logits

    loss, recall, _ = backward_in_chunks(forward, net, batch, model.config.optim, world)
    return loss, recall, chances(model)[0]


def validate(model, recordings, step):
    """{"valid_auc": macro ROC-AUC over the labels that some but not all validation recordings have}. Chance is 0.5."""
    audio = model.embed_audio(middle_windows(recordings, model.config)).to(model.temperature.device)
    truth = label_table(recordings, model.labels, parse_ratio(model.config.data.ratio)).bool()
    with torch.no_grad():
        return {"valid_auc": label_auc(model.classifier(audio, model.temperature).cpu(), truth)}


# ---- shared with the companion paper's tagger ------------------------------------------


def backward_in_chunks(forward, net, batch, optim, world):
    """Adds the gradients of the mean loss over the global batch. The loss of a clip does not depend on other clips, so chunks are
    independent. forward calls `net`: (audio, targets (b, C)) -> (losses (b,), losses with another recording's labels (b,),
    logits (b, C)).
    Returns (loss, R@1, loss with another recording's labels), over all processes.
    """
    audio, targets = audio_of(batch), batch["targets"]
    sums, size = torch.zeros(3, device=targets.device), len(targets)
    for rows in torch.arange(size, device=targets.device).tensor_split(distributed.chunk_count(optim)):
        with nullcontext() if world == 1 or rows[-1] == size - 1 else net.no_sync():
            with autocast(targets.device, optim.precision):
                losses, shuffled_losses, logits = forward(audio[rows], targets[rows])
            (world * losses.sum() / optim.batch_size).backward()
        hits = targets[rows].gather(1, logits.argmax(1, keepdim=True))
        sums += torch.stack([losses.detach().sum(), hits.sum(), shuffled_losses.detach().sum()])
    return distributed.all_reduce_sum(sums / optim.batch_size)


def measure_prior(model, recordings, valid):
    """Sets model.label_prior (C,): each label's share of the training recordings that have text of a source in use. Raises
    UserError when no label can be evaluated on `valid`, the validation recordings (empty on all processes but the first)."""
    sources = parse_ratio(model.config.data.ratio)
    model.label_prior = label_table([r for r in recordings if r.text.keys() & sources.keys()], model.labels, sources).mean(0)
    if valid:
        judged_labels(label_table(valid, model.labels, sources).bool())


def choose_labels(recordings, config):
    """The labels on --label-recordings or more recordings, in alphabetical order; with --label-set only those of that set. Raises
    UserError when there are none."""
    sources, minimum = parse_ratio(config.data.ratio), config.data.label_recordings
    counts = Counter(label for recording in recordings for label in labels_of(recording, sources))
    if name := config.tagger.label_set:
        sets = [read_labels(folder) for folder in config.data.data]
        if not all(name in known for known in sets):
            raise UserError(f"--label-set {name} is not in labels.json of each --data; there are {', '.join(map(', '.join, sets))}")
        counts = Counter({label: counts[label] for known in sets for label in known[name]})
    labels = sorted(label for label, count in counts.items() if count >= minimum)
    if not labels:
        raise UserError(f"none of {len(counts)} labels in --ratio {config.data.ratio} is on {minimum} or more training recordings: "
                        "lower --label-recordings, or name another source of labels")
    print0(f"{len(labels)} labels are on {minimum} or more recordings, {len(counts) - len(labels)} others are left out")
    return labels


def judged_labels(truth):
    """(N, C) -> (C,), both bool: True for labels on some but not all recordings. Raises UserError when there are none."""
    judged = has_both_classes(truth)
    if not judged.any():
        raise UserError("no label is on some but not all recordings of split 'valid'; put more recordings there")
    return judged


def label_auc(logits, truth):
    """Macro ROC-AUC over the labels of `judged_labels`: logits (N, C), truth (N, C) bool -> float. Raises UserError."""
    judged = judged_labels(truth)
    return float(metrics.roc_auc(logits[:, judged].numpy(), truth[:, judged].numpy()).mean())
