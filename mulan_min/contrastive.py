"""MuLan's training objective: pairs of a recording and a text, compared within the batch (paper, section 3).

train.py trains with any module that has these functions: prepare, build, load, warm_up, stage_1_steps, make_targets, chances,
backward, after_step, validate; and these constants: LEAVES_UNUSED, LOG_LINE, VALID_LINE. The other two such modules are
tag_classifier.py and companion/joint_tagger.py.
"""
from functools import partial
from itertools import chain

import torch

from mulan_min import distributed
from mulan_min.command_line import print0
from mulan_min.config import parse_ratio
from mulan_min.data import audio_of
from mulan_min.device import autocast
from mulan_min.gradcache import chunked_backward
from mulan_min.loss import chance_loss, clamp_temperature, cmc_loss, recall_at_1
from mulan_min.mulan import MuLan
from mulan_min.text_warmup import warm_up_text
from mulan_min.validation import middle_windows
from mulan_min.wordpiece import encode, load_wordpiece, train_wordpiece

LEAVES_UNUSED = False      # every step gives a gradient to every parameter
LOG_LINE = ("step {step:5d}  loss {loss:.3f} (chance {chance:.3f})  R@1 {r1:.3f} (chance {r1_chance:.3f})  tau {temperature:.3f}  "
            "grad {grad_norm:.2f}  {clips_per_s:.0f} clips/s  data wait {wait:.1%}")
VALID_LINE = "step {step:5d}  validation: own text before another's, AUC {valid_auc:.3f} (chance 0.500)"


def prepare(recordings):
    """Prepares the recordings for this objective, which needs no change."""
    return recordings


def texts_of(recordings, config):
    """One list per recording: its texts of all sources in use."""
    return [[text for source in parse_ratio(config.data.ratio) for text in r.text.get(source, [])] for r in recordings]


def build(config, recordings, valid):
    """An untrained MuLan. Its tokenizer comes from --text-init or --vocab, or is trained on all texts. Raises UserError."""
    vocab = config.text.text_init or config.text.vocab
    texts = chain.from_iterable(texts_of(recordings, config))
    return MuLan(config, load_wordpiece(vocab) if vocab else train_wordpiece(texts, config.text.vocab_size))


def load(state, path, recordings, valid):
    """The MuLan of a checkpoint's state. Raises UserError, which names `path`."""
    return MuLan.from_state(state, path)


def warm_up(model, recordings, device):
    """Trains the text tower for a first time (text_warmup.py), unless it starts from a pretrained BERT."""
    if model.config.text.text_warmup:
        warm_up_text(model, [texts for texts in texts_of(recordings, model.config) if texts], model.config, device, print0)


def stage_1_steps(config):
    """The number of steps of a first stage with its own learning-rate schedule: 0, because MuLan has one stage."""
    return 0


def make_targets(model):
    """Returns the function that makes a batch's tokens, see `data.collate`."""
    return partial(encode_texts, model.tokenizer, model.config.text.max_tokens)


def encode_texts(tokenizer, max_tokens, recordings, texts):
    tokens, mask = encode(tokenizer, texts, max_tokens)
    return {"tokens": tokens, "mask": mask}


def chances(model):
    """(loss, R@1) of a model that has learned nothing."""
    return chance_loss(model.config.optim.batch_size), 1 / model.config.optim.batch_size


def backward(net, batch, step, model, world):
    """Adds the gradients of one batch to each .grad. Returns (loss, R@1, chance loss) over all processes, as tensors or numbers.

    net: the model or its DistributedDataParallel, which averages the gradients of the processes. But the loss is the sum of the
    parts that the processes compute, so each part is multiplied by `world`.
    """
    optim, recalls = model.config.optim, []
    keys = distributed.gather_rows(batch["keys"], optim.batch_size)
    inputs = {"audio": audio_of(batch), "tokens": batch["tokens"], "mask": batch["mask"]}

    def embed(part):
        with autocast(part["audio"].device, optim.precision):
            return net(part["audio"], part["tokens"], part["mask"])

    def loss_of(audio, text, temperature):
        gathered = distributed.gather_embeddings(audio, text, optim.batch_size)
        recalls.append(recall_at_1(audio, text, gathered))
        return world * cmc_loss(audio, text, temperature, gathered, keys)

    if (count := distributed.chunk_count(optim)) > 1:
        loss = chunked_backward(net, inputs, count, embed, loss_of)
    else:
        loss = loss_of(*embed(inputs), model.temperature)
        loss.backward()
    loss, recall = map(distributed.all_reduce_sum, (loss / world, recalls[0]))
    return loss, recall, chance_loss(optim.batch_size)


def after_step(model):
    """Clamps the temperature after an optimiser step. Returns {name: value} to log."""
    clamp_temperature(model.temperature, model.config.space.temperature_floor)
    return {"temperature": model.temperature.item()}


def validate(model, recordings, step):
    """{"valid_auc": how often a text is closer to its own validation recording than to another one}. Chance is 0.5. It needs no
    labels, so it can select the best checkpoint on any collection."""
    audio = model.embed_audio(middle_windows(recordings, model.config))
    pairs = [(i, texts[0]) for i, r in enumerate(recordings) for texts in r.text.values()]
    owner = torch.tensor([i for i, _ in pairs])
    scores = model.embed_text([text for _, text in pairs]) @ audio.T                # (texts, recordings)
    own = scores.gather(1, owner[:, None])
    wins = (scores < own).sum(1) + 0.5 * ((scores == own).sum(1) - 1)               # a tie counts half, but not with itself
    return {"valid_auc": (wins / (len(recordings) - 1)).mean().item()}
