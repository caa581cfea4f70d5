"""The README's two lists "the path of one recording" and "... one sentence" are true: one training batch calls these functions in this
order."""
import importlib
import inspect
import re
import sys
from functools import reduce

import pytest
from docs import ROOT, blocks

from mulan_min import contrastive
from mulan_min.config import resolve
from mulan_min.data import Batches, read_collection

LINE = re.compile(r"([a-z]\w*(?:\.\w+){1,2})   +\S")


def ways(page):
    """[[function name]]: one list for each ```text block in which every line names a function and says what goes in and out."""
    lines = [block.splitlines() for block in blocks(page, "text")]
    return [[LINE.match(line)[1] for line in block] for block in lines if block and all(map(LINE.match, block))]


def code_of(name):
    """"mulan.AudioTower.forward" -> its code object, without its decorators."""
    module, *path = name.split(".")
    return inspect.unwrap(reduce(getattr, path, importlib.import_module(f"mulan_min.{module}"))).__code__


def calls_of(function, names):
    """Calls function() -> every call of the functions `names`, in the order in which they begin: [name]."""
    name_of, calls = {code_of(name): name for name in names}, []

    def profile(frame, event, _):
        if event == "call" and frame.f_code in name_of:
            calls.append(name_of[frame.f_code])

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


def order_faults(way, calls, shared):
    """What is wrong with a list of functions, given the calls: [line to show]. Each function's first call must come after that of
    the function above it in the list. Functions in `shared` are called for audio and for text: one of their calls must do so."""
    faults, position = [], -1
    for name in way:
        later = [i for i, call in enumerate(calls) if call == name and i > position]
        if name not in calls:
            faults.append(f"{name} is not called")
        elif not later or (name not in shared and calls.index(name) < position):
            faults.append(f"{name} is called earlier than the list says")
        else:
            position = later[0]
    return faults


@pytest.fixture(scope="module")
def lists():
    return ways((ROOT / "README.md").read_text(encoding="utf-8"))


def test_the_lists_are_found():
    page = "```text\nloss.cmc_loss      (B, d) -> a number\nmulan.MuLan.forward   a batch -> (B, d)\n```\n```text\nmulan_min/   x\n```\n"
    assert ways(page) == [["loss.cmc_loss", "mulan.MuLan.forward"]]


def test_a_wrong_order_is_a_fault():
    calls = ["a.read", "a.cut", "a.read", "a.cut", "m.unit", "m.text", "m.unit", "l.loss"]
    assert order_faults(["a.read", "a.cut", "m.unit", "l.loss"], calls, {"m.unit"}) == []
    assert order_faults(["m.text", "m.unit", "l.loss"], calls, {"m.unit"}) == []
    assert order_faults(["a.cut", "a.read"], calls, set()) == ["a.read is called earlier than the list says"]
    assert order_faults(["l.loss", "m.unit"], calls, {"m.unit"}) == ["m.unit is called earlier than the list says"]
    assert order_faults(["m.text", "m.unit"], calls, set()) == ["m.unit is called earlier than the list says"]
    assert order_faults(["a.read", "m.gone"], calls, set()) == ["m.gone is not called"]


def test_one_training_batch_takes_the_way_of_the_readme(small_world, lists):
    config = resolve({"preset": "smoke", "audio": "ast", "data": [small_world], "workers": 0})
    recordings = read_collection([small_world], "train")
    model = contrastive.build(config, recordings, [])
    batches = Batches(recordings, config, contrastive.make_targets(model), front_end=model.audio.spectrogram)

    def one_batch():
        contrastive.backward(model, batches[0], 0, model, 1)

    assert len(lists) == 2 and all(len(way) > 8 for way in lists)
    audio, text = lists
    shared = set(audio) & set(text)
    calls = calls_of(one_batch, {*audio, *text})
    assert order_faults(audio, calls, shared) == []
    assert order_faults(text, calls, shared) == []
    assert model.audio.project.weight.grad is not None and model.text.project.weight.grad is not None
    assert audio[0] == text[0] == "data.Batches.batch" and audio[-1] == text[-1] == "loss.cmc_loss"
