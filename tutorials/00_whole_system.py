# %% [markdown]
# # The whole of MuLan in two minutes
#
# MuLan ([arXiv 2208.12415](https://arxiv.org/abs/2208.12415)) learns one space for music and for language: a recording and
# a sentence that describes it become two vectors that point the same way. Nobody tells it what a waltz is. It only sees
# pairs of a recording and something that was written near it, and has to guess which text belongs to which recording.
#
# ```text
#  waveform -> log-mel -> ResNet-50 or AST -> linear -> length 1 --+
#                                                                  +-- cosine / temperature -> contrastive loss
#  text     -> tokens  -> BERT             -> linear -> length 1 --+
# ```
#
# This chapter walks through that picture once, on a small demo world of synthetic music, with the parts of `mulan_min`
# itself. Every claim is an `assert`: if one were wrong, this page could not have been made.

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
torch.set_num_threads(max(1, os.cpu_count() - 1))      # one core is for the process that reads

# %% [markdown]
# ## 1. A world to learn about
#
# Real MuLan heard 44 million music videos. We make 500 recordings of 12 s: each has a genre, a lead instrument, a mood, a
# tempo, a density and a production, and texts of four sources, as the paper has them: short titles and tags (SF), long
# comments of which some are about the music and some about the commenter's cat (LF), playlist titles (PL), and class
# labels (ASET). The test recordings combine genres and lead instruments as no training recording does.

# %%
size = 60 if FAST else 500
folder = make_world(f"data/demo-{size}", recordings=size, progress=False)
train, test = (read_collection([folder], split) for split in ("train", "test"))
labels = [label for family in FAMILIES.values() for label in family]


def true_of(recording):
    """The recording's labels as one line; its tags name the synonyms of labels too."""
    return ", ".join(tag for tag in recording.tags if tag in labels)


print(f"{len(train)} training and {len(test)} test recordings; one of them, {train[7].id}:")
print("  tags (for evaluation only):", true_of(train[7]))
for source, texts in train[7].text.items():
    print(f"  {source:4}  {texts[-1]}")
assert not {tuple(r.tags[:2]) for r in train} & {tuple(r.tags[:2]) for r in test}      # (genre, lead) pairs are new

# %% [markdown]
# ## 2. The two towers
#
# The towers are those of the `laptop` preset, made lighter for the two minutes: a ResNet-50 of half its width, a single
# block of BERT, windows of 5 s (the paper's are 10 s), texts of at most 32 tokens. The tokenizer is trained on the training
# texts; the towers start from random weights.

# %%
full = {"batch_size": 48, "steps": 280, "text_warmup": 80, "lr": 2e-3}
small = {"batch_size": 24, "steps": 60, "text_warmup": 4, "lr": 1e-3}
config = resolve({"audio": "resnet50", "resnet_width": 8, "seconds": 5.0, "hop": 0.02, "time_mask": 40, "text_depth": 1, "max_tokens": 32,
                  "text_lr": 1e-3, "temperature": 0.1, "temperature_floor": 0.02, **(small if FAST else full)})
B = config.optim.batch_size
corpus = sorted({text for r in train for texts in r.text.values() for text in texts})
tokenizer = train_wordpiece(corpus, config.text.vocab_size)
torch.manual_seed(0)
model = MuLan(config, tokenizer)
for name, tower in (("audio", model.audio), ("text", model.text)):
    print(f"{name} tower: {sum(p.numel() for p in tower.parameters()) / 1e6:.2f} M parameters")

# %% [markdown]
# The audio tower first turns the waveform into a log-mel spectrogram: frames of 50 ms, the power of each in 64 bands that
# are spaced as we hear, and the logarithm, because loudness is heard in ratios. What is left is a picture.

# %%
wave = read_clip_window(train[7], config.front.seconds, config.front.sample_rate, position=0.5)
mel = model.audio.mel(torch.from_numpy(wave)[None])      # (1, samples) -> (1, mels, frames)
frames = round(config.front.seconds / config.front.hop)
assert wave.shape == (round(config.front.seconds * 16000),) and mel.shape == (1, 64, frames)
print(f"{wave.shape[0]} samples -> {mel.shape[1]} mels x {mel.shape[2]} frames")

figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained", height_ratios=(1, 2))
top.plot(np.arange(len(wave)) / 16000, wave, linewidth=0.3)
top.set(title="waveform: " + true_of(train[7]), ylabel="amplitude")
picture = bottom.imshow(mel[0].numpy(), origin="lower", aspect="auto", cmap="magma", extent=(0, config.front.seconds, 0, 64))
bottom.set(title="log-mel spectrogram", xlabel="seconds", ylabel="mel band")
figure.colorbar(picture, ax=bottom, label="log power")
plt.show()

