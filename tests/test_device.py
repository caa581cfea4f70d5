"""The precision that `--precision auto` chooses: by what the CPU has, not by a measurement, which could differ from run to run."""
import time

import pytest
import torch

from mulan_min.device import autocast, faster_precision
from mulan_min.run_folder import open_run

CPU = torch.device("cpu")
OLD = {"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_tile": False, "amx_int8": False, "amx_bf16": False}


@pytest.mark.parametrize("has, expected", [
    ({}, "fp32"), ({"avx512_bf16": True}, "bf16"), ({"amx_tile": True, "amx_bf16": True}, "bf16"),
    ({"avx512_bf16": True, "amx_tile": True, "amx_bf16": True}, "bf16"), ({"amx_tile": True, "amx_int8": True}, "fp32")])
def test_a_cpu_gets_bfloat16_where_it_has_units_for_it(has, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: OLD | has, raising=False)
    monkeypatch.setattr(time, "perf_counter", lambda: pytest.fail("measured"))
    assert [faster_precision(CPU) for _ in range(3)] == [expected] * 3
    for asked, used in (("auto", expected), ("fp32", "fp32"), ("bf16", "bf16")):
        assert open_run({"preset": "smoke", "run": str(tmp_path), "precision": asked}, CPU)[1].optim.precision == used


def test_an_unknown_cpu_gets_float32(monkeypatch):
    """Other processors have other names for what they have."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert faster_precision(CPU) == "fp32"


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_matrix_products_in_the_precision(precision, dtype):
    a = torch.ones(2, 2)
    with autocast(CPU, precision):
        assert (a @ a).dtype == dtype
    assert (a @ a).dtype == torch.float32
