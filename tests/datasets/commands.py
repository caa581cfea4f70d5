"""Runs the command line inside the test process."""
import sys

import pytest

from mulan_min.command_line import run_script
from mulan_min.datasets.__main__ import main


def run_command(*argv):
    """Runs `python -m mulan_min.datasets` with these arguments -> exit code, as the shell sees it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["datasets", *map(str, argv)])
        try:
            run_script(main)
        except SystemExit as stop:
            return stop.code
    return 0
