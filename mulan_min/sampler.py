"""Which recordings form batch s: exactly SF:LF:PL:ASET = 2:2:1:1 (paper), as a pure function of (seed, s).

The draws of all batches are one endless stream of slots in which the sources repeat in a fixed pattern, so a batch that
is not divisible by the pattern takes up where the last one ended and the long-run ratio is exact. The k-th slot of a
source is entry k of that source's walk: its recordings in random order, each once, then again in another order.
"""
import zlib
from collections import Counter
from functools import lru_cache

import numpy as np

from mulan_min.errors import UserError

GROUP = 8      # batches planned together, so that a recording drawn twice in one can trade places; our choice


class Sampler:
    def __init__(self, members, ratio, batch_size, seed):
        """members: {source: indices of the recordings that have text of it}; ratio: {source: whole-number share}.
        Raises UserError for a source without recordings."""
        for source in ratio:
            if not members.get(source):
                rest = ",".join(f"{name}={share}" for name, share in ratio.items() if members.get(name))
                raise UserError(f"no training recording has '{source}' text; leave the source out with --ratio {rest}")
        self.members = {source: np.asarray(members[source]) for source in ratio}
        self.ratio, self.batch_size, self.seed = ratio, batch_size, seed
        # Interleaved (sf lf pl aset sf lf), so that a small batch holds every source too.
        self.pattern = [source for turn in range(max(ratio.values())) for source in ratio if turn < ratio[source]]

    @lru_cache(maxsize=16)
    def order(self, source, epoch):
        """The order in which `source` is walked in its own epoch: a permutation of its members."""
        rng = np.random.default_rng((self.seed, zlib.crc32(source.encode()), epoch))
        return rng.permutation(self.members[source])

    def entry(self, source, k):
        """Recording index at place k of the source's endless walk."""
        epoch, place = divmod(k, len(self.members[source]))
        return int(self.order(source, epoch)[place])

    def batch(self, step):
        """[(source, recording index)] of global batch `step`, batch_size long."""
        group, place = divmod(step + GROUP // 2, GROUP)
        return [(source, recording) for source, recording, _ in self.settled(group)[place]]

    @lru_cache(maxsize=3)
    def planned(self, group):
        """Batches of steps GROUP * group and on, traded among themselves."""
        return untangle([[self.slot(step * self.batch_size + i) for i in range(self.batch_size)]
                         for step in range(group * GROUP, (group + 1) * GROUP)])

    @lru_cache(maxsize=2)
    def settled(self, group):
        """Batches of steps GROUP * group - GROUP / 2 and on: halves of two planned groups, traded once more for the sake
        of an epoch that begins or ends with the first or last batch of a group and found no partner there."""
        before = self.planned(group - 1)[GROUP // 2:] if group else [[]] * (GROUP // 2)
        return untangle([list(batch) for batch in before + self.planned(group)[:GROUP // 2]])

    def slot(self, i):
        """Slot i of the stream -> (source, recording, epoch of the source)."""
        turn, place = divmod(i, len(self.pattern))
        source = self.pattern[place]
        k = turn * self.ratio[source] + self.pattern[:place].count(source)
        return source, self.entry(source, k), k // len(self.members[source])


def untangle(batches):
    """Where a recording occurs twice in a batch, one of the two trades places with a draw of the same source and epoch in
    another batch: walks stay walks, and no state is carried from group to group. Changes and returns `batches`."""
    held = [Counter(recording for _, recording, _ in batch) for batch in batches]

    def trade(b, i):
        source, recording, epoch = batches[b][i]
        for c, other in enumerate(batches):
            if held[c][recording]:
                continue
            for j, (their_source, theirs, their_epoch) in enumerate(other):
                if (their_source, their_epoch) == (source, epoch) and not held[b][theirs]:
                    batches[b][i], other[j] = other[j], batches[b][i]
                    held[b].update({recording: -1, theirs: 1})
                    held[c].update({recording: 1, theirs: -1})
                    return

    for b, batch in enumerate(batches):
        for i in range(len(batch)):
            if held[b][batch[i][1]] > 1:
                trade(b, i)
    return batches