# %% [markdown]
# The ResNet-50 looks at that picture and is averaged over time and frequency; BERT reads the tokens and gives the state of
# its `[CLS]`. A linear layer brings each to 128 numbers, and dividing by the length makes a dot product a cosine.

# %%
model.eval()
with torch.inference_mode():
    tokens, mask = encode(tokenizer, ["A slow, sad waltz on the piano", "techno"], config.text.max_tokens)
    text = model.text(tokens, mask)
    audio = model.audio(torch.from_numpy(wave)[None])
print(f"tokens {tuple(tokens.shape)} -> text {tuple(text.shape)};  waveform (1, {len(wave)}) -> audio {tuple(audio.shape)}")
print("the first text as the tower sees it:", " ".join(tokenizer.id_to_token(i) for i in tokens[0]))
assert torch.allclose(text.norm(dim=1), torch.ones(2)) and torch.allclose(audio.norm(dim=1), torch.ones(1))

# %% [markdown]
# ## 3. A batch
#
# Each batch holds SF, LF, PL and ASET pairs as 2 : 2 : 1 : 1, as in the paper. Which recordings and texts form batch *s* is a
# function of (seed, *s*) alone, so that a resumed run needs no memory of what came before. A recording may occur twice, drawn for
# two sources; the loss then does not take one of the two pairs for a negative of the other.

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
# The numerator wants pair $i$ to be close. The denominator holds every other text for this recording and every other
# recording for this text: $2(B-1)$ terms. So if all similarities are equal the loss is $\ln 2(B-1)$, whatever $\tau$ is. That is
# **chance**: a run whose loss stays there has learned nothing, however long it runs.
#
# Note what is *not* in the denominator: the positive pair itself. In CLIP's loss it is, and the loss cannot fall below 0.
# Here it can, and as $\tau \to 0$ it falls without end. So $\tau$, which is trained like a weight, needs a floor.

# %%
def embed(model, batch):
    """-> audio (B, 128), text (B, 128)"""
    return model(audio_of(batch), batch["tokens"], batch["mask"])


def by_the_formula(x, t, tau):
    """The loss as it stands above, term by term."""
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
# The paper starts from a BERT that has read a great deal. Ours has read nothing, and a random BERT says nearly the same of
# every text. So it gets a head start: from the embedding of one text of a recording, a linear layer must tell the words of
# all of its texts. No sound is involved.

