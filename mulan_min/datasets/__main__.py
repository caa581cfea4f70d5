"""python -m mulan_min.datasets"""
from mulan_min.command_line import run_script
from mulan_min.datasets.importing import main

run_script(main)
