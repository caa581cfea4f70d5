"""Settings: all fields in all presets, the command line, and conversion to a dictionary and back."""
import re

import pytest

from mulan_min.command_line import COMMON, parser, run_script
from mulan_min.config import PRESETS, TOWERS, all_settings, config_from_dict, parse_ratio, preset, resolve
from mulan_min.errors import UserError


def test_paper_preset_has_the_papers_numbers():
    """The sizes in section 4 of the paper, and AST's published patch size."""
    for audio, mels, batch in (("ast", 128, 5120), ("resnet50", 64, 6144)):
        c = preset("paper", audio)
        assert (c.front.n_mels, c.optim.batch_size, c.tower.audio) == (mels, batch, audio)
        assert (c.front.sample_rate, c.front.seconds, c.front.hop, c.space.dim) == (16000, 10.0, 0.010, 128)
        assert (c.tower.ast_width, c.tower.ast_depth, c.tower.ast_heads) == (768, 12, 12)
        assert (c.tower.patch_mels, c.tower.patch_frames, c.tower.resnet_width) == (16, 16, 64)
        assert (c.text.text_width, c.text.text_depth, c.text.text_heads, c.text.max_tokens) == (768, 12, 12, 512)
        assert parse_ratio(c.data.ratio) == {"sf": 2, "lf": 2, "pl": 1, "aset": 1}


def test_every_setting_has_a_value_of_its_type_in_every_preset_and_names_its_source():
    for name in PRESETS:
        for audio in TOWERS:
            config = preset(name, audio)
            for section, f in all_settings():
                value = getattr(getattr(config, section), f.name)
                assert isinstance(value, f.type), (name, f.name, value)
                assert re.search("paper|companion|our choice|AST|BERT|DeiT|measured", f.metadata["help"]), f.name
    names = [f.name for _, f in all_settings()]
    assert len(names) == len(set(names))      # no two settings have the same flag


def test_typed_values_replace_those_of_the_preset():
    typed = vars(parser("").parse_args("--preset smoke --audio resnet50 --n-mels 32 --lr 0.5 --data a --data b "
                                       "--shuffle-pairs".split()))
    config = resolve(typed)
    assert (config.front.n_mels, config.optim.lr, config.data.data, config.data.shuffle_pairs) == (32, 0.5, ["a", "b"], True)
    assert config.optim.steps == preset("smoke", "resnet50").optim.steps != preset("laptop", "resnet50").optim.steps
    assert preset("laptop").data.data == []   # the list above is not shared


@pytest.mark.parametrize("typed, field", [
    ({"batch_size": 1}, "--batch-size"), ({"steps": 0}, "--steps"), ({"workers": -1}, "--workers"),
    ({"temperature": 0.001}, "--temperature"), ({"temperature_floor": 0.0}, "--temperature-floor"),
    ({"hop": 0.0}, "--hop"), ({"hop": 0.06}, "--hop 0.06 .*--window"),
    ({"precision": "bfloat16"}, "--precision"), ({"seed": -1}, "--seed"),
    ({"dialect": "ours"}, "--dialect ours is not one of slaney, kaldi"),
    ({"audio": "vgg"}, "--audio vgg is not one of ast, resnet50"),
    ({"ratio": "sf:2"}, "--ratio"), ({"ratio": "sf=0"}, "--ratio"), ({"ratio": "sf=-1,lf=2"}, "--ratio"),
])
def test_invalid_values_are_refused(typed, field):
    with pytest.raises(UserError, match=field):
        resolve(typed)


def test_conversion_to_a_dictionary_and_back():
    config = resolve({"audio": "resnet50", "data": ["x"], "lr": 0.25})
    assert config_from_dict(config.to_dict(), "f").to_dict() == config.to_dict()
    for change in (lambda d: d["optim"].update(magic=1), lambda d: d["optim"].pop("lr"), lambda d: d.update(new={"a": 1})):
        saved = config.to_dict()
        change(saved)
        with pytest.raises(UserError, match="last.pt: config section"):
            config_from_dict(saved, "last.pt")


def test_the_command_line_leaves_the_refusal_of_unknown_choices_to_the_config():
    typed = vars(parser("").parse_args(["--dialect", "htk"]))
    with pytest.raises(UserError, match="^--dialect htk is not one of slaney, kaldi$"):
        resolve(typed)
    assert "--dialect slaney|kaldi" in parser("").format_help()


def test_names_may_be_typed_in_upper_case():
    typed = vars(parser("").parse_args(["--audio", "ResNet50", "--preset", "SMOKE", "--precision", "BF16"]))
    assert typed == {"audio": "resnet50", "preset": "smoke", "precision": "bf16"}


@pytest.mark.parametrize("wrong, part", [("--stesp 3", "unrecognized arguments: --stesp 3"), ("--steps", "expected one argument"),
                                         ("--steps many", "argument --steps: invalid int value: 'many'"),
                                         ("--preset huge", "argument --preset: invalid choice: 'huge'")])
def test_a_wrong_flag_is_one_line_and_exit_code_2(capsys, wrong, part):
    with pytest.raises(SystemExit) as stop:
        parser("").parse_args(wrong.split())
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and printed.startswith("error: ") and printed.count("\n") == 1
    assert part in printed and "-h lists the flags" in printed


def test_a_flag_is_never_abbreviated(capsys):
    """Else a new setting could make a flag ambiguous that a script uses, or change its meaning."""
    for typed in (["--step", "3"], ["--batch-siz=3"], ["--mel-m", "0"]):
        with pytest.raises(SystemExit) as stop:
            parser("").parse_args(typed)
        assert stop.value.code == 2 and "unrecognized arguments" in capsys.readouterr().err


def test_the_help_begins_with_one_line_of_usage_and_the_common_settings():
    """Then come the others, each once, in the groups of the Config."""
    text = parser("What it does.").format_help()
    groups = [re.findall(r"^  (--[\w-]+)", group, re.M) for group in re.split(r"\n\n(?=\w+:\n)", text)[1:]]
    flags = {f.name: f"--{f.name.replace('_', '-')}" for _, f in all_settings()}
    assert text.startswith("usage: python train.py [--audio ") and text.splitlines()[1:3] == ["", "What it does."]
    assert groups[0] == ["--preset", *(flag for name, flag in flags.items() if name in COMMON)] and len(groups[0]) == 11
    assert sorted(sum(groups, [])) == sorted([*flags.values(), "--preset"])


def test_a_user_error_is_one_line_and_exit_code_2(capsys):
    def main(argv):
        raise UserError("file x: field y; do z")

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 2 and capsys.readouterr().err == "error: file x: field y; do z\n"


def test_an_error_of_the_operating_system_is_one_line_and_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run_script(lambda argv: open(tmp_path / ("n" * 300)))
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and printed.startswith("error: ") and "nnn" in printed and printed.count("\n") == 1


def test_ctrl_c_outside_of_training_prints_one_line(capsys):
    def main(argv):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 130 and capsys.readouterr().err == "stopped\n"


def test_a_source_with_share_0_is_left_out():
    assert parse_ratio("sf=2, lf=2,pl=1,aset=0") == {"sf": 2, "lf": 2, "pl": 1}
