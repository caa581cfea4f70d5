"""The command lines of the scripts. Each setting has a flag. An error that the user can correct is printed as one line."""
import argparse
import os
import re
import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import fields

from tqdm import tqdm

from mulan_min.config import PRESETS, Config
from mulan_min.errors import UserError

# The settings that people change most. The help lists them first; our choice.
COMMON = "audio data ratio steps batch_size lr workers precision seed objective".split()


class Parser(argparse.ArgumentParser):
    """argparse.ArgumentParser, but a wrong flag gives one line, without the usage text."""

    def error(self, message):
        self.exit(2, f"error: {message}; {self.prog} -h lists the flags\n")


def parser(description):
    """A Parser with one flag per setting. The result holds only what the user typed: settings have no defaults here."""
    p = Parser(description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False,
               usage="python train.py [--audio ast|resnet50] [--data DIR] [--run DIR] [settings]")
    p.add_argument("--preset", type=str.lower, choices=PRESETS, help="default: laptop")
    for section in fields(Config):
        group = p.add_argument_group(section.type.__name__)
        for f in fields(section.type):
            choices = f.metadata["choices"]
            if f.type is bool:
                options = {"action": argparse.BooleanOptionalAction}
            elif f.type is list:
                options = {"action": "append", "metavar": "DIR"}
            else:      # `config.check` refuses other values than the choices; it checks the values of files too
                options = {"type": str.lower if choices else f.type, "metavar": "|".join(choices or ()) or None}
            (p if f.name in COMMON else group).add_argument(
                f"--{f.name.replace('_', '-')}", help=f"{f.metadata['help']} [{f.metadata['laptop']}]", **options)
    return p


def run_script(main):
    """Runs main(argv). A UserError, an OSError or a lack of memory becomes one line on stderr and exit code 2."""
    try:
        main(sys.argv[1:])
    except BrokenPipeError:          # `python eval.py | head`
        sys.exit(0)
    except (UserError, OSError) as error:      # OSError names the file: no permission, a name too long, a full disk
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:      # torch has several errors for a lack of memory
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory|alloc_failed", str(error), re.I):
            raise
        print(f"error: out of memory ({reason[:300]}); in training give a smaller --batch-size, or the same with --chunk-size: it cuts "
              "a batch into chunks; what was saved is kept", file=sys.stderr)
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
