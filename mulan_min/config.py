"""Every setting of mulan_min, one dataclass per concern, with its value in each preset on one line.

`setting(paper, laptop, smoke, help)`: the help says `paper` where arXiv 2208.12415 gives the value, `AST` where the
audio spectrogram transformer paper does, and `our choice` where the sources are silent. A dictionary holds one value
per audio tower. The command line is generated from these fields: `n_mels` becomes `--n-mels`.
"""
import dataclasses
import json
from dataclasses import dataclass, field, fields

from mulan_min.errors import UserError

PRESETS = ("paper", "laptop", "smoke")
TOWERS = ("ast", "resnet50")
WAVE_EXTRACTORS = ("sample-cnn", "sample-cnn-se", "sample-cnn-res", "sample-cnn-res-se", "sincnet")
EXTRACTORS = ("harmonic-cnn", *WAVE_EXTRACTORS)      # of the companion paper, for --objective joint-tags
PRECISIONS = ("auto", "bf16", "fp32")
OBJECTIVES = ("contrastive", "tags", "joint-tags")
# Lowest and highest value of numbers; of the others whole ones are 0 or more, and all within MOST. Our choice: what is outside
# makes no model, or one that fills the memory.
MOST, LARGEST = 1e15, 2**24
LIMITS = {"sample_rate": (4000, 400_000), "seconds": (0.1, 3600), "n_mels": (1, 1024), "mel_std": (1e-6, MOST),
          "text_eps": (0, 1), "max_tokens": (3, MOST), "batch_size": (2, MOST), "warmup": (0, 1), "clip_norm": (1e-9, MOST),
          "joint_share": (0, 1)}
LIMITS |= dict.fromkeys(("ast_depth", "text_depth"), (1, 200))
LIMITS |= dict.fromkeys(("audio_dropout", "text_dropout", "tag_dropout"), (0, 0.99))
LIMITS |= dict.fromkeys(("lr", "text_lr", "text_warmup_lr", "weight_decay"), (0, MOST))
LIMITS |= dict.fromkeys(("resnet_width", "ast_width", "ast_heads", "text_width", "text_heads", "dim", "vocab_size", "steps",
                         "log_every", "valid_every", "label_recordings", "extractor_width", "sinc_filters", "sinc_length",
                         "tag_width", "classifier_width", "test_windows"), (1, MOST))


def setting(paper, laptop=None, smoke=None, help=""):
    """A field with one value per preset; laptop defaults to the paper's value, smoke to the laptop's."""
    laptop = paper if laptop is None else laptop
    smoke = laptop if smoke is None else smoke
    return field(default=None, metadata={"paper": paper, "laptop": laptop, "smoke": smoke, "help": help})


@dataclass
class FrontEndSettings:
    sample_rate: int = setting(16000, help="Hz; paper")
    seconds: float = setting({"resnet50": 10.0, "harmonic-cnn": 5.0} | dict.fromkeys(WAVE_EXTRACTORS, 3 ** 10 / 16000),
                             help="length of a training window; paper")
    n_mels: int = setting({"ast": 128, "resnet50": 64}, help="mel bands; paper")
    window: float = setting(0.025, laptop=0.050, help="s of sound in a frame; paper 25 ms")
    hop: float = setting(0.010, laptop=0.050, help="s between frames; paper 10 ms")
    dialect: str = setting({"ast": "ast", "resnet50": "ours"}, laptop="ours", help="ours | ast; our choice")
    mel_mean: float = setting({"ast": -4.2677393, "resnet50": -0.75}, laptop={"ast": -0.5, "resnet50": 0.6},
                              help="log units; AST | measured on the demo world")
    mel_std: float = setting({"ast": 4.5689974, "resnet50": 3.5}, laptop=3.5,
                             help="log units; AST | measured on the demo world")
    freq_mask: int = setting({"ast": 48, "resnet50": 16}, laptop={"ast": 24, "resnet50": 8}, smoke=8,
                             help="widest SpecAugment band in mels; AST | our choice")
    time_mask: int = setting({"ast": 192, "resnet50": 192}, laptop=30,
                             help="longest SpecAugment gap in frames; AST | our choice")


