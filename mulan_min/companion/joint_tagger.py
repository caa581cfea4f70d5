"""The companion paper, "Music Auto-tagging with Joint Embeddings": a tagger that first learns an embedding of its tags.

Stage 1: an autoencoder of tags learns to reconstruct them (L_AE), and the projected audio features learn to be close to the
embedding of their own recording's tags (L_pair). Stage 2: a classifier is trained on the audio features. Without joint embedding
(--no-joint) the extractor and the classifier are trained together from the first step, as taggers usually are.

Like MuLan it has two towers with one space. But one tower reads tags instead of sentences, and no pair is pushed apart. Only the
reconstruction of the tags keeps the embeddings from collapsing into one point. Functions as in contrastive.py.
"""
from contextlib import suppress
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from mulan_min import tag_classifier
from mulan_min.audio import AudioError
from mulan_min.companion.extractors import make_extractor
from mulan_min.config import TOWERS, parse_ratio
from mulan_min.data import read_clip_window
from mulan_min.embedding import leave_out, read_split
from mulan_min.errors import MissingData, UserError
from mulan_min.labels import label_table, read_labels, truth_table
from mulan_min.mulan import load_best, restore
from mulan_min.tag_classifier import (backward_in_chunks, chances, choose_labels, label_auc, make_targets,  # noqa: F401
                                      measure_prior, prepare, warm_up)
from mulan_min.tasks import score_labels
from mulan_min.towers import AudioTower, as_waveform, evaluating
from mulan_min.validation import middle_windows

BATCH = 64      # windows per forward pass in evaluation; our choice
LEAVES_UNUSED = True      # each stage trains its own modules
LOG_LINE = tag_classifier.LOG_LINE.replace("tau {temperature:.3f}  ", "")
VALID_LINE = tag_classifier.VALID_LINE + "  loss {valid_loss:.3f} (another's tags {valid_chance:.3f})"


def dense(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.LeakyReLU(0.3))      # 0.3: the paper's code


def pair_loss(audio, tags):
    """(B, d), (B, d) -> (B,) in 0..4: (1 - cos(z_m, z_t)) + (1 - cos(1 - z_m, 1 - z_t)), 0 for equal rows (paper)."""
    return 2 - F.cosine_similarity(audio, tags) - F.cosine_similarity(1 - audio, 1 - tags)


def stage_1_steps(config):
    """The number of steps of stage 1; 0 with --no-joint. Raises UserError if one of the stages would have no step."""
    steps, share = config.optim.steps, config.tagger.joint_share
    stage_1 = round(steps * share)
    if config.tagger.joint and not 0 < stage_1 < steps:
        raise UserError(f"--joint-share {share:g} of --steps {steps} leaves a stage without steps: more --steps, or --no-joint")
    return stage_1 if config.tagger.joint else 0


class MelFeatures(AudioTower):
    """MuLan's audio tower without its projection, as an extractor: waveforms or spectrograms -> (B, width)."""

    def __init__(self, config):
        super().__init__(config)
        del self.project

    forward = AudioTower.features


class JointTagger(nn.Module):
    """An extractor, an autoencoder of tags, a projection of the features into the space of the tags, and a classifier.

    config: a Config; labels: the C labels to learn. Raises UserError, see `stage_1_steps` and `make_extractor`. For example:

        model = JointTagger.load("runs/sample-cnn")
        logits = model.predict(waveforms)[2]      # (N, samples), a numpy array -> (N, C)
    """
    tokenizer = None      # it reads no text

    def __init__(self, config, labels):
        super().__init__()
        self.stage_1 = stage_1_steps(config)
        self.config, self.labels = config, list(labels)
        front, tagger, width = config.front, config.tagger, config.tagger.tag_width
        self.audio = MelFeatures(config) if config.tower.audio in TOWERS else make_extractor(
            config.tower.audio, tagger.extractor_width, front.sample_rate, round(front.seconds * front.sample_rate),
            tagger.sinc_filters, tagger.sinc_length)
        self.encode = nn.Sequential(dense(len(labels), width), dense(width, width))
        self.decode = nn.Sequential(dense(width, width), nn.Linear(width, len(labels)))
        self.project = nn.Sequential(dense(self.audio.width, width), dense(width, width))
        hidden = tagger.classifier_width
        self.classify = nn.Sequential(dense(self.audio.width, hidden), dense(hidden, hidden), nn.Dropout(tagger.tag_dropout),
                                      nn.Linear(hidden, len(labels)))

    def forward(self, audio, targets, in_stage_1):
        """audio: what the extractor takes; targets (B, C) of 0 and 1 -> (losses (B,), the losses with the tags of the previous
        recording in the batch (B,), logits (B, C)). In stage 1 the logits are the decoder's output for the audio embedding."""
        if in_stage_1:
            audio, tags = self.project(self.audio(audio)).float(), self.encode(targets).float()
            reconstruction = (self.decode(tags).float().sigmoid() - targets).square().mean(1)
            if self.config.tagger.detach_tags:
                tags = tags.detach()
            losses, shuffled_losses = (reconstruction + pair_loss(audio, z) for z in (tags, tags.roll(1, 0)))
            return losses, shuffled_losses, self.decode(audio).float()
        logits = self.classify(self.features(audio)).float()
        losses, shuffled_losses = (F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
                                   for truth in (targets, targets.roll(1, 0)))
        return losses, shuffled_losses, logits

    def features(self, audio):
        """Extractor's input -> (B, width). In stage 2 the extractor is frozen (the paper's code trains only the classifier), unless
        `finetune_extractor` is set."""
        if self.config.tagger.joint and not self.config.tagger.finetune_extractor:
            with torch.no_grad(), evaluating(self.audio):
                return self.audio(audio)
        return self.audio(audio)

    @torch.inference_mode()
    def predict(self, waveforms, targets=None, in_stage_1=False):
        """Waveforms (N, samples), a numpy array, targets (N, C) -> (losses (N,), losses with another recording's tags (N,), logits
        (N, C)) on the CPU, in eval mode and float32. Without targets the losses are meaningless."""
        device, outputs = next(self.parameters()).device, []
        with evaluating(self):
            for rows in torch.arange(len(waveforms)).split(BATCH):
                truth = torch.zeros(len(rows), len(self.labels)) if targets is None else targets[rows]
                part = np.stack([as_waveform(waveforms[i], self.config.front.sample_rate) for i in rows])
                part = torch.from_numpy(part).to(device)
                outputs.append([x.cpu() for x in self(part, truth.to(device), in_stage_1)])
        return [torch.cat(parts) for parts in zip(*outputs)]

    def networks(self):
        """What torch.compile compiles: [(module, whether its input shapes change)]."""
        return [(self.audio.net if isinstance(self.audio, AudioTower) else self.audio, None)]

    load = classmethod(load_best)

    @classmethod
    def from_state(cls, state, source):
        """The model in a checkpoint's state; error messages name `source`. Raises UserError."""
        return restore(state, source, "joint-tags", lambda config: cls(config, state["labels"]))


