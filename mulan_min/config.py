"""All settings of mulan_min. There is one dataclass per topic; each line holds a setting's values, its bounds and their source.

`setting(paper, laptop, smoke, help)` lists the value in each preset; a dictionary holds one value per audio tower. The help text
says `paper` where arXiv 2208.12415 gives the value, `AST` or `BERT` where the papers of these models do, `companion` for the paper
on joint embeddings for auto-tagging, and `our choice` where the sources say nothing. The command line is made from these fields:
`n_mels` becomes `--n-mels`. Numbers must be 0 or more unless the line says otherwise; all bounds are our choice.
"""
from dataclasses import asdict, dataclass, field, fields

from mulan_min.errors import UserError

PRESETS = ("paper", "laptop", "smoke")
TOWERS = ("ast", "resnet50")
WAVE_EXTRACTORS = ("sample-cnn", "sample-cnn-se", "sample-cnn-res", "sample-cnn-res-se", "sincnet")
EXTRACTORS = ("harmonic-cnn", *WAVE_EXTRACTORS)      # of the companion paper, for --objective joint-tags
DIALECTS = ("slaney", "kaldi")
UNBOUNDED = 1e15              # the upper bound of settings that state none; larger numbers come from damaged files
MAX_ELEMENTS = 2**24          # samples in a window, and numbers in a filterbank; more would fill the memory


def setting(paper, laptop=None, smoke=None, help="", low=0, high=UNBOUNDED, choices=None):
    """A field with one value per preset; laptop defaults to the paper's value, smoke to the laptop's. Numbers must be within
    low..high. Texts must be one of `choices`, if given."""
    laptop = paper if laptop is None else laptop
    smoke = laptop if smoke is None else smoke
    return field(default=None, metadata={"paper": paper, "laptop": laptop, "smoke": smoke, "help": help, "low": low, "high": high,
                                         "choices": choices})


@dataclass
class FrontEndSettings:
    sample_rate: int = setting(16000, low=4000, high=400_000, help="Hz; paper")
    seconds: float = setting({"resnet50": 10.0, "harmonic-cnn": 5.0} | dict.fromkeys(WAVE_EXTRACTORS, 3 ** 10 / 16000),
                             low=0.1, high=3600, help="length of a training window; paper")
    n_mels: int = setting({"ast": 128, "resnet50": 64}, low=1, high=1024, help="number of mel bands; paper")
    window: float = setting(0.025, laptop=0.050, help="length of a spectrogram frame in seconds; paper 25 ms")
    hop: float = setting(0.010, laptop=0.050, help="seconds from one frame to the next; paper 10 ms")
    dialect: str = setting({"ast": "kaldi", "resnet50": "slaney"}, laptop="slaney", choices=DIALECTS,
                           help="kind of log-mel spectrogram; published AST weights need kaldi; our choice")
    mel_mean: float = setting({"ast": -4.2677393, "resnet50": -0.75}, laptop={"ast": -0.5, "resnet50": 0.6}, low=-UNBOUNDED,
                              help="mean of the log-mel spectrogram; AST's on AudioSet, others measured on the demo world")
    mel_std: float = setting({"ast": 4.5689974, "resnet50": 3.5}, laptop=3.5, low=1e-6,
                             help="standard deviation of the log-mel; AST's on AudioSet, others measured on the demo world")
    freq_mask: int = setting({"ast": 48, "resnet50": 16}, laptop={"ast": 24, "resnet50": 8}, smoke=8,
                             help="largest SpecAugment mask in mel bands; AST, for ResNet-50 our choice")
    time_mask: int = setting(192, laptop=30, help="largest SpecAugment mask in frames; AST, for ResNet-50 our choice")


