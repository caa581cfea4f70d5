"""Loads AST and ResNet-50 files, and our own runs, into the audio tower (paper: section 4, pretraining on AudioSet's labels)."""
import torch
import torch.nn.functional as F

from mulan_min.checkpoint import RUN_FILES
from mulan_min.config import config_from_dict
from mulan_min.errors import UserError
from mulan_min.towers import AudioTower
from mulan_min.weights.names import audio_layout, count_blocks
from mulan_min.weights.published import (PUBLISHED_FILES, as_flags, copy_into, find_file, read_config, read_weights, rename_tensors,
                                         summarise)

# Fields of a config.json for which we support only these values. A missing field counts as this value.
RULES = {"ast": {"model_type": "audio-spectrogram-transformer", "hidden_act": "gelu", "qkv_bias": True,
                 "layer_norm_eps": (1e-6, 1e-12)},      # AST was trained with 1e-6; the 1e-12 in transformers makes no difference
         "resnet50": {"model_type": "resnet", "hidden_act": "relu", "layer_type": "bottleneck", "depths": [3, 4, 6, 3],
                      "downsample_in_first_stage": False, "downsample_in_bottleneck": False}}
# The spectrograms that the published ASTs were trained on
AST_FRONT = {"dialect": "kaldi", "n_mels": 128, "window": 0.025, "hop": 0.01, "mel_mean": -4.2677393, "mel_std": 4.5689974}


def init_audio(model, path):
    """Copies AST or ResNet-50 weights, or the audio network of one of our runs, into a model's audio tower -> report. The
    spectrogram's mean and standard deviation and the projection stay as they are. Raises UserError when the file cannot be read,
    or its kind or sizes differ from the model's."""
    front, path = model.config.front, find_file(path, RUN_FILES + PUBLISHED_FILES)
    tensors, saved = read_weights(path)
    saved, layout = saved and config_from_dict(saved, path), audio_layout(tensors)
    if not (saved or layout):
        raise UserError(f"{path}: no AST or ResNet-50 in a layout that we support; it holds {summarise(list(tensors))}")
    audio = saved.tower.audio if saved else "ast" if layout.startswith("AST") else "resnet50"
    if audio != model.config.tower.audio:
        raise UserError(f"{path}: it holds --audio {audio}, and the run is --audio {model.config.tower.audio}; give the same")
    tensors, report, file_config = from_run(tensors, saved, path) if saved else from_publisher(tensors, layout, RULES[audio], path)
    trained = vars(saved.front) if saved else AST_FRONT if audio == "ast" else {}
    if different := {name: value for name, value in trained.items() if getattr(front, name) != value and "mask" not in name}:
        report.append(f"note      it was trained with {as_flags(different)}; this run differs")
    kernel = tensors.get("patch_embedding.weight" if audio == "ast" else "stem.0.weight")
    if kernel is not None and kernel.ndim == 4:     # otherwise `copy_into` reports the problem
        (fit_ast if audio == "ast" else fit_resnet)(model, tensors, kernel, path, report, file_config)
    return [*copy_into(model.audio.net, tensors, path, report), "new       the projection to the shared space"]


def from_run(tensors, saved, path):
    """A run's tensors and Config -> (tensors of its audio network, report, its sizes in the form of an AST's config.json)."""
    network = {name.removeprefix("audio.net."): x for name, x in tensors.items() if name.startswith("audio.net.")}
    report = [f"{path}: the audio network, {len(network)} of {len(tensors)} tensors of a run of ours"]
    if saved.tower.audio != "ast":
        return network, report, {}
    with torch.device("meta"):      # only the sizes are needed, so no memory is used
        mels, frames = AudioTower(saved).net.size
    return network, report, {"num_attention_heads": saved.tower.ast_heads, "num_mel_bins": mels, "max_length": frames,
                             "frequency_stride": saved.tower.stride_mels, "time_stride": saved.tower.stride_frames}


def from_publisher(tensors, layout, rules, path):
    """Published tensors -> (tensors under our names, report, the config.json beside the file or {})."""
    tensors, report = rename_tensors(tensors, layout, path)
    config_path = path.with_name("config.json")
    config = read_config(config_path, {}) if config_path.is_file() else {}
    if config.get("model_type", rules["model_type"]) != rules["model_type"]:
        return tensors, [*report, f"note      {config_path} describes another model and is ignored"], {}
    return tensors, report, config and read_config(config_path, rules)


def require_sizes(tower, path, **sizes):
    """Raises UserError unless the run's audio settings equal `sizes`, which are the sizes of the file."""
    if different := {name: value for name, value in sizes.items() if getattr(tower, name) != value}:
        current = ", ".join(f"{name} {getattr(tower, name)}" for name in different)
        raise UserError(f"{path}: the run has {current}; type {as_flags(different)}, or use --preset paper")