# ---- the functions that train.py calls; the others come from tag_classifier.py ---------


def build(config, recordings, valid):
    """An untrained JointTagger, with the bias of each label as in tag_classifier.build. Raises UserError."""
    model = JointTagger(config, choose_labels(recordings, config))
    measure_prior(model, recordings, valid)
    for last in (model.classify[-1], model.decode[-1]):
        last.bias.data = model.label_prior.logit(1e-3)
    return model


def load(state, path, recordings, valid):
    """The JointTagger of a checkpoint's state. Raises UserError."""
    model = JointTagger.from_state(state, path)
    measure_prior(model, recordings, valid)
    return model


def backward(net, batch, step, model, world):
    """Like tag_classifier.backward. The chance loss is measured: it is the loss with another recording's tags."""
    forward = partial(net, in_stage_1=step < model.stage_1)
    return backward_in_chunks(forward, net, batch, model.config.optim, world)


def after_step(model):
    return {}


def validate(model, recordings, step):
    """{"valid_auc": macro ROC-AUC of the labels, "valid_loss", "valid_chance": the loss with another recording's tags}. In stage 1
    the logits and losses are those of stage 1."""
    waveforms = np.stack(middle_windows(recordings, model.config))
    truth = label_table(recordings, model.labels, parse_ratio(model.config.data.ratio))
    losses, shuffled_losses, logits = model.predict(waveforms, truth, step <= model.stage_1)
    return {"valid_auc": label_auc(logits, truth.bool()), "valid_loss": losses.mean().item(),
            "valid_chance": shuffled_losses.mean().item()}


# ---- eval.py --task autotag ------------------------------------------------------------


def autotag(model, folder, embeddings=None, seed=0):
    """Tagging of the test split: macro ROC-AUC and PR-AUC over the model's labels, and over those of each set in labels.json.

    A recording's scores are the mean over `test_windows` evenly spaced windows. Returns what the other tasks return. Raises
    MissingData and UserError.
    """
    if not isinstance(model, JointTagger):
        raise MissingData("autotag needs a run of --objective joint-tags; zero-shot tagging is --task tagging")
    test, unreadable = read_split(folder, "test"), {}
    front, count = model.config.front, model.config.tagger.test_windows
    scores = np.zeros((len(test), len(model.labels)))
    for i, recording in enumerate(tqdm(test, desc="tagging", unit="recording", disable=None)):
        try:
            waveforms = np.stack([read_clip_window(recording, front.seconds, front.sample_rate, position)
                                  for position in (np.linspace(0, 1, count) if count > 1 else [0.5])])
            scores[i] = model.predict(waveforms)[2].sigmoid().mean(0).double().numpy()
        except AudioError as error:
            unreadable[i] = str(error)
    test, scores, notes = leave_out(unreadable, folder, test, scores)
    if not np.isfinite(scores).all():
        raise UserError("the model's scores are not all finite numbers; train it again")
    sets = {"all": model.labels}
    with suppress(MissingData):      # a collection may have no labels.json
        sets |= read_labels(folder) | sets
    return score_labels(folder, sets, model.labels, truth_table(test, model.labels), {"": scores}, seed, notes)
