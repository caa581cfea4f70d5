"""The names of tensors in published files, and our names for them. This module only translates names.

Each layout has a function that returns {published name: our name}. Where several published tensors have the same name of
ours, they are stacked along the first dimension in the dictionary's order: here queries, keys and values are one matrix.
"""
import re

# Training scripts and wrapper models put these before every name, in any combination.
PREFIXES = ("module.", "_orig_mod.", "0.auto_model.", "model.", "bert.", "audio_spectrogram_transformer.", "resnet.")
# (stage from 0, block in the stage) of the 16 blocks of ResNet-50
RESNET_BLOCKS = [(stage, i) for stage, count in enumerate((3, 4, 6, 3)) for i in range(count)]

# The layers of one transformer block, each with a weight and a bias: {published name: our name}
BERT_BLOCK = {
    "attention.self.query": "attention.qkv", "attention.self.key": "attention.qkv", "attention.self.value": "attention.qkv",
    "attention.output.dense": "attention.out", "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "output.LayerNorm": "norm2"}
AST_ORIGINAL_BLOCK = {
    "norm1": "norm1", "attn.qkv": "attention.qkv", "attn.proj": "attention.out",
    "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
AST_TRANSFORMERS_BLOCK = {
    "layernorm_before": "norm1", "attention.attention.query": "attention.qkv", "attention.attention.key": "attention.qkv",
    "attention.attention.value": "attention.qkv", "attention.output.dense": "attention.out",
    "layernorm_after": "norm2", "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2"}


def transformer_names(tensors, layers, prefix, block, depth):
    """{published name: our name} for a transformer with `depth` blocks.

    tensors: whole names; layers: layers outside the blocks; block: the layers of the block `prefix`.0, `prefix`.1, ...
    """
    names, layers = dict(tensors), dict(layers)
    for i in range(depth):
        for published, ours in block.items():
            layers[f"{prefix}.{i}.{published}"] = f"blocks.{i}.{ours}"
    for published, ours in layers.items():
        for parameter in ("weight", "bias"):
            names[f"{published}.{parameter}"] = f"{ours}.{parameter}"
    return names


def bert_names(depth):
    """BERT, as its publishers and transformers name it."""
    tables = {"embeddings.word_embeddings.weight": "words.weight", "embeddings.position_embeddings.weight": "positions.weight",
              "embeddings.token_type_embeddings.weight": "token_types.weight"}
    return transformer_names(tables, {"embeddings.LayerNorm": "norm"}, "encoder.layer", BERT_BLOCK, depth)


def ast_original_names(depth):
    """AST, as its authors' files name it."""
    tensors = {"v.cls_token": "prefix", "v.dist_token": "prefix", "v.pos_embed": "positions"}
    layers = {"v.patch_embed.proj": "patch_embedding", "v.norm": "norm"}
    return transformer_names(tensors, layers, "v.blocks", AST_ORIGINAL_BLOCK, depth)


def ast_transformers_names(depth):
    """AST, as transformers names it."""
    tensors = {"embeddings.cls_token": "prefix", "embeddings.distillation_token": "prefix",
               "embeddings.position_embeddings": "positions"}
    layers = {"embeddings.patch_embeddings.projection": "patch_embedding", "layernorm": "norm"}
    return transformer_names(tensors, layers, "encoder.layer", AST_TRANSFORMERS_BLOCK, depth)


def resnet_names(units):
    """{(published convolution, published batch norm): our name for the two} -> {published name: our name}."""
    names = {}
    for (convolution, norm), ours in units.items():
        names[f"{convolution}.weight"] = f"{ours}.0.weight"
        for tensor in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            names[f"{norm}.{tensor}"] = f"{ours}.1.{tensor}"
    return names


def resnet_torchvision_names(depth=16):
    """ResNet-50, as torchvision names it. `depth` is not used, since a ResNet-50 always has 16 blocks."""
    units = {("conv1", "bn1"): "stem"}
    for block, (stage, i) in enumerate(RESNET_BLOCKS):
        published = f"layer{stage + 1}.{i}"
        for n, ours in enumerate(("reduce", "spatial", "expand"), 1):
            units[f"{published}.conv{n}", f"{published}.bn{n}"] = f"blocks.{block}.{ours}"
        if i == 0:
            units[f"{published}.downsample.0", f"{published}.downsample.1"] = f"blocks.{block}.shortcut"
    return resnet_names(units)


def resnet_transformers_names(depth=16):
    """ResNet-50, as transformers names it. `depth` is not used, since a ResNet-50 always has 16 blocks."""
    units = {"embedder.embedder": "stem"}
    for block, (stage, i) in enumerate(RESNET_BLOCKS):
        published = f"encoder.stages.{stage}.layers.{i}"
        for n, ours in enumerate(("reduce", "spatial", "expand")):
            units[f"{published}.layer.{n}"] = f"blocks.{block}.{ours}"
        if i == 0:
            units[f"{published}.shortcut"] = f"blocks.{block}.shortcut"
    return resnet_names({(f"{name}.convolution", f"{name}.normalization"): ours for name, ours in units.items()})


LAYOUTS = {"BERT": bert_names, "AST, original": ast_original_names, "AST, transformers": ast_transformers_names,
           "ResNet-50, torchvision": resnet_torchvision_names, "ResNet-50, transformers": resnet_transformers_names}
# A tensor that only this layout has
SIGNS = {"v.pos_embed": "AST, original", "embeddings.position_embeddings": "AST, transformers",
         "conv1.weight": "ResNet-50, torchvision", "embedder.embedder.convolution.weight": "ResNet-50, transformers"}
# Published tensors that we leave out: {beginning of the name: reason}
LEFT_OUT = {
    "cls.": "heads of BERT's own training tasks",
    "pooler.": "MuLan projects the [CLS] state itself",
    "mlp.dense.": "SimCSE's training head",
    "qa_outputs.": "the head of a task that it was fine-tuned for",
    "embeddings.position_ids": "it counts up from 0; nothing is learned",
    "embeddings.token_type_ids": "it is 0; nothing is learned",
    "v.head.": "the classifier of ImageNet's labels",
    "v.head_dist.": "the classifier of ImageNet's labels",
} | dict.fromkeys(("classifier.", "mlp_head.", "fc."), "the classifier of its own labels")


def strip_prefixes(name):
    """A tensor's name without PREFIXES. LayerNorm's gamma and beta, in the first BERT files, become weight and bias."""
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def audio_layout(names):
    """The layout (a key of LAYOUTS) of a file for the audio tower, or None when no layout fits."""
    return next((SIGNS[name] for name in map(strip_prefixes, names) if name in SIGNS), None)


def count_blocks(names):
    """The number of transformer blocks in a file. It counts different numbers, so one absurd number costs nothing."""
    return len({match[1] for name in names if (match := re.search(r"\b(?:layer|blocks)\.(\d+)\.", name))})


def by_our_name(names):
    """{published name: our name} -> {our name: [published names in the order of stacking]}."""
    published_names = {}
    for published, ours in names.items():
        published_names.setdefault(ours, []).append(published)
    return published_names
