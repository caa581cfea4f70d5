"""python -m mulan_min.mining"""
from mulan_min.command_line import run_script
from mulan_min.mining.mine import main

run_script(main)
