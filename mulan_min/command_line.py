"""The scripts' command lines: one flag for every setting, and one line for every fault of the user's."""
import argparse
import sys
from dataclasses import fields

from mulan_min.config import EXTRACTORS, PRESETS, TOWERS, sections
from mulan_min.errors import UserError


def parser(description):
    """An argparse parser with one flag per field; defaults are left out so that only what the user typed is returned."""
    p = argparse.ArgumentParser(description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    p.add_argument("--preset", choices=PRESETS, help="default: laptop")
    for _, cls in sections():
        group = p.add_argument_group(cls.__name__)
        for f in fields(cls):
            flag, value = "--" + f.name.replace("_", "-"), f.metadata["laptop"]
            if f.type is bool:
                how = {"action": argparse.BooleanOptionalAction}
            elif f.type is list:
                how = {"action": "append", "metavar": "DIR"}
            else:
                how = {"type": f.type, "choices": TOWERS + EXTRACTORS if f.name == "audio" else None}
            group.add_argument(flag, help=f"{f.metadata['help']} [{value}]", **how)
    return p


def run_script(main):
    """Runs main(argv); a UserError becomes one line on stderr and exit code 2."""
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:          # `python eval.py | head`
        sys.exit(0)
    except OSError as error:         # names the file: no permission, a name too long, a full disk
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:        # outside of the training loop, which saves
        print("stopped", file=sys.stderr)
        sys.exit(130)