@dataclass
class AudioSettings:
    audio: str = setting("ast", help="ast | resnet50, paper has both; the other extractors need --objective joint-tags")
    resnet_width: int = setting(64, laptop=16, smoke=4, help="channels of the stem; paper 64 (ResNet-50)")
    ast_width: int = setting(768, laptop=192, smoke=32, help="paper 768; smaller ones our choice")
    ast_depth: int = setting(12, laptop=4, smoke=1, help="blocks; paper 12; fewer our choice")
    ast_heads: int = setting(12, laptop=3, smoke=2, help="paper 12; fewer our choice")
    patch_mels: int = setting(16, laptop=128, help="patch height; paper 16")
    patch_frames: int = setting(16, laptop=2, help="patch length; paper 16")
    stride_mels: int = setting(10, laptop=128, help="AST; the laptop's patches do not overlap: a spectrum each 100 ms")
    stride_frames: int = setting(10, laptop=2, help="AST")
    audio_dropout: float = setting(0.0, help="our choice")
    ast_distilled: bool = setting(False, help="a second prefix token, which AST's weights have; the paper reads [CLS]")
    audio_init: str = setting("", help="FILE to start from: AST or ResNet-50 weights, or a run's best.pt; paper: AudioSet's")


@dataclass
class TextSettings:
    text_width: int = setting(768, laptop=128, smoke=32, help="paper 768 (BERT base); smaller ones our choice")
    text_depth: int = setting(12, laptop=3, smoke=1, help="blocks; paper")
    text_heads: int = setting(12, laptop=2, smoke=2, help="paper 12; fewer our choice")
    text_mlp: int = setting(0, help="width of a block's MLP; 0 is 4 x text_width, as in BERT")
    text_eps: float = setting(1e-12, help="of LayerNorm; BERT")
    text_init: str = setting("", help="DIR of a BERT to start from, sizes and tokenizer too, without text warm-up; paper")
    vocab: str = setting("", help="vocab.txt or tokenizer.json; none: trained on the training texts; our choice")
    vocab_size: int = setting(30522, laptop=2000, smoke=500, help="WordPiece entries when trained here; BERT base has 30522")
    max_tokens: int = setting(512, laptop=64, help="longer texts are cut; paper 512")
    text_dropout: float = setting(0.1, laptop=0.0, help="BERT; five minutes are too short to need it")
    text_warmup: int = setting(0, laptop=600, smoke=4, help="steps of word prediction before training; our choice")
    text_warmup_lr: float = setting(1e-3, help="our choice")


@dataclass
class SpaceSettings:
    dim: int = setting(128, help="size of the shared space; paper")
    temperature: float = setting(0.1, laptop=0.12, help="start of tau; our choice")
    temperature_floor: float = setting(0.02, laptop=0.07, help="tau stays in [floor, 1]; paper (0, 1], the floor is ours")


@dataclass
class TaggerSettings:
    """--objective joint-tags; `companion` is the paper on auto-tagging with joint embeddings, or its code."""
    joint: bool = setting(True, help="--no-joint: extractor and classifier alone; companion has both")
    joint_share: float = setting(1 / 3, help="of the steps are stage 1; companion: 100 of 300 epochs")
    detach_tags: bool = setting(False, help="the pair loss trains the audio side alone, L_AE alone trains the tag embeddings; companion: both sides")
    finetune_extractor: bool = setting(False, help="stage 2 trains the extractor too; companion: the classifier alone")
    extractor_width: int = setting(128, laptop=16, smoke=4, help="channels of the first blocks; companion 128")
    sinc_filters: int = setting(256, laptop=32, smoke=8, help="companion 256")
    sinc_length: int = setting(2501, laptop=251, smoke=51, help="samples; companion 2501")
    tag_width: int = setting(128, smoke=16, help="size of the shared space; companion")
    classifier_width: int = setting(256, smoke=32, help="companion")
    tag_dropout: float = setting(0.5, laptop=0.2, help="before the last layer; companion 0.5")
    test_windows: int = setting(16, laptop=4, smoke=2, help="evenly spaced windows of a recording in eval.py; companion 16")
    label_set: str = setting("", help="a set in labels.json, e.g. top50, whose labels alone are learned; our choice")


