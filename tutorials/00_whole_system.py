# %% [markdown]
# # The whole of MuLan in two minutes
#
# MuLan ([arXiv 2208.12415](https://arxiv.org/abs/2208.12415)) learns one embedding space for music and language. A recording
# and a sentence that describes it become two vectors with similar directions. The model gets no definition of a waltz. It only
# gets pairs of a recording and a text about it, and must learn which text belongs to which recording.
#
# ```text
#  waveform -> log-mel -> ResNet-50 or AST -> linear -> length 1 --+
#                                                                  +-- cosine / temperature -> contrastive loss
#  text     -> tokens  -> BERT             -> linear -> length 1 --+
# ```
#
# This chapter goes through each part of that picture, with the code of `mulan_min`, on a small demo world of synthetic music.
# Every claim is an `assert`: if one were wrong, the program that makes this page would stop.

# %%
import copy
import os
import time

import matplotlib.pyplot as plt
import numpy as np
import torch

from mulan_min.config import resolve
from mulan_min.contrastive import make_targets
from mulan_min.data import Batches, audio_of, read_clip_window, read_collection, shuffle_pairs
from mulan_min.demo.pieces import FAMILIES
from mulan_min.demo.world import make_world
from mulan_min.labels import truth_table
from mulan_min.loader import loader
from mulan_min.loss import chance_loss, clamp_temperature, cmc_loss
from mulan_min.metrics import roc_auc
from mulan_min.mulan import MuLan
from mulan_min.text_warmup import warm_up_text
from mulan_min.wordpiece import encode, train_wordpiece

FAST = bool(os.environ.get("FAST"))      # the small size that the tests run; the text below describes the full size
began = time.perf_counter()
torch.set_num_threads(max(1, os.cpu_count() - 1))      # the process that reads audio gets one core

# %% [markdown]
# ## 1. The data
#
# The paper's MuLan was trained on 44 million music videos. We make 500 recordings of 12 s. Each one has a genre, a lead
# instrument, a mood, a tempo, a density and a production. Each one has texts of the paper's four sources: short titles and tags
# (SF), long comments, of which only some are about the music (LF), playlist titles (PL), and class labels (ASET). No training
# recording has the same combination of genre and lead instrument as a test recording.

# %%
size = 60 if FAST else 500
folder = make_world(f"data/demo-{size}", recordings=size, progress=False)
train, test = (read_collection([folder], split) for split in ("train", "test"))
labels = [label for family in FAMILIES.values() for label in family]


def true_of(recording):
    """The recording's labels as one line, without the synonyms of labels, which are also among its tags."""
    return ", ".join(tag for tag in recording.tags if tag in labels)


print(f"{len(train)} training and {len(test)} test recordings; one of them, {train[7].id}:")
print("  tags (for evaluation only):", true_of(train[7]))
for source, texts in train[7].text.items():
    print(f"  {source:4}  {texts[-1]}")
assert not {tuple(r.tags[:2]) for r in train} & {tuple(r.tags[:2]) for r in test}      # (genre, lead) pairs are new

# %% [markdown]
# ## 2. The two towers
#
# The towers are those of the `laptop` preset, but smaller, so that training takes two minutes: a ResNet-50 of half the width, a
# BERT with one block, windows of 5 s (10 s in the paper) and texts of at most 32 tokens. The tokenizer is trained on the training
# texts. The towers start from random weights.

# %%
full = {"batch_size": 48, "steps": 280, "text_warmup": 80, "lr": 2e-3}
small = {"batch_size": 24, "steps": 60, "text_warmup": 4, "lr": 1e-3}
config = resolve({"audio": "resnet50", "resnet_width": 8, "seconds": 5.0, "hop": 0.02, "time_mask": 40, "text_depth": 1,
                  "max_tokens": 32, "text_lr": 1e-3, "temperature": 0.1, "temperature_floor": 0.02, **(small if FAST else full)})
B = config.optim.batch_size
corpus = sorted({text for r in train for texts in r.text.values() for text in texts})
tokenizer = train_wordpiece(corpus, config.text.vocab_size)
torch.manual_seed(0)
model = MuLan(config, tokenizer)
for name, tower in (("audio", model.audio), ("text", model.text)):
    print(f"{name} tower: {sum(p.numel() for p in tower.parameters()) / 1e6:.2f} M parameters")

