"""python -m mulan_min.shards"""
from mulan_min.command_line import run_script
from mulan_min.shards.stream import main

run_script(main)
