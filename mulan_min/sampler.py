"""Which recordings form batch s: exactly SF:LF:PL:ASET = 2:2:1:1 (paper), as a pure function of (seed, s).

All batches together are one endless sequence of slots, in which the sources repeat in a fixed pattern. Each batch continues the
pattern where the last one ended, so the ratio is exact in the long run. The k-th slot of a source holds the k-th recording of that
source: all its recordings once in random order, then all of them again in another order, and so on.
"""
import zlib
from functools import lru_cache

import numpy as np

from mulan_min.errors import UserError


def ratio_pattern(ratio):
    """{"sf": 2, "lf": 2, "pl": 1, "aset": 1} -> [sf lf pl aset sf lf]: interleaved, so that a small batch has every source too."""
    return [source for cycle in range(max(ratio.values())) for source in ratio if cycle < ratio[source]]


class Sampler:
    """Which source and recording each slot of each batch has. For example:

        Sampler({"sf": [0, 1, 2], "lf": [1, 2]}, {"sf": 2, "lf": 1}, batch_size=3, seed=0).batch(0)
        # [("sf", 2), ("lf", 2), ("sf", 0)]: for each slot the source of its text, and the index of its recording

    members: {source: indices of the recordings that have text of it}; ratio: {source: whole-number share}. Raises UserError for a
    source without recordings.
    """

    def __init__(self, members, ratio, batch_size, seed):
        for source in ratio:
            if not members.get(source):
                rest = ",".join(f"{name}={share}" for name, share in ratio.items() if members.get(name))
                raise UserError(f"no training recording has '{source}' text; leave the source out with --ratio {rest}")
        self.members = {source: np.asarray(members[source]) for source in ratio}
        self.ratio, self.batch_size, self.seed, self.pattern = ratio, batch_size, seed, ratio_pattern(ratio)

    @lru_cache(maxsize=16)
    def order(self, source, epoch):
        """The order of the source's recordings in an epoch of this source: a permutation of its members."""
        rng = np.random.default_rng((self.seed, zlib.crc32(source.encode()), epoch))
        return rng.permutation(self.members[source])

    def batch(self, step):
        """[(source, recording index)] of global batch `step`, batch_size long. A recording may occur several times, mostly for
        different sources; the loss does not treat such pairs as negatives of each other."""
        return [self.slot(step * self.batch_size + i) for i in range(self.batch_size)]

    def slot(self, i):
        """Slot i of the endless sequence -> (source, recording index)."""
        cycle, position = divmod(i, len(self.pattern))
        source = self.pattern[position]
        k = cycle * self.ratio[source] + self.pattern[:position].count(source)      # number of earlier slots of this source
        epoch, position = divmod(k, len(self.members[source]))
        return source, int(self.order(source, epoch)[position])