# %%
def alikeness(model):
    """Mean cosine between the embeddings of 200 texts: 1 when all are the same, 0 when they point everywhere."""
    vectors = model.embed_text(corpus[::len(corpus) // 200])
    return (vectors @ vectors.T).mean().item()


alike = alikeness(model)
texts_of_each = [[text for texts in r.text.values() for text in texts] for r in train]
warm_up_text(model.train(), texts_of_each, config, torch.device("cpu"))
print(f"mean cosine between two texts: {alike:.2f} before, {alikeness(model):.2f} after")
assert FAST or alikeness(model) < alike - 0.1      # four steps are too few

# %% [markdown]
# `train.py` holds the real loop, with mixed precision, checkpoints and validation. Its heart is this, while a second process
# reads the next batches and makes their spectrograms. We run it twice: once on the pairs as they are, and once as a
# **control** where every recording has got the texts of another, for good. The control sees the same sounds and the same
# sentences. If it did as well, our figures would not be about music.

# %%
def fit(start, recordings):
    """Trains a copy of the model `start`; -> (model in eval mode, loss of each step)."""
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
# The logits $x_i \cdot t_j / \tau$ of one training batch: row $i$ is a recording, column $j$ a text, and the pairs lie on the
# diagonal. What all of a row or a column have in common is taken away, as it tells no pair from another. Before training
# nothing is left, which is why the loss was at chance. After two minutes of training the diagonal is faint still; the pairs
# of many batches, to the right, show it best: texts lie closer to their own recording, but not every text can, as a fifth of
# the comments is not about the music at all.

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
    picture = axis.imshow(logits, cmap="RdBu_r", vmin=-4, vmax=4)
    axis.set(title=title, xlabel="text", ylabel="recording")
figure.colorbar(picture, ax=axes[:2], shrink=0.8, label="logit, rows and columns centred")
for values, name in ((positive, "own text"), (negative, "another's text")):
    axes[2].hist(values, bins=np.linspace(-6, 10, 65), density=True, alpha=0.6, label=name)
axes[2].set(title=f"after training, {len(after)} batches", xlabel="logit", ylabel="density")
axes[2].legend()
plt.show()
print(f"own text {positive.mean():+.2f}, another's {negative.mean():+.2f}; before {before[own].mean():+.2f}, {before[~own].mean():+.2f}")
assert abs(before).max() < 1 and positive.mean() > before[own].mean() + (0.1 if FAST else 0.5)

# %% [markdown]
# ## 6. Zero-shot tagging
#
# No tag was ever shown to the model, but a tag is a text, and texts can be compared with recordings. For each label, order
# the test recordings by their cosine to it; the ROC-AUC is the chance that a recording with the label stands before one
# without, so guessing gives 0.5. These recordings are new, and so are their combinations of genre and lead.

# %%
truth = truth_table(test, labels)                                                      # (recordings, labels) bool
sounds = {name: m.embed_audio([r.audio for r in test]).numpy() for name, m in (("MuLan", model), ("control", control))}
scores = {name: sounds[name] @ m.embed_text(labels).numpy().T for name, m in (("MuLan", model), ("control", control))}
auc = {name: roc_auc(table, truth) for name, table in scores.items()}                  # (labels,), NaN without positives
print(f"{'ROC-AUC':12}{'MuLan':>8}{'control':>9}{'chance':>8}")
for family, members in [*FAMILIES.items(), ("all", labels)]:
    columns = [labels.index(label) for label in members]
    print(f"{family:12}{np.nanmean(auc['MuLan'][columns]):8.3f}{np.nanmean(auc['control'][columns]):9.3f}{0.5:8.3f}")
mean = {name: np.nanmean(values) for name, values in auc.items()}
if not FAST:      # sixty steps are too few for more than the loss
    assert mean["MuLan"] > 0.53 and mean["MuLan"] > mean["control"] + 0.02
    assert abs(mean["control"] - 0.5) < 0.1
    production = [labels.index(label) for label in FAMILIES["production"]]      # what is heard first
    assert auc["MuLan"][production].mean() > 0.65

# %% [markdown]
# What the model says about a single recording, beside what is true of it. A label that is close to everything would win
# everywhere, so each label's mean over the test recordings is taken away first. After two minutes a recording's sound
# and feel are often right and its genre often wrong; the table says how often.

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
# The same space, asked the other way round: which recordings are closest to a sentence? Beside the four closest stands how
# many of the first ten have what was asked for, and how many ten drawn blindly would have.

# %%
for sentence, label in (("an old, scratchy lo-fi tape", "lo-fi"), ("a sparse arrangement with lots of space", "sparse"),
                        ("a melody on the flute", "flute")):
    closeness = sounds["MuLan"] @ model.embed_text([sentence]).numpy()[0]
    order, right = np.argsort(-closeness), truth[:, labels.index(label)]
    print(f'"{sentence}": {right[order[:10]].sum()} of the first 10 are {label}, chance {10 * right.mean():.1f}')
    for i in order[:4]:
        print(f"   {closeness[i]:.2f}  {test[i].id}  {true_of(test[i])}")

# %% [markdown]
# ## 8. What the full size does
#
# That was a small world, light towers and a short training. `python train.py --audio resnet50` does the same with 4400
# recordings and all of `train.py`, and `python eval.py --task all` judges it by the paper's four tasks.

# %%
seconds = time.perf_counter() - began
print(f"this chapter took {seconds:.0f} s on {torch.get_num_threads()} threads")

# %% [markdown]
# ## Exercises
#
# 1. What is the chance loss of the paper's batch of 6144 pairs? And of two pairs? Why is one pair refused?
# 2. The loss of perfect pairs at $\tau = 0.1$ was printed in section 4. Derive it: all cosines are 1 on the diagonal, 0 elsewhere.
# 3. Put the positive pair into the denominator. What is then the loss at chance, and its lower bound? Does $\tau$ need a floor?
# 4. The control's loss fell as well, though less, or later. How can it fall at all, and why does its ROC-AUC stay at chance?
# 5. Train with `ratio="sf=1"`, then with `ratio="lf=1"`. Which families of labels suffer, and why?
# 6. Take away the mean-subtraction in the picture of section 6. Which labels win then? Why does ROC-AUC not care?
#
# <details><summary>Solutions</summary>
#
# 1. $\ln(2 \cdot 6143) \approx 9.42$, and $\ln 2 \approx 0.69$. One pair has no negatives: the denominator is an empty sum.
# 2. $-\log\frac{e^{10}}{2 \cdot 47 \cdot e^0} = \ln 94 - 10 \approx -5.46$.
# 3. $\ln(2B - 1)$ at chance. The fraction is then below 1, so the loss stays above 0, which it approaches as the positive wins;
#    $\tau$ would shrink ever more slowly, and needs no floor to keep the loss finite.
# 4. The shuffled pairs are always the same ones, so they can be learned by heart, recording by recording. What is learned by
#    heart says nothing about new recordings.
# 5. Change `resolve({..., "ratio": "lf=1"})` in section 2 and run the chapter again. Titles and tags name one or two things
#    plainly; comments say more, but a fifth of them is about something else. Judge by the table of section 6.
# 6. Labels whose vector is close to the middle of all recordings. ROC-AUC compares recordings under one label, so whatever
#    is added to all scores of a label cancels.
#
# </details>
