"""The names of tensors in published weights, and ours for them. Renaming only, no numbers are touched here.

A table holds rows (their name, our name). In both, {i} stands for a number and {p} for the last part, such as weight;
{b} is the block of a ResNet counted through its stages ({s} from 0, {S} from 1). "[1]" behind our name says that their
tensor is the part 1 of ours: queries, keys and values are one stacked matrix here.
"""
import re

# What training scripts and wrapping models put before every name, in any combination.
PREFIXES = ("module.", "_orig_mod.", "0.auto_model.", "model.", "bert.", "audio_spectrogram_transformer.", "resnet.")
ENDS = "weight|bias|running_mean|running_var|num_batches_tracked"
STAGES = (3, 4, 6, 3)      # blocks in each stage of ResNet-50

BERT = [
    ("embeddings.word_embeddings.weight", "words.weight"),
    ("embeddings.position_embeddings.weight", "positions.weight"),
    ("embeddings.token_type_embeddings.weight", "token_types.weight"),
    ("embeddings.LayerNorm.{p}", "norm.{p}"),
    ("encoder.layer.{i}.attention.self.query.{p}", "blocks.{i}.attention.qkv.{p}[0]"),
    ("encoder.layer.{i}.attention.self.key.{p}", "blocks.{i}.attention.qkv.{p}[1]"),
    ("encoder.layer.{i}.attention.self.value.{p}", "blocks.{i}.attention.qkv.{p}[2]"),
    ("encoder.layer.{i}.attention.output.dense.{p}", "blocks.{i}.attention.out.{p}"),
    ("encoder.layer.{i}.attention.output.LayerNorm.{p}", "blocks.{i}.norm1.{p}"),
    ("encoder.layer.{i}.intermediate.dense.{p}", "blocks.{i}.mlp.fc1.{p}"),
    ("encoder.layer.{i}.output.dense.{p}", "blocks.{i}.mlp.fc2.{p}"),
    ("encoder.layer.{i}.output.LayerNorm.{p}", "blocks.{i}.norm2.{p}"),
]
AST_ORIGINAL = [
    ("v.cls_token", "prefix[0]"),
    ("v.dist_token", "prefix[1]"),
    ("v.pos_embed", "positions"),
    ("v.patch_embed.proj.{p}", "patch_embedding.{p}"),
    ("v.blocks.{i}.norm1.{p}", "blocks.{i}.norm1.{p}"),
    ("v.blocks.{i}.attn.qkv.{p}", "blocks.{i}.attention.qkv.{p}"),
    ("v.blocks.{i}.attn.proj.{p}", "blocks.{i}.attention.out.{p}"),
    ("v.blocks.{i}.norm2.{p}", "blocks.{i}.norm2.{p}"),
    ("v.blocks.{i}.mlp.fc1.{p}", "blocks.{i}.mlp.fc1.{p}"),
    ("v.blocks.{i}.mlp.fc2.{p}", "blocks.{i}.mlp.fc2.{p}"),
    ("v.norm.{p}", "norm.{p}"),
]
AST_TRANSFORMERS = [
    ("embeddings.cls_token", "prefix[0]"),
    ("embeddings.distillation_token", "prefix[1]"),
    ("embeddings.position_embeddings", "positions"),
    ("embeddings.patch_embeddings.projection.{p}", "patch_embedding.{p}"),
    ("encoder.layer.{i}.layernorm_before.{p}", "blocks.{i}.norm1.{p}"),
    ("encoder.layer.{i}.attention.attention.query.{p}", "blocks.{i}.attention.qkv.{p}[0]"),
    ("encoder.layer.{i}.attention.attention.key.{p}", "blocks.{i}.attention.qkv.{p}[1]"),
    ("encoder.layer.{i}.attention.attention.value.{p}", "blocks.{i}.attention.qkv.{p}[2]"),
    ("encoder.layer.{i}.attention.output.dense.{p}", "blocks.{i}.attention.out.{p}"),
    ("encoder.layer.{i}.layernorm_after.{p}", "blocks.{i}.norm2.{p}"),
    ("encoder.layer.{i}.intermediate.dense.{p}", "blocks.{i}.mlp.fc1.{p}"),
    ("encoder.layer.{i}.output.dense.{p}", "blocks.{i}.mlp.fc2.{p}"),
    ("layernorm.{p}", "norm.{p}"),
]
RESNET_TORCHVISION = [
    ("conv1.{p}", "stem.0.{p}"),
    ("bn1.{p}", "stem.1.{p}"),
    *((f"layer{{S}}.{{i}}.{theirs}{n}.{{p}}", f"blocks.{{b}}.{part}.{k}.{{p}}")
      for n, part in enumerate(("reduce", "spatial", "expand"), 1) for k, theirs in enumerate(("conv", "bn"))),
    ("layer{S}.{i}.downsample.0.{p}", "blocks.{b}.shortcut.0.{p}"),
    ("layer{S}.{i}.downsample.1.{p}", "blocks.{b}.shortcut.1.{p}"),
]
RESNET_TRANSFORMERS = [
    (f"{theirs}.{kind}.{{p}}", f"{ours}.{k}.{{p}}")
    for theirs, ours in (("embedder.embedder", "stem"), ("encoder.stages.{s}.layers.{i}.layer.0", "blocks.{b}.reduce"),
                         ("encoder.stages.{s}.layers.{i}.layer.1", "blocks.{b}.spatial"),
                         ("encoder.stages.{s}.layers.{i}.layer.2", "blocks.{b}.expand"),
                         ("encoder.stages.{s}.layers.{i}.shortcut", "blocks.{b}.shortcut"))
    for k, kind in enumerate(("convolution", "normalization"))
]

