"""The recordings of split "valid" that training is validated on, and their windows."""
from collections import Counter
from dataclasses import replace

from mulan_min.audio import AudioError
from mulan_min.config import parse_ratio
from mulan_min.data import read_clip_window
from mulan_min.errors import UserError

VALID_RECORDINGS = 256      # recordings that are embedded in a validation, at most; our choice
SHARES = {"sf": 2, "lf": 2, "pl": 1, "aset": 1}      # for a --ratio that fits; paper


def choose_valid(recordings, config, log=print):
    """At most VALID_RECORDINGS recordings, spread evenly over `recordings`, that can be read and have text of a source in use.
    log(line) names each recording that cannot be read. Raises UserError when fewer than two are left: the validation compares
    recordings with each other."""
    front, ratio, chosen, reasons = config.front, parse_ratio(config.data.ratio), [], []
    used = [replace(r, text={source: r.text[source] for source in ratio if source in r.text}) for r in recordings]
    used = [r for r in used if r.text]
    count = min(len(used), VALID_RECORDINGS)
    for r in (used[i * len(used) // count] for i in range(count)):
        try:
            read_clip_window(r, front.seconds, front.sample_rate, 0.5)
            chosen.append(r)
        except AudioError as error:
            reasons.append(str(error))
            log(f"left out of validation: {r.id}: {error}")
    if len(chosen) < 2:
        counts = Counter(source for r in recordings for source in r.text)
        fitting = ",".join(f"{source}={SHARES[source]}" for source in SHARES if counts[source] > 1)
        remedy = 'set "split": "valid" in more lines of the manifest, or import the music again with a larger --test-share'
        if len(used) < 2 and fitting:
            remedy = f"--ratio {config.data.ratio} asks for text that they do not have; --ratio {fitting} fits"
        elif reasons:
            remedy = f"the first that cannot be read: {reasons[0]}"
        raise UserError(f"{', '.join(config.data.data + config.data.shards)}: two or more recordings of split 'valid' with text "
                        f"and readable audio are needed, not {len(chosen)}; {remedy}")
    return chosen


def middle_windows(recordings, config):
    """The window in the middle of each recording's clip, for validation: [(samples,) float32]."""
    return [read_clip_window(r, config.front.seconds, config.front.sample_rate, 0.5) for r in recordings]
