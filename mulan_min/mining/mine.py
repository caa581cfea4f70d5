"""Cleans the text of a collection: reads one manifest folder and writes another.

Rules clean SF, as in the paper, and LF. The learned filter then drops LF sentences that do not describe music (paper).
Other sources, such as playlist titles (PL) and class labels (ASET), stay as they are.
"""
import os
import shutil
from collections import Counter, defaultdict
from pathlib import Path

from tqdm import tqdm

from mulan_min.data import COMPANIONS, read_manifest
from mulan_min.errors import UserError
from mulan_min.files import new_folder, read_jsonl, write_jsonl, write_text
from mulan_min.mining.relevance import judge
from mulan_min.mining.text_rules import RULES_LF, RULES_SF, clean, count_words, drop_if
from mulan_min.report import format_table

COPIED = (*COMPANIONS, "lf_truth.jsonl")


def mine(folder, out, relevance=None, threshold=0.5, join=False):
    """Reads the manifest of `folder`, cleans its SF and LF text and writes the result to the new folder `out` -> report (str).

    relevance: (model, tokenizer) from `train_filter`, which drops LF sentences with a probability below `threshold`; None:
    rules only. join: the kept sentences of a comment become one text; otherwise each sentence becomes a text.

    `out` gets manifest.jsonl, dropped.tsv (recording, source, rule, dropped text) and copies of the files in COPIED. The new
    manifest points to the old audio files. Recordings without any text left are left out. `folder` does not change. Raises
    UserError when `out` exists, one folder contains the other, no text is left, or the disk refuses.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    if out == folder or folder in out.parents or out in folder.parents:
        raise UserError(f"{out}: must lie outside {folder} and must not contain it; give another OUT")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; delete it or give another OUT")
    read_manifest(folder)       # raises UserError for an invalid manifest
    rows = [row for _, row in read_jsonl(folder / "manifest.jsonl")]
    rules, changed, dropped = {"sf": RULES_SF, "lf": RULES_LF}, defaultdict(Counter), []
    if relevance is not None:
        rules["lf"] += (filter_rule(rows, relevance, threshold),)
    texts = [clean_row(row, rules, join, changed, dropped) for row in tqdm(rows, desc="rules", unit="recording", disable=None)]
    new_rows = [{**row, "audio": moved(row["audio"], folder, out), "text": text} for row, text in zip(rows, texts) if text]
    if not new_rows:
        raise UserError(f"{folder}: no recording has a text left; {out} is not written")
    table = [("recording", "source", "rule", "text"), *dropped]
    with new_folder(out) as making:
        write_jsonl(making / "manifest.jsonl", new_rows)
        write_text(making / "dropped.tsv", "".join("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in table))
        for name in COPIED:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, making / name)
    left_out = Counter(row["split"] for row in rows) - Counter(row["split"] for row in new_rows)
    listed = ", ".join(f"{count} {split}" for split, count in left_out.items())
    return "\n\n".join([source_table(rows, new_rows), rule_table(rules, changed, dropped),
                        f"{len(new_rows)} of {len(rows)} recordings are in {out}"
                        + (f"; left out because they have no text: {listed}" if listed else "")])


def filter_rule(rows, relevance, threshold):
    """The learned filter as one more rule for LF text: (name, rule, reason), like the lines of RULES_LF."""
    comments = [text for row in rows for text in row["text"].get("lf", [])]
    pieces = sorted({piece for text in comments for piece in clean(text, RULES_LF)[0]})
    rejected = {piece for piece, probability in zip(pieces, judge(relevance, pieces)) if probability < threshold}
    return "filter", drop_if(rejected.__contains__), "the learned filter judges that it does not describe music"


def clean_row(row, rules, join, changed, dropped):
    """The cleaned text of a manifest row: {source: [text]} without empty sources. Repeated texts of SF and LF are dropped.

    Counts in changed[source] how many texts each rule changed or split. Appends (recording, source, rule, text) to `dropped`.
    """
    cleaned = {}
    for source, texts in row["text"].items():
        kept, repeats, seen = [], [], set()
        for text in texts:
            pieces, lost = clean(text, rules.get(source, ()), changed[source])
            dropped += [(row["id"], source, rule, piece) for rule, piece in lost]
            for piece in [" ".join(pieces)] if join and source == "lf" and pieces else pieces:
                (repeats if source in rules and piece.casefold() in seen else kept).append(piece)
                seen.add(piece.casefold())
        dropped += [(row["id"], source, "duplicate", piece) for piece in repeats]
        cleaned |= {source: kept} if kept else {}
    return cleaned


def moved(audio, folder, out):
    """The audio path of a manifest in `folder`, as a manifest in `out` must give it."""
    if os.path.isabs(audio):
        return audio
    path = (folder / audio).resolve()       # Windows has no relative path from one drive to another
    return Path(os.path.relpath(path, out)).as_posix() if path.drive == out.drive else str(path)


def source_table(before, after):
    """Two lines for each source: recordings, texts, words per text, texts per recording, and the share of words kept."""
    lines = []
    for source in dict.fromkeys(source for row in before for source in row["text"]):
        total = 0
        for when, rows in (("before", before), ("after", after)):
            texts = [row["text"][source] for row in rows if row["text"].get(source)]
            count, words = sum(map(len, texts)), sum(count_words(text) for some in texts for text in some)
            total = words if when == "before" else total
            lines.append([source if when == "before" else "", when, len(texts), count, f"{words / max(1, count):.1f}",
                          f"{count / max(1, len(texts)):.1f}", "" if when == "before" else f"{words / max(1, total):.3f}"])
    return format_table(lines, ["source", "", "recordings", "texts", "words per text", "texts per recording", "words kept"])


def rule_table(rules, changed, dropped):
    """One line for each rule that changed, split or dropped a text: its reason and both counts."""
    lost = Counter((source, rule) for _, source, rule, _ in dropped)
    lines = [[f"{source} {rule}", reason, changed[source][rule], lost[source, rule]] for source in rules
             for rule, _, reason in (*rules[source], ("duplicate", None, "the recording has this text already"))]
    return format_table([line for line in lines if line[2] or line[3]], ["rule", "why", "changed", "dropped"])