@dataclass
class AudioSettings:
    audio: str = setting("ast", choices=TOWERS + EXTRACTORS, help="paper: ast, resnet50; others need --objective joint-tags")
    resnet_width: int = setting(64, laptop=16, smoke=4, low=1, help="channels of the first convolution; paper 64 (ResNet-50)")
    ast_width: int = setting(768, laptop=192, smoke=32, low=1, help="paper 768; smaller ones are our choice")
    ast_depth: int = setting(12, laptop=4, smoke=1, low=1, high=200, help="number of blocks; paper 12; fewer are our choice")
    ast_heads: int = setting(12, laptop=3, smoke=2, low=1, help="attention heads; paper 12; fewer are our choice")
    patch_mels: int = setting(16, laptop=128, help="patch height in mel bands; paper 16")
    patch_frames: int = setting(16, laptop=2, help="patch length in frames; paper 16")
    stride_mels: int = setting(10, laptop=128, help="mel bands from one patch to the next; AST 10; laptop: no overlap")
    stride_frames: int = setting(10, laptop=2, help="frames from one patch to the next; AST 10; laptop: a patch per 100 ms")
    audio_dropout: float = setting(0.0, high=0.99, help="dropout in the AST; our choice")
    ast_distilled: bool = setting(False, help="add the distillation token of AST's published weights; paper: only [CLS]")
    audio_init: str = setting("", help="FILE to start from: AST or ResNet-50 weights, or a run's best.pt; paper: AudioSet's")


@dataclass
class TextSettings:
    text_width: int = setting(768, laptop=128, smoke=32, low=1, help="paper 768 (BERT base); smaller ones are our choice")
    text_depth: int = setting(12, laptop=3, smoke=1, low=1, high=200, help="number of blocks; paper 12; fewer are our choice")
    text_heads: int = setting(12, laptop=2, smoke=2, low=1, help="attention heads; paper 12; fewer are our choice")
    text_mlp: int = setting(0, help="width of the MLP in a block; 0 means 4 x text_width, as in BERT")
    text_eps: float = setting(1e-12, high=1, help="epsilon of LayerNorm; BERT")
    text_init: str = setting("", help="DIR of a BERT to start from, with its sizes and tokenizer; no text warm-up then; paper")
    vocab: str = setting("", help="vocab.txt or tokenizer.json; default: trained on the training texts; our choice")
    vocab_size: int = setting(30522, laptop=2000, smoke=500, low=1, help="entries of a WordPiece trained here; BERT base 30522")
    max_tokens: int = setting(512, laptop=64, low=3, help="longer texts are cut; paper 512")
    text_dropout: float = setting(0.1, laptop=0.0, high=0.99, help="BERT 0.1; five minutes of training do not need it")
    text_warmup: int = setting(0, laptop=600, smoke=4, help="steps of word prediction before training; our choice")
    text_warmup_lr: float = setting(1e-3, help="learning rate of the text warm-up; our choice")


@dataclass
class SpaceSettings:
    dim: int = setting(128, low=1, help="size of the shared embedding space; paper")
    temperature: float = setting(0.1, laptop=0.12, help="initial temperature tau; our choice")
    temperature_floor: float = setting(0.02, laptop=0.07, help="tau stays in [floor, 1]; paper (0, 1], the floor is our choice")


@dataclass
class TaggerSettings:
    """Settings of --objective joint-tags; `companion` is the paper on auto-tagging with joint embeddings, or its code."""
    joint: bool = setting(True, help="--no-joint trains extractor and classifier without joint embedding; companion: both ways")
    joint_share: float = setting(1 / 3, high=1, help="share of the steps in stage 1; companion: 100 of 300 epochs")
    detach_tags: bool = setting(False, help="the pair loss does not train the tag embeddings; companion: it does")
    finetune_extractor: bool = setting(False, help="train the extractor in stage 2 too; companion: only the classifier")
    extractor_width: int = setting(128, laptop=16, smoke=4, low=1, help="channels of the first blocks; companion 128")
    sinc_filters: int = setting(256, laptop=32, smoke=8, low=1, help="number of SincNet filters; companion 256")
    sinc_length: int = setting(2501, laptop=251, smoke=51, low=1, help="length of a SincNet filter in samples; companion 2501")
    tag_width: int = setting(128, smoke=16, low=1, help="size of the space of audio and tag embeddings; companion 128")
    classifier_width: int = setting(256, smoke=32, low=1, help="hidden units of the classifier; companion 256")
    tag_dropout: float = setting(0.5, laptop=0.2, high=0.99, help="dropout before the last layer; companion 0.5")
    test_windows: int = setting(16, laptop=4, smoke=2, low=1, help="evenly spaced windows per recording in eval.py; companion 16")
    label_set: str = setting("", help="name of a set in labels.json, e.g. top50: train on its labels only; our choice")