# Layout: its table, and what such files hold besides: [(pattern, why we leave it out)].
CLASSIFIER = "the classifier of its own labels"
LAYOUTS = {
    "BERT": (BERT, [(r"cls\..*", "heads of BERT's own training tasks"),
                    (r"pooler\..*", "MuLan projects the [CLS] state itself"),
                    (r"mlp\.dense\..*", "SimCSE's training head"),
                    (r"(classifier|qa_outputs)\..*", "the head of a task it was tuned for"),
                    (r"embeddings\.(position_ids|token_type_ids)", "counts up from 0, or is 0; nothing learned")]),
    "AST, original": (AST_ORIGINAL, [(r"v\.head(_dist)?\..*", "the classifier of ImageNet's labels"),
                                     (r"mlp_head\..*", CLASSIFIER)]),
    "AST, transformers": (AST_TRANSFORMERS, [(r"classifier\..*", CLASSIFIER)]),
    "ResNet-50, torchvision": (RESNET_TORCHVISION, [(r"fc\..*", CLASSIFIER)]),
    "ResNet-50, transformers": (RESNET_TRANSFORMERS, [(r"classifier\..*", CLASSIFIER)]),
}
# A tensor that only this layout has.
SIGNS = {"v.pos_embed": "AST, original", "embeddings.position_embeddings": "AST, transformers",
         "conv1.weight": "ResNet-50, torchvision", "embedder.embedder.convolution.weight": "ResNet-50, transformers"}


def bare(name):
    """A tensor's name without prefixes, LayerNorm spelled as today (the first BERT files have gamma and beta)."""
    prefix = True
    while prefix:
        prefix = next((p for p in PREFIXES if name.startswith(p)), None)
        name = name.removeprefix(prefix or "")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def audio_layout(names):
    """The layout of an audio tower's file, a key of LAYOUTS, or None."""
    return next((SIGNS[name] for name in map(bare, names) if name in SIGNS), None)


def translate(names, layout):
    """Names in a file -> ({our name: theirs}, {theirs: why it is left out}, [unexpected], {table row: times used}).

    Unexpected is also a second tensor for the same place.
    """
    table, left_out = LAYOUTS[layout]
    rules = [(_pattern(theirs), ours, (theirs, ours)) for theirs, ours in table]
    found, left, odd, used = {}, {}, [], {}
    for name in names:
        short = bare(name)
        reason = next((why for pattern, why in left_out if re.fullmatch(pattern, short)), None)
        matches = ((rule.fullmatch(short), ours, row) for rule, ours, row in rules)
        match, ours, row = next((m for m in matches if m[0]), (None, None, None))
        new = match and _fill(ours, match.groupdict())
        if reason:
            left[name] = reason
        elif not new or new in found:
            odd.append(name)
        else:
            found[new] = name
            used[row] = used.get(row, 0) + 1
    return found, left, odd, used


def published_bert_names(name):
    """Our name of a tensor of BERT -> the published names, one or, for queries, keys and values, three in this order."""
    return [_fill(theirs, match.groupdict()) for theirs, ours in BERT
            if (match := _pattern(re.sub(r"\[\d\]$", "", ours)).fullmatch(name))]


def _pattern(template):
    kinds = {"p": ENDS, "i": r"\d+", "s": "[0-3]", "S": "[1-4]", "b": r"\d+"}
    return re.compile(re.sub(r"\\\{(\w)\\\}", lambda hole: f"(?P<{hole[1]}>{kinds[hole[1]]})", re.escape(template)))


def _fill(template, parts):
    """The template with its holes filled, or None for a block that a ResNet-50 does not have."""
    if "s" in parts or "S" in parts:
        stage = int(parts["s"]) if "s" in parts else int(parts["S"]) - 1
        if int(parts["i"]) >= STAGES[stage]:
            return None
        parts = {**parts, "b": sum(STAGES[:stage]) + int(parts["i"])}
    return template.format(**parts)