def fit_resnet(model, tensors, kernel, path, report, file_config):
    """Changes `tensors` in place to fit: sums the first kernel over an image's colour channels, and sets batch norm's counters to
    0 if an old file has none. Adds to the report."""
    require_sizes(model.config.tower, path, resnet_width=len(kernel))
    if kernel.shape[1] > 1:
        tensors["stem.0.weight"] = kernel.sum(1, keepdim=True)
        report.append(f"resized   stem.0.weight: {kernel.shape[1]} -> 1 channels, summed")
    if not any("num_batches_tracked" in name for name in tensors):
        tensors |= {name: torch.tensor(0) for name in model.audio.net.state_dict() if "num_batches_tracked" in name}
        report.append("filled in num_batches_tracked: 0; files from before 2018 have none, and it is not used")


def fit_ast(model, tensors, kernel, path, report, file_config):
    """Changes `tensors` in place to fit: cuts or stretches the position table to the run's grid of patches, and keeps or drops
    the distillation token. Adds to the report."""
    tower, net, (width, _, *patch) = model.config.tower, model.audio.net, kernel.shape
    # Every published AST has heads of width 64.
    heads = file_config.get("num_attention_heads", width // 64 if width % 64 == 0 else None)
    require_sizes(tower, path, ast_width=width, ast_depth=count_blocks(tensors), patch_mels=patch[0], patch_frames=patch[1],
                  ast_heads=heads or tower.ast_heads)
    if not heads:
        report.append(f"note      the file does not say how many heads it has; the run has {tower.ast_heads}")
    if any(tensors.get(name, torch.zeros(())).shape[-1:] != (width,) for name in ("prefix", "positions")):
        return      # `copy_into` reports the problem
    prefix, positions, count = tensors["prefix"].reshape(-1, width), tensors["positions"].reshape(-1, width), len(net.prefix)
    if len(prefix) < count:
        raise UserError(f"{path}: it has no distillation token; leave out --ast-distilled")
    if len(prefix) > count:
        report.append("left out  distillation token and its position: MuLan reads only [CLS]; --ast-distilled keeps them")
    grid = published_grid(len(positions) - len(prefix), patch, net.size[1], file_config, path)
    if grid != net.grid:
        changes = [f"{axis} {'cut at the centre' if after < before else 'stretched'}"
                   for axis, before, after in zip(("mels", "frames"), grid, net.grid) if before != after]
        report.append(f"resized   positions: {grid} -> {net.grid} patches along mels and frames, {' and '.join(changes)}")
    positions = torch.cat([positions[:count], resize_positions(positions[len(prefix):], grid, net.grid)])
    tensors |= {"prefix": prefix[:count], "positions": positions}


def published_grid(patches, patch, run_frames, file_config, path):
    """The grid (along mels, along frames) of a file with `patches` patches of size `patch` (mels, frames). file_config gives it. If
    there is none, it is the first common size of a published AST with as many patches; the run's own number of frames is tried
    too. Raises UserError when no size fits."""
    defaults = {"num_mel_bins": 128, "max_length": 1024, "frequency_stride": 10, "time_stride": 10}
    candidates = [(128, frames, stride, stride) for frames in (1024, 512, 128, run_frames) for stride in (10, 12, 14, 16)]
    if "num_mel_bins" in file_config:
        candidates = [[file_config.get(name, value) for name, value in defaults.items()]]
        if not all(isinstance(value, int) and value > 0 for value in candidates[0]):
            raise UserError(f"{path.with_name('config.json')}: {', '.join(defaults)} must be whole numbers above 0")
    for mels, frames, *strides in candidates:
        grid = tuple((n - p) // s + 1 for n, p, s in zip((mels, frames), patch, strides))
        if grid[0] * grid[1] == patches:
            return grid
    raise UserError(f"{path}: {patches} rows of positions are no grid of a published AST; a config.json beside it must give "
                    f"{', '.join(defaults)}")


def resize_positions(table, grid, new_grid):
    """Position table (F T, width) on the grid (F, T) -> the same on `new_grid`. As in AST, an axis that is too long is cut at its
    centre, and one that is too short is stretched bilinearly."""
    table = table.T.reshape(1, -1, *grid)                                               # (1, width, F, T)
    for axis, size in ((2, new_grid[0]), (3, new_grid[1])):
        if size < table.shape[axis]:
            table = table.narrow(axis, table.shape[axis] // 2 - size // 2, size)
    return F.interpolate(table, new_grid, mode="bilinear", align_corners=False).flatten(2)[0].T
