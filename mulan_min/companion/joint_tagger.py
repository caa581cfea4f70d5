"""The companion paper, "Music Auto-tagging with Joint Embeddings": a tagger that first learns where its tags lie.

Stage 1: an autoencoder of tags learns to rebuild them (L_AE), and the extractor's features, projected, are drawn to the
embedding of their own recording's tags (L_pair). Stage 2: a classifier is trained on the features. Without joint embedding
extractor and classifier are trained together from the first step, as taggers are. MuLan's cousin: two towers that meet in one
space, one of which reads tags in place of sentences, and no pair pushes another away: what keeps all from falling together is
that tags must be rebuilt.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from mulan_min import checkpoint
from mulan_min.companion.extractors import make_extractor
from mulan_min.config import TOWERS
from mulan_min.data import read_clip_window, read_manifest
from mulan_min.errors import MissingData, UserError
from mulan_min.labels import read_labels, truth_table
from mulan_min.mulan import AudioTower, MuLan, default_device, evaluating
from mulan_min.tasks import score_labels

BATCH = 64      # windows at a time where nothing is learned


def dense(before, after):
    return nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.LeakyReLU(0.3))      # 0.3: the paper's code


def pair_loss(sound, tags):
    """(B, d), (B, d) -> (B,) in 0..4: (1 - cos(z_m, z_t)) + (1 - cos(1 - z_m, 1 - z_t)), 0 for equal rows (paper)."""
    return 2 - F.cosine_similarity(sound, tags) - F.cosine_similarity(1 - sound, 1 - tags)


def stage_1(config):
    """How many of the steps are stage 1: none with --no-joint. Raises UserError where a stage would have no step."""
    steps, share = config.optim.steps, config.tagger.joint_share
    first = round(steps * share)
    if config.tagger.joint and not 0 < first < steps:
        raise UserError(f"--joint-share {share:g} of --steps {steps} leaves a stage without steps: more --steps, or --no-joint")
    return first if config.tagger.joint else 0


class MelFeatures(AudioTower):
    """MuLan's audio tower up to its projection, as an extractor: (B, samples) or (B, mels, frames) -> (B, width)."""

    def __init__(self, config):
        super().__init__(config)
        self.width = self.project.in_features
        del self.project

    forward = AudioTower.features


class JointTagger(nn.Module):
    def __init__(self, config, tokenizer, labels):
        """config: Config; tokenizer: None, it reads no text; labels: those it learns. Raises UserError, see `stage_1` and
        `make_extractor`."""
        super().__init__()
        self.first_steps = stage_1(config)
        self.config, self.tokenizer, self.labels = config, tokenizer, list(labels)
        front, tagger, width = config.front, config.tagger, config.tagger.tag_width
        self.audio = MelFeatures(config) if config.tower.audio in TOWERS else make_extractor(
            config.tower.audio, tagger.extractor_width, front.sample_rate, round(front.seconds * front.sample_rate),
            tagger.sinc_filters, tagger.sinc_length)
        self.encode = nn.Sequential(dense(len(labels), width), dense(width, width))
        self.decode = nn.Sequential(dense(width, width), nn.Linear(width, len(labels)))
        self.project = nn.Sequential(dense(self.audio.width, width), dense(width, width))
        wide = tagger.classifier_width
        self.classify = nn.Sequential(dense(self.audio.width, wide), dense(wide, wide), nn.Dropout(tagger.tag_dropout),
                                      nn.Linear(wide, len(labels)))

    def forward(self, sound, targets, first):
        """Sound as the extractor takes it, targets (B, C) of 0 and 1, `first` in stage 1 -> (losses (B,), what they would be with
        the tags of the next recording (B,), logits (B, C)). In stage 1 the logits are what the autoencoder makes of the sound."""
        if first:
            sound, tags = self.project(self.audio(sound)).float(), self.encode(targets).float()
            rebuilt = (self.decode(tags).float().sigmoid() - targets).square().mean(1)
            if self.config.tagger.detach_tags:
                tags = tags.detach()
            losses, others = (rebuilt + pair_loss(sound, place) for place in (tags, tags.roll(1, 0)))
            return losses, others, self.decode(sound).float()
        logits = self.classify(self.features(sound)).float()
        losses, others = (F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
                          for wanted in (targets, targets.roll(1, 0)))
        return losses, others, logits

    def features(self, sound):
        """(B, width). After stage 1 they stay as they are, unless `finetune_extractor` (the paper's code trains the classifier alone)."""
        if self.config.tagger.joint and not self.config.tagger.finetune_extractor:
            with torch.no_grad(), evaluating(self.audio):
                return self.audio(sound)
        return self.audio(sound)

    @torch.inference_mode()
    def ask(self, waves, targets=None, first=False):
        """Waves (N, samples), targets (N, C) -> (losses (N,), others (N,), logits (N, C)) on the CPU, in eval mode and float32.
        Of losses without targets nothing can be said."""
        device, answers = next(self.parameters()).device, []
        with evaluating(self):
            for rows in torch.arange(len(waves)).split(BATCH):
                wanted = torch.zeros(len(rows), len(self.labels)) if targets is None else targets[rows]
                sound = torch.from_numpy(waves[rows.numpy()]).to(device)
                answers.append([part.cpu() for part in self(sound, wanted.to(device), first)])
        return [torch.cat(parts) for parts in zip(*answers)]

    from_state, load = (classmethod(getattr(MuLan, name).__func__) for name in ("from_state", "load"))      # as a MuLan


def load_run(run):
    """The model of a run folder or checkpoint file, whatever its objective, as MuLan.load. Raises UserError."""
    path = checkpoint.best_of(run)
    state = checkpoint.load(path)
    try:
        joint = state["config"]["optim"]["objective"] == "joint-tags"
    except (KeyError, TypeError):
        joint = False      # MuLan says what is wrong with the file
    return (JointTagger if joint else MuLan).from_state(state, path).to(default_device()).eval()


def autotag(model, folder, heard=None, seed=0):
    """Tagging of the test split: macro ROC-AUC and PR-AUC over the model's labels, and over those of each set in labels.json.

    A recording's scores are the mean over `test_windows` evenly spaced windows. Returns what the other tasks return. Raises
    MissingData and UserError.
    """
    if not isinstance(model, JointTagger):
        raise MissingData("autotag needs a run of --objective joint-tags; zero-shot tagging is --task tagging")
    test = [r for r in read_manifest(folder) if r.split == "test"]
    front, count = model.config.front, model.config.tagger.test_windows
    if len(test) < 2:
        raise MissingData(f"{folder}: two or more 'test' recordings are needed, not {len(test)}")
    scores = []
    for recording in tqdm(test, desc="tagging", unit="recording", disable=None):
        waves = np.stack([read_clip_window(recording, front.seconds, front.sample_rate, place)
                          for place in (np.linspace(0, 1, count) if count > 1 else [0.5])])
        scores.append(model.ask(waves)[2].sigmoid().mean(0).double().numpy())
    if not np.isfinite(scores).all():
        raise UserError("the model's scores are not all finite numbers; train it again")
    sets = {"all": model.labels}
    try:
        sets |= {name: [label for label in members if label in model.labels] for name, members in read_labels(folder).items()
                 if name not in sets}
    except MissingData:
        pass
    return score_labels(folder, sets, model.labels, truth_table(test, model.labels), {"": np.stack(scores)}, seed)
