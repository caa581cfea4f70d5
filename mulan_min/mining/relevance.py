"""The learned filter: a BERT that decides whether a sentence describes music.

The paper fine-tunes a BERT on 700 labelled sentences and keeps only the LF text that it accepts. It found models that were
trained without this filter about as good. This project's own sentences are 700 for training (relevance_train.tsv) and 200
for testing (relevance_test.tsv), which were written separately.
"""
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from mulan_min.bert import Bert
from mulan_min.device import default_device
from mulan_min.errors import UserError
from mulan_min.weights.bert import load_bert
from mulan_min.wordpiece import encode, train_wordpiece

TRAIN, TEST = (Path(__file__).with_name(f"relevance_{part}.tsv") for part in ("train", "test"))
VOCABULARY = 2000       # word pieces of a filter trained from scratch; our choice
MAX_TOKENS = 64         # longer sentences are cut; our choice


class RelevanceFilter(nn.Module):
    """BERT with one linear layer on [CLS]: token ids (B, L) and mask (B, L) -> logits (B,) of "describes music" (paper)."""

    def __init__(self, bert, dropout):
        super().__init__()
        self.bert, self.dropout = bert, nn.Dropout(dropout)
        self.head = nn.Linear(bert.words.embedding_dim, 1)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids, mask):
        return self.head(self.dropout(self.bert(ids, mask)[:, 0]))[:, 0]


def read_pairs(path):
    """A file of lines `label<TAB>sentence` -> [(label, sentence)], label 1 (describes music) or 0. Raises UserError, which
    names the file and the line, when the file cannot be read, a line has another form, or a label does not occur."""
    pairs = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); each line must be a label, a tab and a sentence in UTF-8") from error
    for number, line in enumerate(lines, 1):
        label, _, sentence = line.partition("\t")
        if label not in ("0", "1") or not sentence.strip():
            raise UserError(f"{path}, line {number}: must be 0 or 1, a tab and a sentence")
        pairs.append((int(label), sentence))
    if len({label for label, _ in pairs}) < 2:
        raise UserError(f"{path}: needs sentences of both labels, 1 (describes music) and 0")
    return pairs


def train_filter(pairs, seed, text_init=None, texts=(), epochs=None, lr=None, log=print):
    """pairs [(label, sentence)] -> (RelevanceFilter in eval mode, tokenizer). The same seed gives the same filter.

    `text_init` is the folder of a public BERT to start from (paper). Without it a small BERT starts from random weights, and
    a WordPiece tokenizer is trained on the sentences and on `texts`, which need no labels (our choice). Epochs and learning
    rates were chosen by cross-validation on the 700 sentences. Raises UserError when `text_init` cannot be loaded.
    """
    with torch.random.fork_rng():       # the caller's random state stays as it is
        torch.manual_seed(seed)
        if text_init is None:
            tokenizer = train_wordpiece([sentence for _, sentence in pairs] + list(texts), VOCABULARY)
            bert = Bert(tokenizer.get_vocab_size(), 128, 2, 2, 512, MAX_TOKENS, dropout=0.3)
            epochs, lr, dropout = epochs or 15, lr or 1e-3, 0.3
        else:
            bert, tokenizer, report = load_bert(text_init, MAX_TOKENS, dropout=0.1)
            log("\n".join(report))
            epochs, lr, dropout = epochs or 3, lr or 1e-4, 0.1
        model = RelevanceFilter(bert, dropout).to(default_device()).train()
        fine_tune(model, tokenizer, pairs, seed, epochs, lr)
    return model.eval(), tokenizer


def fine_tune(model, tokenizer, pairs, seed, epochs, lr, batch_size=32):
    """Trains the model in place with binary cross entropy. Each epoch visits the pairs in a new order."""
    device, batches = model.head.weight.device, -(-len(pairs) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * batches, pct_start=0.1)
    for epoch in tqdm(range(epochs), desc="training the filter", unit="epoch", disable=None):
        order = np.random.default_rng((seed, epoch)).permutation(len(pairs))
        for rows in np.array_split(order, batches):
            labels = torch.tensor([float(pairs[i][0]) for i in rows], device=device)
            ids, mask = encode(tokenizer, [pairs[i][1] for i in rows], model.bert.positions.num_embeddings)
            loss = F.binary_cross_entropy_with_logits(model(ids.to(device), mask.to(device)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()


@torch.inference_mode()
def judge(relevance, texts, batch_size=64):
    """(model, tokenizer) and N texts -> probabilities (N,) float64 that each text describes music. The other texts of the
    batch do not change a text's probability."""
    model, tokenizer = relevance
    device, probabilities = model.head.weight.device, np.zeros(len(texts))
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))       # texts of similar length together: little padding
    for start in tqdm(range(0, len(texts), batch_size), desc="judging", unit="batch", disable=None):
        rows = order[start:start + batch_size]
        ids, mask = encode(tokenizer, [texts[i] for i in rows], model.bert.positions.num_embeddings)
        probabilities[rows] = model(ids.to(device), mask.to(device)).double().sigmoid().cpu().numpy()
    return probabilities
