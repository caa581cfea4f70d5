"""MuLan: the two towers with one embedding space (paper, section 3)."""
import torch
from tokenizers import Tokenizer
from torch import nn

from mulan_min import checkpoint
from mulan_min.config import config_from_dict
from mulan_min.device import default_device
from mulan_min.errors import UserError
from mulan_min.towers import AudioTower, TextTower, evaluating
from mulan_min.wordpiece import encode, finish


def load_best(cls, run, device=None):
    """The trained model of a run folder (its best checkpoint) or of one file, a checkpoint or a .safetensors file written by
    `mulan_min.weights`, in eval mode, on the GPU where there is one. Raises UserError."""
    path = checkpoint.best_of(run)
    return cls.from_state(checkpoint.load(path), path).to(device or default_device()).eval()


class MuLan(nn.Module):
    """The joint embedding of music and text.

    config: a Config; tokenizer: a `tokenizers.Tokenizer`, which sets the size of the text tower's vocabulary. For example:

        model = MuLan.load("runs/ast")
        audio = model.embed_audio(["song.wav"])                  # (1, 128)
        text = model.embed_text(["a slow sad piano waltz"])      # (1, 128)
        cosine = audio @ text.T                                  # (1, 1)
    """

    def __init__(self, config, tokenizer):
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.audio = AudioTower(config)
        self.text = TextTower(config, tokenizer.get_vocab_size())
        self.temperature = nn.Parameter(torch.tensor(config.space.temperature))

    def forward(self, audio, tokens, mask):
        """A batch of pairs -> (audio embeddings (B, d), text embeddings (B, d)), unit rows.

        audio: waveforms (B, samples) or spectrograms (B, mels, frames); tokens (B, L) int64; mask (B, L) bool, best on the CPU.
        """
        return self.audio(audio), self.text(tokens, mask)

    def embed_audio(self, items, batch_size=32):
        """N paths or 1-D arrays at the run's sample rate -> (N, d), unit rows; see `AudioTower.embed`."""
        return self.audio.embed(items, batch_size)

    @torch.no_grad()
    def embed_text(self, texts, batch_size=256):
        """N texts -> (N, d) float32 on the CPU, unit rows. Raises UserError for an empty text."""
        texts = check_texts(texts)
        rows, order = torch.zeros(len(texts), self.config.space.dim), sorted(range(len(texts)), key=lambda i: len(texts[i]))
        with evaluating(self):
            for part in (order[i:i + batch_size] for i in range(0, len(texts), batch_size)):
                tokens, mask = encode(self.tokenizer, [texts[i] for i in part], self.config.text.max_tokens)
                rows[part] = self.text(tokens.to(self.temperature.device), mask).cpu()
        return rows

    def networks(self):
        """What torch.compile compiles: [(module, whether its input shapes change)]."""
        return [(self.audio.net, None), (self.text.net, True)]

    load = classmethod(load_best)

    @classmethod
    def from_state(cls, state, source):
        """The model in a checkpoint's state; error messages name `source`. Raises UserError."""
        def build(config):
            return cls(config, finish(Tokenizer.from_str(state["tokenizer"]), source))

        return restore(state, source, "contrastive", build)


def restore(state, source, objective, build):
    """Makes a model with build(config) and loads the weights in `state`, the state of a checkpoint. Raises UserError, which names
    `source`, when the checkpoint was trained with another objective or its weights do not fit."""
    try:
        config, tensors = config_from_dict(state["config"], source), state["model"]
        if config.optim.objective != objective:
            raise UserError(f"{source}: trained with --objective {config.optim.objective}, not {objective}: load it with the class "
                            "of its objective, as eval.py does")
        # A damaged config may state huge sizes, so the first model allocates no memory: it takes over the file's tensors.
        with torch.device("meta"):
            build(config).load_state_dict(tensors, assign=True)
        stored = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors.values()}
        if sum(x.nbytes for x in tensors.values()) > sum(stored.values()):
            raise ValueError("tensors that claim more numbers than the file holds")
        model = build(config)
        model.load_state_dict(tensors)
    except UserError:
        raise
    except Exception as error:      # `tokenizers` raises bare Exceptions
        reason = " ".join(" ".join(str(error).splitlines()[:2]).split())
        raise UserError(f"{source}: its weights do not fit its config or tokenizer ({reason or type(error).__name__})") from error
    return model


def check_texts(texts):
    """One text or several -> a list. Raises UserError for an empty text, and for anything that is not a text."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError("texts must be non-empty strings, such as ['a slow sad piano waltz']")
    return texts