@dataclass
class DataSettings:
    data: list = setting([], help="folder with a manifest, may be repeated; default: the demo world, made in data/; our choice")
    shards: list = setting([], help="folder made by mulan_min.shards pack, read as a stream instead of --data; our choice")
    ratio: str = setting("sf=2,lf=2,pl=1,aset=1", help="share of each text source in every batch; paper. With --objective tags: "
                         "where the labels come from, default tags=1 (the ground truth), or e.g. aset=1")
    demo_recordings: int = setting(4400, smoke=72, help="number of recordings in the demo world; our choice")
    workers: int = setting(8, laptop=1, help="processes that read audio; our choice")
    reader_cores: int = setting(0, laptop={"ast": 0, "resnet50": 1}, help="cores left to the workers on a CPU; our choice")
    label_recordings: int = setting(10, smoke=2, low=1, help="--objective tags ignores rarer labels; our choice")
    shuffle_pairs: bool = setting(False, help="control experiment: each recording gets the text of another one; our choice")


@dataclass
class OptimSettings:
    objective: str = setting("contrastive", choices=("contrastive", "tags", "joint-tags"),
                             help="contrastive (paper); tags: binary cross entropy per label (paper); joint-tags (companion)")
    batch_size: int = setting({"ast": 5120, "resnet50": 6144} | dict.fromkeys(EXTRACTORS, 16), low=2, help="clips per step; paper",
                              laptop={"resnet50": 96} | dict.fromkeys(EXTRACTORS, 32), smoke=12)
    steps: int = setting({"resnet50": 100_000} | dict.fromkeys(EXTRACTORS, 286_000),      # 300 epochs of 15,250 clips (companion)
                         laptop={"ast": 560, "resnet50": 850, "harmonic-cnn": 100, "sample-cnn": 250, "sample-cnn-se": 250,
                                 "sample-cnn-res": 150, "sample-cnn-res-se": 120, "sincnet": 80},
                         smoke=12, low=1, help="number of training steps; our choice")
    lr: float = setting(1e-4, laptop={"ast": 2e-3, "resnet50": 5e-3} | dict.fromkeys(EXTRACTORS, 3e-3),
                        help="peak learning rate of the audio tower; our choice")
    text_lr: float = setting(1e-4, laptop=2.5e-4, help="peak learning rate of the text tower; our choice")
    warmup: float = setting(0.05, laptop=0.1, high=1, help="share of the steps in which the learning rate rises; our choice")
    weight_decay: float = setting(0.01, laptop=0.05, help="applied to matrices, kernels, tables, not norms, biases; our choice")
    chunk_size: int = setting(0, help="clips per chunk, for a batch too large for memory (gradcache.py); 0: no chunks; our choice")
    sync_batch_norm: bool = setting(True, help="ResNet-50's batch statistics come from all processes; our choice")
    clip_norm: float = setting(1.0, low=1e-9, help="largest gradient norm; our choice")
    precision: str = setting("auto", choices=("auto", "bf16", "fp32"), help="auto: bf16 where the device has units for it; our choice")
    compile: bool = setting(False, help="torch.compile on both towers; needs a compiler, e.g. g++; our choice")
    seed: int = setting(0, help="random seed of weights, batches and masks; our choice")
    log_every: int = setting(50, laptop=20, smoke=4, low=1, help="steps between lines in the log; our choice")
    valid_every: int = setting(1000, laptop={"resnet50": 430} | dict.fromkeys(EXTRACTORS, 40), smoke=6, low=1,
                               help="steps between validations; each saves a checkpoint too; our choice")


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
        return asdict(self)


def all_settings():
    """[(section, field)] for every setting, e.g. ("front", the field of n_mels), in the order above."""
    return [(section.name, f) for section in fields(Config) for f in fields(section.type)]


def preset(name, audio="ast"):
    """The Config of a preset for one audio tower. A dictionary of values without this tower gives the value of resnet50."""
    config = Config()
    for section, f in all_settings():
        value = f.metadata[name]
        value = value.get(audio, value["resnet50"]) if isinstance(value, dict) else value
        setattr(getattr(config, section), f.name, list(value) if isinstance(value, list) else value)
    config.tower.audio = audio
    return config


