"""The names of tensors in published files, and our names for them. This module only translates names.

If several published tensors have the same name here, they are stacked along the first dimension in the order of these tables. For
example, our model has one matrix for queries, keys and values.
"""
import re

# {name of a tensor that only one layout has: this layout}
SIGNS = {"v.pos_embed": "AST, original", "embeddings.position_embeddings": "AST, transformers",
         "conv1.weight": "ResNet-50, torchvision", "embedder.embedder.convolution.weight": "ResNet-50, transformers"}

# {end of our layer's name: suffixes of its tensors}. In ResNet-50, layers with the number 0 are convolutions without bias, those
# with 1 are batch norms. Names that end in weight, prefix or positions are tensors already. Other layers have weight and bias.
PARAMETERS = {"0": (".weight",), "1": (".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked"),
              "weight": ("",), "prefix": ("",), "positions": ("",)}

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

# layout: (name of a block, {published layer: our layer} in a block, {published: ours} outside the blocks). i is the block's number,
# in ResNet-50 its number within its stage; ResNet-50's stages have numbers from 0 in transformers and from 1 in torchvision.
LAYOUTS = {
    "BERT": ("encoder.layer.{i}", BERT_BLOCK, {
        "embeddings.word_embeddings.weight": "words.weight", "embeddings.position_embeddings.weight": "positions.weight",
        "embeddings.token_type_embeddings.weight": "token_types.weight", "embeddings.LayerNorm": "norm"}),
    "AST, original": ("v.blocks.{i}", AST_ORIGINAL_BLOCK, {
        "v.cls_token": "prefix", "v.dist_token": "prefix", "v.pos_embed": "positions",
        "v.patch_embed.proj": "patch_embedding", "v.norm": "norm"}),
    "AST, transformers": ("encoder.layer.{i}", AST_TRANSFORMERS_BLOCK, {
        "embeddings.cls_token": "prefix", "embeddings.distillation_token": "prefix", "embeddings.position_embeddings": "positions",
        "embeddings.patch_embeddings.projection": "patch_embedding", "layernorm": "norm"}),
    "ResNet-50, torchvision": ("layer{stage_from_1}.{i}", TORCHVISION_BLOCK, {"conv1": "stem.0", "bn1": "stem.1"}),
    "ResNet-50, transformers": ("encoder.stages.{stage}.layers.{i}", RESNET_TRANSFORMERS_BLOCK, {
        "embedder.embedder.convolution": "stem.0", "embedder.embedder.normalization": "stem.1"}),
}

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
    """{our name: [published names, in the order of stacking]} of every tensor in a layout, a key of LAYOUTS. depth: the number of
    blocks of a transformer; a ResNet-50 always has 16."""
    block_name, block, layers = LAYOUTS[layout]
    blocks = [(0, i) for i in range(depth)]
    if layout.startswith("ResNet-50"):
        blocks = [(stage, i) for stage, count in enumerate((3, 4, 6, 3)) for i in range(count)]
    layers, names = dict(layers), {}
    for number, (stage, i) in enumerate(blocks):
        prefix = block_name.format(i=i, stage=stage, stage_from_1=stage + 1)
        layers |= {f"{prefix}.{published}": f"blocks.{number}.{ours}" for published, ours in block.items()
                   if i == 0 or not ours.startswith("shortcut")}    # only the first block of a stage has this convolution
    for published, ours in layers.items():
        for parameter in PARAMETERS.get(ours.split(".")[-1], (".weight", ".bias")):
            names.setdefault(ours + parameter, []).append(published + parameter)
    return names


def strip_prefixes(name):
    """A tensor's name without the prefixes that training scripts and wrapper models add, in any combination. LayerNorm's gamma and
    beta, in the first BERT files, become weight and bias."""
    name = re.sub(r"^((module|_orig_mod|0\.auto_model|model|bert|audio_spectrogram_transformer|resnet)\.)+", "", name)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def audio_layout(names):
    """The layout of a file for the audio tower, a value of SIGNS, or None when no layout fits."""
    return next((SIGNS[name] for name in map(strip_prefixes, names) if name in SIGNS), None)


def count_blocks(names):
    """The number of transformer blocks in a file: the count of distinct block numbers, so one absurdly high number does no harm."""
    return len({match[1] for name in names if (match := re.search(r"\b(?:layer|blocks)\.(\d+)\.", name))})