@dataclass
class DataSettings:
    data: list = setting([], help="manifest folder, may be repeated; default: the demo world, made in data/; our choice")
    shards: list = setting([], help="folder that mulan_min.shards.stream pack wrote, read as a stream instead of --data; our choice")
    ratio: str = setting("sf=2,lf=2,pl=1,aset=1", help="share of each text source in every batch; paper. "
                        "Of --objective tags the labels, default tags=1, the ground truth; e.g. aset=1")
    demo_recordings: int = setting(4400, smoke=72, help="size of the demo world; our choice")
    workers: int = setting(8, laptop=1, help="processes that read audio; our choice")
    reader_cores: int = setting(0, laptop={"ast": 0, "resnet50": 1}, help="cores that the towers leave to these, on a CPU; our choice")
    label_recordings: int = setting(10, smoke=2, help="--objective tags leaves out labels on fewer; our choice")
    shuffle_pairs: bool = setting(False, help="control: give every recording another one's text; our choice")


@dataclass
class OptimSettings:
    objective: str = setting("contrastive", help="contrastive | tags (a binary cross entropy for each label), paper; joint-tags")
    batch_size: int = setting({"ast": 5120, "resnet50": 6144} | dict.fromkeys(EXTRACTORS, 16),
                              laptop={"resnet50": 96} | dict.fromkeys(EXTRACTORS, 32), smoke=12, help="clips a step; paper")
    steps: int = setting({"resnet50": 100_000} | dict.fromkeys(EXTRACTORS, 286_000),      # 300 epochs of 15,250 clips (companion)
                         laptop={"ast": 560, "resnet50": 850, "harmonic-cnn": 100, "sample-cnn": 250, "sample-cnn-se": 250,
                                 "sample-cnn-res": 150, "sample-cnn-res-se": 120, "sincnet": 80}, smoke=12, help="our choice")
    lr: float = setting(1e-4, laptop={"ast": 2e-3, "resnet50": 5e-3} | dict.fromkeys(EXTRACTORS, 3e-3),
                        help="peak rate of the audio tower; our choice")
    text_lr: float = setting(1e-4, laptop=2.5e-4, help="peak rate of the text tower; our choice")
    warmup: float = setting(0.05, laptop=0.1, help="share of the steps with rising rate; our choice")
    weight_decay: float = setting(0.01, laptop=0.05, help="of matrices, kernels and tables, not of norms and biases; our choice")
    chunk_size: int = setting(0, help="clips at a time, for a batch that does not fit (gradcache.py); 0: all at once; our choice")
    sync_batch_norm: bool = setting(True, help="ResNet-50's statistics over all processes, not each by itself; our choice")
    clip_norm: float = setting(1.0, help="largest gradient norm; our choice")
    precision: str = setting("auto", help="auto | bf16 | fp32; auto measures which is faster; our choice")
    compile: bool = setting(False, help="torch.compile on both towers; needs a compiler, e.g. g++; our choice")
    seed: int = setting(0, help="of weights, batches and masks; our choice")
    log_every: int = setting(50, laptop=20, smoke=4, help="steps; our choice")
    valid_every: int = setting(1000, laptop={"resnet50": 430} | dict.fromkeys(EXTRACTORS, 40), smoke=6,
                               help="steps; a checkpoint is saved then as well; our choice")


@dataclass
class Config:
    front: FrontEndSettings = field(default_factory=FrontEndSettings)
    tower: AudioSettings = field(default_factory=AudioSettings)
    text: TextSettings = field(default_factory=TextSettings)
    space: SpaceSettings = field(default_factory=SpaceSettings)
    tagger: TaggerSettings = field(default_factory=TaggerSettings)
    data: DataSettings = field(default_factory=DataSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)

    def to_dict(self):
        return dataclasses.asdict(self)


def sections():
    """Yields (name in Config, dataclass), in the order above."""
    return [(f.name, f.default_factory) for f in fields(Config)]


def preset(name, audio="ast"):
    """The Config of a preset for one audio tower. Where a setting names it not, it is as for resnet50."""
    config = Config()
    for section, cls in sections():
        for f in fields(cls):
            value = f.metadata[name]
            if isinstance(value, dict):
                value = value.get(audio, value["resnet50"])
            setattr(getattr(config, section), f.name, list(value) if isinstance(value, list) else value)
    config.tower.audio = audio
    return config


