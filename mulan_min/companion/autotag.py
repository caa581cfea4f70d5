"""How the companion paper judges a tagger: ROC-AUC and PR-AUC over the labels, the mean score of several windows a recording."""
import numpy as np
from tqdm import tqdm

from mulan_min.companion.joint_tagger import JointTagger
from mulan_min.data import read_clip_window, read_manifest
from mulan_min.errors import MissingData, UserError
from mulan_min.labels import read_labels, truth_table
from mulan_min.tasks import score_labels


def autotag(model, folder, embeddings=None, seed=0):
    """Tagging of the test split: macro ROC-AUC and PR-AUC over the model's labels, and over those of each set in labels.json.

    A recording's scores are the mean over `test_windows` evenly spaced windows. Returns what the other tasks return. Raises
    MissingData and UserError.
    """
    if not isinstance(model, JointTagger):
        raise MissingData("autotag needs a run of --objective joint-tags; zero-shot tagging is --task tagging")
    test = [r for r in read_manifest(folder) if r.split == "test"]
    front, count = model.config.front, model.config.tagger.test_windows
    if len(test) < 2:
        raise MissingData(f"{folder}: two or more 'test' recordings are needed, not {len(test)}")
    scores = []
    for recording in tqdm(test, desc="tagging", unit="recording", disable=None):
        waveforms = np.stack([read_clip_window(recording, front.seconds, front.sample_rate, position)
                              for position in (np.linspace(0, 1, count) if count > 1 else [0.5])])
        scores.append(model.predict(waveforms)[2].sigmoid().mean(0).double().numpy())
    if not np.isfinite(scores).all():
        raise UserError("the model's scores are not all finite numbers; train it again")
    sets = {"all": model.labels}
    try:
        sets |= {name: [label for label in members if label in model.labels] for name, members in read_labels(folder).items()
                 if name not in sets}
    except MissingData:
        pass
    return score_labels(folder, sets, model.labels, truth_table(test, model.labels), {"": np.stack(scores)}, seed)