# %% [markdown]
# The audio tower first computes a log-mel spectrogram from the waveform. It cuts the waveform into frames of 50 ms and measures
# the power of each frame in 64 frequency bands. The bands are spaced like the pitches that people hear. Then it takes the
# logarithm, because people hear ratios of loudness. The result is an image.

# %%
waveform = read_clip_window(train[7], config.front.seconds, config.front.sample_rate, position=0.5)
mel = model.audio.mel(torch.from_numpy(waveform)[None])      # (1, samples) -> (1, mels, frames)
frames = round(config.front.seconds / config.front.hop)
assert waveform.shape == (round(config.front.seconds * 16000),) and mel.shape == (1, 64, frames)
print(f"{waveform.shape[0]} samples -> {mel.shape[1]} mels x {mel.shape[2]} frames")

figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained", height_ratios=(1, 2))
top.plot(np.arange(len(waveform)) / 16000, waveform, linewidth=0.3)
top.set(title="waveform: " + true_of(train[7]), ylabel="amplitude")
image = bottom.imshow(mel[0].numpy(), origin="lower", aspect="auto", cmap="magma", extent=(0, config.front.seconds, 0, 64))
bottom.set(title="log-mel spectrogram", xlabel="seconds", ylabel="mel band")
figure.colorbar(image, ax=bottom, label="log power")
plt.show()

# %% [markdown]
# The ResNet-50 takes this image, and its output is averaged over time and frequency. BERT takes the tokens and returns the state
# of the `[CLS]` token. A linear layer maps each of the two to 128 numbers. Each vector is divided by its length, so the dot
# product of two vectors is their cosine.

# %%
model.eval()
with torch.inference_mode():
    tokens, mask = encode(tokenizer, ["A slow, sad waltz on the piano", "techno"], config.text.max_tokens)
    text = model.text(tokens, mask)
    audio = model.audio(torch.from_numpy(waveform)[None])
print(f"tokens {tuple(tokens.shape)} -> text {tuple(text.shape)};  waveform (1, {len(waveform)}) -> audio {tuple(audio.shape)}")
print("the first text as the tower sees it:", " ".join(tokenizer.id_to_token(i) for i in tokens[0]))
assert torch.allclose(text.norm(dim=1), torch.ones(2)) and torch.allclose(audio.norm(dim=1), torch.ones(1))

# %% [markdown]
# ## 3. A batch
#
# Each batch has SF, LF, PL and ASET pairs in the ratio 2 : 2 : 1 : 1, as in the paper. The recordings and texts of batch *s* depend
# only on the seed and *s*, so a resumed run does not need to know the earlier batches. A recording may occur twice in a batch, with
# texts of two sources. The loss does not treat these two pairs as negatives of each other.