def config_from_dict(saved, source):
    """The inverse of `to_dict`: {section: {setting: value}} -> Config. `source` is the file that `saved` comes from. Raises
    UserError, which begins with `source`, for unknown or missing settings, values of the wrong type, and as `check` does."""
    config, saved = Config(), saved if isinstance(saved, dict) else {}
    expected = config.to_dict()
    for section in sorted(expected.keys() | saved.keys(), key=str):
        values = saved.get(section)
        if different := expected.get(section, {}).keys() ^ (values.keys() if isinstance(values, dict) else set()):
            raise UserError(f"{source}: config section '{section}' differs from this version in "
                            f"{', '.join(sorted(map(str, different)))}; use the version of mulan_min that wrote it")
    for section, f in all_settings():
        value = saved[section][f.name]
        if type(value) is not f.type and not (f.type is float and type(value) is int):
            raise UserError(f"{source}: config value {f.name} is a {type(value).__name__}, not a {f.type.__name__}")
        setattr(getattr(config, section), f.name, value)
    check(config, f"{source}: ")
    return config


def resolve(typed):
    """{setting: value} as typed by the user -> Config. They replace the preset's values. Raises UserError as `check` does."""
    config = preset(typed.get("preset", "laptop"), typed.get("audio", "ast"))
    for section, f in all_settings():
        if f.name in typed:
            setattr(getattr(config, section), f.name, typed[f.name])
    if config.optim.objective != "contrastive" and "ratio" not in typed:
        config.data.ratio = "tags=1"
    check(config)
    return config


def check(config, source=""):
    """Raises UserError, which begins with `source`, for values out of bounds, values that contradict each other, and values that
    would fill the memory."""
    for section, f in all_settings():
        value, flag = getattr(getattr(config, section), f.name), f"{source}--{f.name.replace('_', '-')}"
        low, high, choices = (f.metadata[key] for key in ("low", "high", "choices"))
        if f.type in (int, float) and not low <= value <= high:      # also refuses NaN
            raise UserError(f"{flag} {value:g} must be {low:g} or more" + (f" and {high:g} or less" if high < UNBOUNDED else ""))
        if choices and value not in choices:
            raise UserError(f"{flag} {value} is not one of {', '.join(choices)}")
    front, tower, space, tagger, data, optim = config.front, config.tower, config.space, config.tagger, config.data, config.optim
    if not 0 < front.hop <= front.window:
        raise UserError(f"{source}--hop {front.hop:g} must be above 0 and at most --window {front.window:g}, or audio is skipped")
    frame = front.window * front.sample_rate      # samples
    if front.seconds * front.sample_rate > MAX_ELEMENTS or not 1 <= frame <= MAX_ELEMENTS / front.n_mels:
        raise UserError(f"{source}--seconds, --window, --n-mels and --sample-rate do not go together: too many samples, or none")
    if tower.audio in EXTRACTORS and optim.objective != "joint-tags":
        raise UserError(f"{source}--audio {tower.audio} needs --objective joint-tags; MuLan has {' and '.join(TOWERS)}")
    if tower.audio in EXTRACTORS and tower.audio_init:
        raise UserError(f"{source}--audio-init does not go with --audio {tower.audio}: no weights exist, leave it out")
    if config.text.text_init and optim.objective != "contrastive":
        raise UserError(f"{source}--text-init does not go with --objective {optim.objective}: leave it out, no text is used")
    if config.text.text_init and config.text.vocab:
        raise UserError(f"{source}--vocab does not go with --text-init, whose folder has its tokenizer: leave it out")
    if not 0 < tagger.joint_share < 1:
        raise UserError(f"{source}--joint-share must be above 0 and below 1; to train without stage 1 use --no-joint")
    if tagger.sinc_length % 2 == 0:
        raise UserError(f"{source}--sinc-length {tagger.sinc_length} is even: give an odd number, so that one is the middle")
    if data.shards and (data.data or data.shuffle_pairs or optim.objective != "contrastive"):
        raise UserError(f"{source}--shards does not go with --data, --shuffle-pairs or --objective: leave one of them out")
    if not 0 < space.temperature_floor <= space.temperature <= 1:
        raise UserError(f"{source}--temperature and --temperature-floor must satisfy 0 < floor <= temperature <= 1")
    parse_ratio(data.ratio)


def parse_ratio(text):
    """"sf=2,lf=2,pl=1,aset=1" -> {"sf": 2, ...}. Sources with share 0 are left out. Raises UserError."""
    try:
        ratio = {name.strip(): int(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError:
        ratio = {}
    if not ratio or min(ratio.values()) < 0 or not sum(ratio.values()):
        raise UserError(f"--ratio '{text}' is not like sf=2,lf=2,pl=1,aset=1 (whole numbers, not all zero)")
    return {name: share for name, share in ratio.items() if share}
