"""python -m mulan_min.demo"""
from mulan_min.command_line import run_script
from mulan_min.demo.world import main

run_script(main)
