"""The names of tensors in published files, and our names for them. This module only translates names.

Where several published tensors have the same name of ours, they are stacked along the first dimension in the dictionary's
order: here queries, keys and values are one matrix.
"""
import re

# Training scripts and wrapper models put these before every name, in any combination.
PREFIXES = ("module.", "_orig_mod.", "0.auto_model.", "model.", "bert.", "audio_spectrogram_transformer.", "resnet.")
# A tensor that only this layout has
SIGNS = {"v.pos_embed": "AST, original", "embeddings.position_embeddings": "AST, transformers",
         "conv1.weight": "ResNet-50, torchvision", "embedder.embedder.convolution.weight": "ResNet-50, transformers"}

# ResNet-50's layers with the number 0 are convolutions without bias, those with 1 batch norms. Other layers have weight and bias.
PARAMETERS = {"0": ("weight",), "1": ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}

# {published layer: our layer} in one block
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
TORCHVISION_BLOCK = {
    "conv1": "reduce.0", "bn1": "reduce.1", "conv2": "spatial.0", "bn2": "spatial.1", "conv3": "expand.0", "bn3": "expand.1",
    "downsample.0": "shortcut.0", "downsample.1": "shortcut.1"}
RESNET_TRANSFORMERS_BLOCK = {
    "layer.0.convolution": "reduce.0", "layer.0.normalization": "reduce.1", "layer.1.convolution": "spatial.0",
    "layer.1.normalization": "spatial.1", "layer.2.convolution": "expand.0", "layer.2.normalization": "expand.1",
    "shortcut.convolution": "shortcut.0", "shortcut.normalization": "shortcut.1"}

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


def published_names(layout, depth=12):
    """{published name: our name} of every tensor in a layout: "BERT" or a value of SIGNS. depth: the number of blocks of a
    transformer; a ResNet-50 always has 16."""
    tensors, blocks = {}, [f"encoder.layer.{i}" for i in range(depth)]
    stages = [(stage, i) for stage, count in enumerate((3, 4, 6, 3)) for i in range(count)]        # of ResNet-50
    if layout == "BERT":
        block, layers = BERT_BLOCK, {"embeddings.LayerNorm": "norm"}
        tensors = {"embeddings.word_embeddings.weight": "words.weight", "embeddings.position_embeddings.weight": "positions.weight",
                   "embeddings.token_type_embeddings.weight": "token_types.weight"}
    elif layout == "AST, original":
        block, blocks = AST_ORIGINAL_BLOCK, [f"v.blocks.{i}" for i in range(depth)]
        layers = {"v.patch_embed.proj": "patch_embedding", "v.norm": "norm"}
        tensors = {"v.cls_token": "prefix", "v.dist_token": "prefix", "v.pos_embed": "positions"}
    elif layout == "AST, transformers":
        block, layers = AST_TRANSFORMERS_BLOCK, {"embeddings.patch_embeddings.projection": "patch_embedding", "layernorm": "norm"}
        tensors = {"embeddings.cls_token": "prefix", "embeddings.distillation_token": "prefix",
                   "embeddings.position_embeddings": "positions"}
    elif layout == "ResNet-50, torchvision":
        block, blocks = TORCHVISION_BLOCK, [f"layer{stage + 1}.{i}" for stage, i in stages]
        layers = {"conv1": "stem.0", "bn1": "stem.1"}
    else:
        block, blocks = RESNET_TRANSFORMERS_BLOCK, [f"encoder.stages.{stage}.layers.{i}" for stage, i in stages]
        layers = {"embedder.embedder.convolution": "stem.0", "embedder.embedder.normalization": "stem.1"}
    for i, prefix in enumerate(blocks):
        for published, ours in block.items():
            if not ours.startswith("shortcut") or stages[i][1] == 0:    # only the first block of a stage has this convolution
                layers[f"{prefix}.{published}"] = f"blocks.{i}.{ours}"
    for published, ours in layers.items():
        for parameter in PARAMETERS.get(ours.split(".")[-1], ("weight", "bias")):
            tensors[f"{published}.{parameter}"] = f"{ours}.{parameter}"
    return tensors


def by_our_name(names):
    """{published name: our name} -> {our name: [published names in the order of stacking]}."""
    stacks = {ours: [] for ours in names.values()}
    for published, ours in names.items():
        stacks[ours].append(published)
    return stacks


def strip_prefixes(name):
    """A tensor's name without PREFIXES. LayerNorm's gamma and beta, in the first BERT files, become weight and bias."""
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def audio_layout(names):
    """The layout of a file for the audio tower, a value of SIGNS, or None when no layout fits."""
    return next((SIGNS[name] for name in map(strip_prefixes, names) if name in SIGNS), None)


def count_blocks(names):
    """The number of transformer blocks in a file. It counts different numbers, so one absurd number costs nothing."""
    return len({match[1] for name in names if (match := re.search(r"\b(?:layer|blocks)\.(\d+)\.", name))})
