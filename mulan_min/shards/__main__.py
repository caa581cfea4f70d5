"""python -m mulan_min.shards pack DIR OUT --size 1GB"""

from mulan_min.command_line import Parser, run_script
from mulan_min.errors import UserError
from mulan_min.shards.pack import pack, parse_size


def main(argv=None):
    """Runs the command. Raises UserError."""
    parser = Parser("python -m mulan_min.shards", description="Tar shards of a manifest folder.")
    command = parser.add_subparsers(required=True, metavar="pack").add_parser("pack", help="write the shards")
    command.add_argument("folder", metavar="DIR", help="folder with manifest.jsonl; it is only read")
    command.add_argument("out", metavar="OUT", help="folder to make")
    command.add_argument("--size", default="1GB", help="largest size of a shard: 500MB, 1GB or 1048576 bytes [1GB]")
    command.add_argument("--shuffle-seed", type=int, default=0, help="seed of the random order of the recordings [0]")
    args = parser.parse_args(argv)
    if args.shuffle_seed < 0:
        raise UserError("--shuffle-seed must be 0 or more")
    print(pack(args.folder, args.out, parse_size(args.size), args.shuffle_seed))


if __name__ == "__main__":
    run_script(main)