# %%
batches = Batches(train, config, make_targets(model))
batch = batches[0]
for row in range(0, B, B // 6):      # a batch is sorted by the length of its texts
    print(f"  {batch['ids'][row]}  {tokenizer.decode(batch['tokens'][row].tolist()).replace(' ##', '')[:90]}")
sources = [source for source, _ in batches.sampler.batch(0)]
print("sources of the first six pairs:", *sources[:6])
assert [sources.count(s) for s in ("sf", "lf", "pl", "aset")] == [B // 3, B // 3, B // 6, B // 6]

# %% [markdown]
# ## 4. The contrastive loss
#
# With $h(a, b) = \exp(a \cdot b / \tau)$, audio embeddings $x_i$ and text embeddings $t_i$ of a batch of $B$ pairs:
#
# $$ L = \frac{1}{B} \sum_i -\log \frac{h(x_i, t_i)}{\sum_{j \ne i} \left( h(x_i, t_j) + h(x_j, t_i) \right)} $$
#
# The numerator makes the embeddings of pair $i$ similar. The denominator has one term for every other text with this recording and
# one for every other recording with this text: $2(B-1)$ terms. If all similarities are equal, the loss is $\ln 2(B-1)$ for every
# $\tau$. This is the **chance** value. A run whose loss stays at this value has learned nothing, even after many steps.
#
# The positive pair itself is *not* in the denominator. In CLIP's loss it is, so that loss cannot fall below 0. This loss can, and
# it falls without bound as $\tau \to 0$. So $\tau$, which is trained like a weight, needs a floor.

# %%
def embed(model, batch):
    """-> audio (B, 128), text (B, 128)"""
    return model(audio_of(batch), batch["tokens"], batch["mask"])


def by_the_formula(x, t, tau):
    """The loss by the formula above, term by term."""
    h = lambda a, b: np.exp(a @ b / tau)      # noqa: E731
    pairs = range(len(x))
    return np.mean([-np.log(h(x[i], t[i]) / sum(h(x[i], t[j]) + h(x[j], t[i]) for j in pairs if j != i)) for i in pairs])


with torch.no_grad():
    x, t = embed(model, batch)
    first = cmc_loss(x, t, model.temperature).item()
    before = (x @ t.T / model.temperature).numpy()      # the logits matrix (B, B), for the picture below
chance = chance_loss(B)
perfect = cmc_loss(torch.eye(B), torch.eye(B), torch.tensor(0.1)).item()
print(f"loss before training {first:.3f}, chance ln(2 * {B - 1}) = {chance:.3f}, perfect pairs at tau 0.1: {perfect:.3f}")
assert abs(chance - np.log(2 * (B - 1))) < 1e-9 and abs(first - chance) < 0.3 and perfect < 0
assert abs(first - by_the_formula(x.double().numpy(), t.double().numpy(), model.temperature.item())) < 1e-4

# %% [markdown]
# ## 5. Training, with a control
#
# The paper starts from a BERT that was pretrained on much text. Ours starts from random weights, and a random BERT gives nearly
# the same embedding to every text. So we first train the text tower alone: a linear layer must predict the words of all texts of
# a recording from the embedding of one of them. This step uses no audio.

# %%
def mean_cosine(model):
    """Mean cosine between the embeddings of 200 texts: 1 if all are the same, about 0 if their directions are random."""
    vectors = model.embed_text(corpus[::len(corpus) // 200])
    return (vectors @ vectors.T).mean().item()


cosine_before = mean_cosine(model)
texts_of_each = [[text for texts in r.text.values() for text in texts] for r in train]
warm_up_text(model.train(), texts_of_each, config, torch.device("cpu"))
print(f"mean cosine between two texts: {cosine_before:.2f} before, {mean_cosine(model):.2f} after")
assert FAST or mean_cosine(model) < cosine_before - 0.1      # the four steps of FAST are too few

# %% [markdown]
# `train.py` has the complete training loop, with mixed precision, checkpoints and validation. Its main part is the loop below. A
# second process reads the next batches and computes their spectrograms. We train twice: once on the true pairs, and once as a
# **control**, in which every recording has the texts of a random recording, the same ones in every epoch. The control gets the
# same audio and the same texts. If its results were as good, our results would not come from the relation of text and music.

# %%
def fit(start, recordings):
    """Trains a copy of the model `start`. Returns (model in eval mode, loss of each step)."""
    torch.manual_seed(0)
    model = copy.deepcopy(start).train()
    batches = Batches(recordings, config, make_targets(model), front_end=model.audio.spectrogram)
    losses, optim = [], config.optim
    optimizer = torch.optim.AdamW([{"params": model.audio.parameters(), "lr": optim.lr},
                                   {"params": [*model.text.parameters(), model.temperature], "lr": optim.text_lr}],
                                  weight_decay=optim.weight_decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, [optim.lr, optim.text_lr], total_steps=optim.steps, pct_start=0.1)
    for batch in loader(batches, first_step=0, workers=1):
        loss = cmc_loss(*embed(model, batch), model.temperature, keys=batch["keys"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
        optimizer.step()
        rate.step()
        clamp_temperature(model.temperature, config.space.temperature_floor)
        losses.append(loss.item())
    return model.eval(), losses


control, control_losses = fit(model, shuffle_pairs(train, seed=0))
model, losses = fit(model, train)
last, control_last = np.mean(losses[-10:]), np.mean(control_losses[-10:])
print(f"loss of the last steps {last:.2f}, of the control {control_last:.2f}, chance {chance:.2f}; "
      f"temperature {model.temperature.item():.3f}")

figure, axis = plt.subplots(figsize=(9, 3.5), layout="constrained")
for values, name in ((losses, "true pairs"), (control_losses, "control: shuffled pairs")):
    axis.plot(np.convolve(values, np.ones(5) / 5, "valid"), label=name)
axis.axhline(chance, color="grey", linestyle="--", label="chance ln 2(B-1)")
axis.set(xlabel="step", ylabel="loss (mean of 5 steps)")
axis.legend()
plt.show()
assert last < chance - (0.1 if FAST else 0.2)

# %% [markdown]
# The pictures show the logits $x_i \cdot t_j / \tau$ of one training batch. Row $i$ is a recording, column $j$ is a text, and the
# true pairs are on the diagonal. The means of each row and each column are subtracted, because they do not distinguish pairs.
# A batch is sorted by the length of its texts, so long comments are on the right.
# Before training almost nothing is left, so the loss was at chance. After two minutes of training the diagonal is still faint.
# The histogram on the right shows the difference better, with the pairs of many batches: texts are closer to their own recording.
# Not every text can be, because a fifth of the comments is not about the music.

# %%
def centred(logits):
    return logits - logits.mean(0) - logits.mean(1, keepdims=True) + logits.mean()


with torch.no_grad():
    after = []
    for step in range(4 if FAST else 12):
        x, t = embed(model, batches[step])
        after.append(centred((x @ t.T / model.temperature).numpy()))
before, own = centred(before), np.eye(B, dtype=bool)
positive, negative = (np.concatenate([logits[which] for logits in after]) for which in (own, ~own))

figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
for axis, logits, title in zip(axes, (before, after[0]), ("before training", "after training")):
    image = axis.imshow(logits, cmap="RdBu_r", vmin=-4, vmax=4)
    axis.set(title=title, xlabel="text", ylabel="recording")
figure.colorbar(image, ax=axes[:2], shrink=0.8, label="logit, rows and columns centred")
for values, name in ((positive, "own text"), (negative, "another's text")):
    axes[2].hist(values, bins=np.linspace(-6, 10, 65), density=True, alpha=0.6, label=name)
axes[2].set(title=f"after training, {len(after)} batches", xlabel="logit", ylabel="density")
axes[2].legend()
plt.show()
print(f"own text {positive.mean():+.2f}, another's {negative.mean():+.2f}; "
      f"before {before[own].mean():+.2f}, {before[~own].mean():+.2f}")
assert abs(before).max() < 1 and positive.mean() > before[own].mean() + (0.1 if FAST else 0.5)

# %% [markdown]
# ## 6. Zero-shot tagging
#
# The model was not trained on tags. But a tag is a text, and texts can be compared with recordings. For each label, we rank the
# test recordings by their cosine with it. The ROC-AUC is the probability that a recording with the label ranks above one without
# it, so guessing gives 0.5. The recordings are new, and so are their combinations of genre and lead instrument.

# %%
truth = truth_table(test, labels)                                                      # (recordings, labels) bool
embeddings = {name: m.embed_audio([r.audio for r in test]).numpy() for name, m in (("MuLan", model), ("control", control))}
scores = {name: embeddings[name] @ m.embed_text(labels).numpy().T for name, m in (("MuLan", model), ("control", control))}
auc = {name: roc_auc(table, truth) for name, table in scores.items()}                  # (labels,), NaN without positives
print(f"{'ROC-AUC':12}{'MuLan':>8}{'control':>9}{'chance':>8}")
for family, members in [*FAMILIES.items(), ("all", labels)]:
    columns = [labels.index(label) for label in members]
    print(f"{family:12}{np.nanmean(auc['MuLan'][columns]):8.3f}{np.nanmean(auc['control'][columns]):9.3f}{0.5:8.3f}")
mean = {name: np.nanmean(values) for name, values in auc.items()}
if not FAST:      # sixty steps are too few for these results
    assert mean["MuLan"] > 0.53 and mean["MuLan"] > mean["control"] + 0.02
    assert abs(mean["control"] - 0.5) < 0.1
    production = [labels.index(label) for label in FAMILIES["production"]]      # the easiest family
    assert auc["MuLan"][production].mean() > 0.65

# %% [markdown]
# The next picture shows the scores of a single recording and its true labels. A label that is close to all recordings would have a
# high score everywhere, so each label's mean over the test recordings is subtracted first. After two minutes of training, the
# scores for production and mood are often correct, and the scores for genre are often wrong; the table shows how often.

# %%
relative, chosen = scores["MuLan"] - scores["MuLan"].mean(axis=0), 0
figure, axes = plt.subplots(1, 2, figsize=(11, 6), layout="constrained")
for axis, families in zip(axes, (("genre", "instrument"), ("mood", "tempo", "density", "production"))):
    shown = np.array([labels.index(label) for family in families for label in FAMILIES[family]])
    shown = shown[np.argsort(relative[chosen, shown])]
    colours = ["tab:orange" if truth[chosen, c] else "lightgrey" for c in shown]
    axis.barh([labels[c] for c in shown], relative[chosen, shown], color=colours)
    axis.set(title=", ".join(families), xlabel="cosine, less the label's mean")
figure.suptitle(f"zero-shot scores of one test recording, orange is true: {true_of(test[chosen])}")
plt.show()

# %% [markdown]
# ## 7. From a sentence to music
#
# The same space works in the other direction: which recordings are closest to a sentence? We print the four closest recordings,
# how many of the ten closest have the label of the sentence, and how many of ten random recordings would have it.

# %%
for sentence, label in (("an old, scratchy lo-fi tape", "lo-fi"), ("a sparse arrangement with lots of space", "sparse"),
                        ("a melody on the flute", "flute")):
    cosines = embeddings["MuLan"] @ model.embed_text([sentence]).numpy()[0]
    order, correct = np.argsort(-cosines), truth[:, labels.index(label)]
    print(f'"{sentence}": {correct[order[:10]].sum()} of the first 10 are {label}, chance {10 * correct.mean():.1f}')
    for i in order[:4]:
        print(f"   {cosines[i]:.2f}  {test[i].id}  {true_of(test[i])}")

# %% [markdown]
# ## 8. What the full size does
#
# This chapter used a small world, small towers and a short training. `python train.py --audio resnet50` does the same with 4400
# recordings and the complete `train.py`. `python eval.py --task all` evaluates it with the paper's four tasks.

# %%
seconds = time.perf_counter() - began
print(f"this chapter took {seconds:.0f} s on {torch.get_num_threads()} threads")

# %% [markdown]
# ## Exercises
#
# 1. What is the chance loss of the paper's batch of 6144 pairs? And of two pairs? Why is a batch of one pair an error?
# 2. The loss of perfect pairs at $\tau = 0.1$ was printed in section 4. Derive it: the cosines are 1 on the diagonal, 0 elsewhere.
# 3. Put the positive pair into the denominator. What are then the chance value of the loss and its lower bound? Does $\tau$ need a
#    floor?
# 4. The control's loss fell too, but less, or later. Why can it fall, and why does its ROC-AUC stay at chance?
# 5. Train with `ratio="sf=1"`, then with `ratio="lf=1"`. Which families of labels get worse, and why?
# 6. Do not subtract the means in the picture of section 6. Which labels have the highest scores then? Why is ROC-AUC the same?
#
# <details><summary>Solutions</summary>
#
# 1. $\ln(2 \cdot 6143) \approx 9.42$, and $\ln 2 \approx 0.69$. One pair has no negatives: the denominator is an empty sum.
# 2. $-\log\frac{e^{10}}{2 \cdot 47 \cdot e^0} = \ln 94 - 10 \approx -5.46$.
# 3. The chance value is $\ln(2B - 1)$. The fraction is now below 1, so the loss stays above 0 and approaches 0 as the positive term
#    dominates. $\tau$ would fall more and more slowly, and needs no floor to keep the loss finite.
# 4. The shuffled pairs are the same in every epoch, so the model can memorise them, recording by recording. Memorised pairs do
#    not help with new recordings.
# 5. Change `resolve({..., "ratio": "lf=1"})` in section 2 and run the chapter again. Titles and tags name one or two labels
#    directly. Comments say more, but a fifth of them is about something else. Compare the tables of section 6.
# 6. The labels whose vector is close to the mean of all recordings. ROC-AUC compares the recordings for one label, so a number
#    that is added to all scores of this label makes no difference.
#
# </details>
