"""mulan_min: MuLan (arXiv 2208.12415) from scratch, to read, train and use."""
from mulan_min.mulan import MuLan

__all__ = ["MuLan"]
