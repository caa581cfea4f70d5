"""The weights that a new run starts from: --text-init and --audio-init."""
from mulan_min.config import resolve
from mulan_min.errors import UserError
from mulan_min.weights.audio import init_audio
from mulan_min.weights.bert import bert_sizes, copy_bert
from mulan_min.weights.published import as_flags


def sizes_as_flags(typed):
    """typed: {setting: value} with a text_init, as the user typed it -> {setting: value} of the settings that this BERT folder
    decides. max_tokens is the smaller of the folder's and the run's. The text warm-up is off unless typed, since a published BERT
    does not need it. Raises UserError for a typed size that differs from the folder's, and as `config.check`."""
    text = resolve(typed).text
    sizes = bert_sizes(text.text_init)
    for name, value in sizes.items():
        if name in typed and (typed[name] > value if name == "max_tokens" else typed[name] != value):
            raise UserError(f"{as_flags({name: typed[name]})} does not fit {text.text_init}, which has {value}: leave it out")
    return sizes | {"max_tokens": min(text.max_tokens, sizes["max_tokens"]), "text_warmup": typed.get("text_warmup", 0)}


def init_towers(model):
    """Copies the weights that the model's config names into its towers -> report. Raises UserError when they do not fit."""
    text_init, audio_init, report = model.config.text.text_init, model.config.tower.audio_init, []
    if text_init:      # only MuLan can have a text_init, see `config.check`
        report += [*copy_bert(model.text.net, text_init), "new       the projection to the shared space"]
    return report + (init_audio(model, audio_init) if audio_init else [])