def config_from_dict(saved, source):
    """The reverse of `to_dict`. Raises UserError that names `source`, the file they come from, for unknown or missing fields, and
    for values of another kind or that cannot be."""
    config, saved = Config(), saved if isinstance(saved, dict) else {}
    known = {section: {f.name: f.type for f in fields(cls)} for section, cls in sections()}
    for section in sorted(known.keys() | saved.keys(), key=str):
        kinds, values = known.get(section, {}), saved.get(section)
        values = values if isinstance(values, dict) else {}
        if odd := kinds.keys() ^ values.keys():
            raise UserError(f"{source}: config section '{section}' differs from this version in {', '.join(sorted(map(str, odd)))}; "
                            "use the version of mulan_min that wrote it")
        for name, value in values.items():
            if type(value) is not kinds[name] and not (kinds[name] is float and type(value) is int):
                raise UserError(f"{source}: config value {name} is a {type(value).__name__}, not a {kinds[name].__name__}")
            setattr(getattr(config, section), name, value)
    check(config, f"{source}: ")
    return config


def resolve(typed):
    """{flag: value} as typed -> Config: the preset's values, then the user's. Raises UserError on values that cannot be."""
    config = preset(typed.get("preset", "laptop"), typed.get("audio", "ast"))
    for section, cls in sections():
        for f in fields(cls):
            if f.name in typed:
                setattr(getattr(config, section), f.name, typed[f.name])
    if config.optim.objective != "contrastive" and "ratio" not in typed:
        config.data.ratio = "tags=1"
    check(config)
    return config


def check(config, source=""):
    """Raises UserError, which begins with `source`, for values that cannot be, or would fill the memory."""
    for section, cls in sections():
        for f in fields(cls):
            low, high = LIMITS.get(f.name, (0 if f.type is int else -MOST, MOST))
            value = getattr(getattr(config, section), f.name)
            if f.type in (int, float) and not low <= value <= high:
                raise UserError(f"{source}--{f.name.replace('_', '-')} {value:g} must be {low:g} or more"
                                + (f" and {high:g} or less" if high < MOST else ""))
    front, optim, space = config.front, config.optim, config.space
    if not 0 < front.hop <= front.window:
        raise UserError(f"{source}--hop {front.hop:g} must be above 0 and at most --window {front.window:g}, or sound is skipped")
    samples = front.window * front.sample_rate
    if front.seconds * front.sample_rate > LARGEST or not 1 <= samples <= LARGEST / front.n_mels:
        raise UserError(f"{source}--seconds, --window, --n-mels and --sample-rate do not go together: too many samples, or none")
    for name, choices in (("audio", TOWERS + EXTRACTORS), ("precision", PRECISIONS), ("objective", OBJECTIVES)):
        value = getattr(config.tower if name == "audio" else optim, name)
        if value not in choices:
            raise UserError(f"{source}--{name} {value} is not one of {', '.join(choices)}")
    tower, tagger, data = config.tower, config.tagger, config.data
    if tower.audio in EXTRACTORS and optim.objective != "joint-tags":
        raise UserError(f"{source}--audio {tower.audio} needs --objective joint-tags; MuLan has {' and '.join(TOWERS)}")
    if tower.audio in EXTRACTORS and tower.audio_init:
        raise UserError(f"{source}--audio-init does not go with --audio {tower.audio}: leave it out, no weights are known")
    if not 0 < tagger.joint_share < 1:
        raise UserError(f"{source}--joint-share must be above 0 and below 1; without stage 1 it is --no-joint")
    if tagger.sinc_length % 2 == 0:
        raise UserError(f"{source}--sinc-length {tagger.sinc_length} is even: give an odd number of samples, which has a middle")
    if data.shards and (data.data or data.shuffle_pairs or optim.objective != "contrastive"):
        raise UserError(f"{source}--shards goes without --data, --shuffle-pairs and --objective: leave one of them out")
    if not 0 < space.temperature_floor <= space.temperature <= 1:
        raise UserError(f"{source}--temperature and --temperature-floor must satisfy 0 < floor <= temperature <= 1")
    parse_ratio(config.data.ratio)


def parse_ratio(text):
    """"sf=2,lf=2,pl=1,aset=1" -> {"sf": 2, ...}. A source with share 0 is left out. Raises UserError."""
    try:
        ratio = {name.strip(): int(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError:
        ratio = {}
    if not ratio or min(ratio.values()) < 0 or not sum(ratio.values()):
        raise UserError(f"--ratio '{text}' is not like sf=2,lf=2,pl=1,aset=1 (whole numbers, not all zero)")
    return {name: share for name, share in ratio.items() if share}


def to_json(config):
    return json.dumps(config.to_dict(), indent=1)
