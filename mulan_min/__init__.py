"""mulan_min: MuLan (arXiv 2208.12415) from scratch, to read, train and use."""

__all__ = ["MuLan"]


def __getattr__(name):
    """`from mulan_min import MuLan` loads torch only here, because the processes that render the demo world do not need it."""
    if name == "MuLan":
        from mulan_min.mulan import MuLan
        return MuLan
    raise AttributeError(name)
