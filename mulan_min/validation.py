"""The recordings of split "valid" that training is validated on, and their windows."""
from dataclasses import replace

from mulan_min.audio import AudioError
from mulan_min.config import parse_ratio
from mulan_min.data import read_clip_window
from mulan_min.errors import UserError

VALID_RECORDINGS = 256      # recordings that are embedded in a validation, at most; our choice


def choose_valid(recordings, config, log=print):
    """At most VALID_RECORDINGS recordings, spread evenly over `recordings`, that can be read and have text of a source in use.
    log(line) names each recording that cannot be read. Raises UserError when fewer than two are left: the validation compares
    recordings with each other."""
    front, ratio, chosen = config.front, parse_ratio(config.data.ratio), []
    recordings = [replace(r, text={source: r.text[source] for source in ratio if source in r.text}) for r in recordings]
    recordings = [r for r in recordings if r.text]
    count = min(len(recordings), VALID_RECORDINGS)
    for r in (recordings[i * len(recordings) // count] for i in range(count)):
        try:
            read_clip_window(r, front.seconds, front.sample_rate, 0.5)
            chosen.append(r)
        except AudioError as error:
            log(f"left out of validation: {r.id}: {error}")
    if len(chosen) < 2:
        raise UserError(f"{', '.join(config.data.data + config.data.shards)}: two or more recordings of split 'valid' with text "
                        f"and readable audio are needed, not {len(chosen)}")
    return chosen


def middle_windows(recordings, config):
    """The window in the middle of each recording's clip, for validation: [(samples,) float32]."""
    return [read_clip_window(r, config.front.seconds, config.front.sample_rate, 0.5) for r in recordings]
