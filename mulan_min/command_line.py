"""The command lines of the scripts. Each setting has a flag. An error that the user can correct is printed as one line."""
import argparse
import os
import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import fields

from tqdm import tqdm

from mulan_min.config import PRESETS, Config
from mulan_min.errors import UserError


def parser(description):
    """An argparse parser with one flag per setting. The result holds only what the user typed: settings have no defaults here."""
    p = argparse.ArgumentParser(description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    p.add_argument("--preset", choices=PRESETS, help="default: laptop")
    for section in fields(Config):
        group = p.add_argument_group(section.type.__name__)
        for f in fields(section.type):
            if f.type is bool:
                options = {"action": argparse.BooleanOptionalAction}
            elif f.type is list:
                options = {"action": "append", "metavar": "DIR"}
            else:      # no `choices` here: `config.check` refuses other values in one line, without argparse's usage text
                options = {"type": f.type, "metavar": "|".join(f.metadata["choices"] or ()) or None}
            group.add_argument(f"--{f.name.replace('_', '-')}", help=f"{f.metadata['help']} [{f.metadata['laptop']}]", **options)
    return p


def run_script(main):
    """Runs main(argv). A UserError or an OSError becomes one line on stderr and exit code 2."""
    try:
        main(sys.argv[1:])
    except BrokenPipeError:          # `python eval.py | head`
        sys.exit(0)
    except (UserError, OSError) as error:      # OSError names the file: no permission, a name too long, a full disk
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:        # outside of the training loop; inside it, train.py saves a checkpoint
        print("stopped", file=sys.stderr)
        sys.exit(130)


def print0(text, every_rank=False):
    """Prints above the progress bar, on rank 0 only unless `every_rank`. Characters that UTF-8 cannot encode are escaped."""
    if os.environ.get("RANK", "0") == "0" or every_rank:
        tqdm.write(str(text).encode(errors="backslashreplace").decode(), file=sys.stdout)
        sys.stdout.flush()


@contextmanager
def stop_requested():
    """Inside `with stop_requested() as stop`, Ctrl-C and SIGTERM set the event `stop`. So the training loop can finish its step."""
    stop, before = threading.Event(), {}
    if threading.current_thread() is threading.main_thread():      # Python allows signal handlers only there
        before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
