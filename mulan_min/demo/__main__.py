"""python -m mulan_min.demo FOLDER [--recordings N] [--seed S]"""
import time

from mulan_min.command_line import Parser, run_script
from mulan_min.demo.world import make_world


def main(argv):
    """Makes the demo world in a folder; prints its size and the seconds it took. Raises UserError as make_world does."""
    parser = Parser("python -m mulan_min.demo", description="Make the demo world.")
    parser.add_argument("folder")
    parser.add_argument("--recordings", type=int, default=4400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    began = time.perf_counter()
    folder = make_world(args.folder, args.recordings, args.seed)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {args.recordings} recordings, {size / 1e6:.0f} MB, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    run_script(main)
