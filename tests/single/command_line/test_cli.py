"""Flags and YAML as a user meets them: what is refused comes as one line on standard error and exit code 2."""

from __future__ import annotations

import dataclasses
import importlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from horovod_asl import __version__
from horovod_asl.__main__ import COMMANDS, main
from horovod_asl.command_line.cli import expand_home, parse
from horovod_asl.command_line.config_file import to_yaml
from horovod_asl.command_line.options import options_of
from horovod_asl.commands.prepare import PrepareConfig
from horovod_asl.config import TrainConfig
from tests.launching import ROOT, clean_environment


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of several ranks, whatever runs these tests: a rank would leave by `os._exit`."""
    for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)


def train_config(*words: str) -> TrainConfig:
    return parse(TrainConfig, words, prog="horovod-asl train", description=None)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that `horovod-asl WORDS` leaves on standard error, with exit code 2 and nothing else."""
    with pytest.raises(SystemExit) as left:
        main(argv=words)
    output = capsys.readouterr()
    assert left.value.code == 2
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    return output.err.removeprefix("error: ").rstrip()


def yaml_file(folder: Path, text: str) -> str:
    file = folder / "my.yaml"
    file.write_text(text)
    return str(file)


# -- flags ----------------------------------------------------------------------------------------------------


def test_flags_without_prefix_reach_their_group() -> None:
    config = train_config("--learning-rate", "0.5", "--no-augment", "--samples", "100", "--clip-norm", "None")
    assert config.optimizer.learning_rate == 0.5
    assert config.augment.augment is False
    assert config.data.samples == 100
    assert config.optimizer.clip_norm is None


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--epoch 3", "no option --epoch: did you mean --epochs? (horovod-asl train --help lists all)"),
        ("--epochs three", "--epochs"),
        ("--seed 2.5", "--seed"),
        ("--epochs", "--epochs"),
        ("--backend mpi", "--backend mpi: there are auto, serial, dp, ddp, horovod"),
        ("--no-epochs", "--no-epochs"),
        ("stray", "stray"),
        ("--config", "--config needs the path"),
    ],
)
def test_flags_that_do_not_exist_or_do_not_fit_are_refused_in_one_line(
    words: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert part in refusal(capsys, "train", *words.split())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--epochs 0", "--epochs must be above 0 and finite, not 0"),
        ("--clip-norm -1", "--clip-norm must be positive: -1.0"),
        (
            "--adasum",
            "--adasum reduces whole updates, so gradients can't be clipped: add `--clip-norm None`",
        ),
    ],
)
def test_what_the_config_itself_refuses_comes_out_as_its_own_sentence(
    words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, "train", *words.split()) == line


def test_a_refusal_stays_one_line_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert "--backend mpi: there are auto, serial" in refusal(capsys, "train", "--backend", "mpi")


def test_the_manual_ends_in_a_terminal_of_five_columns() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--help"],
        env=clean_environment(COLUMNS="5"),
        capture_output=True,
        text=True,
        timeout=30,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31)),  # else all memory is taken
    )
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines()[-5:])) <= 40


# -- YAML -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "held"),
    [
        (["--test", "anna", "--test", "ben", "cleo"], ("anna", "ben", "cleo")),
        (["--test=anna", "--seed", "1", "--test=ben"], ("anna", "ben")),
        (["--test", "anna", "--config", "FILE"], ("dora",)),
        (["--config", "FILE", "--test", "anna"], ("anna",)),
        (["--test", "anna", "--config", "FILE", "--test", "ben"], ("anna", "ben")),
    ],
)
def test_a_list_that_is_given_twice_holds_both(words: list[str], held: tuple[str, ...], tmp_path: Path) -> None:
    """Here of the people that are held out: dropped without a word, anna would be trained on."""
    file = yaml_file(tmp_path, "test: [dora]\n")
    words = ["photos", "store", *[file if word == "FILE" else word for word in words]]
    config = parse(PrepareConfig, words, prog="horovod-asl prepare", description=None)
    assert (config.test, config.places) == (held, ("photos", "store"))


def test_yaml_and_flags_mean_the_same(tmp_path: Path) -> None:
    text = "epochs: 3\nrun-folder: runs/a b\noptimizer:\n  learning_rate: 1e-3\n  clip_norm: null\n"
    text += "augment: {augment: false}\n"
    flags = ("--epochs", "3", "--run-folder", "runs/a b", "--learning-rate", "0.001", "--clip-norm", "None")
    assert train_config("--config", yaml_file(tmp_path, text)) == train_config(*flags, "--no-augment")


@pytest.mark.parametrize(
    "text",
    [
        "learning_rate: 0.001\nmodel: resnet18\naugment: false\nbackend: ddp\n",
        "lr: 0.001\narch: resnet18\naugment: {augment: false}\nbackend: ddp\n",
        "learning-rate: 1.0e-3\noptimizer: {learning_rate: 0.001}\nmodel: {model: resnet18}\naugment: false\n"
        "execution: {backend: ddp}\n",
    ],
)
def test_keys_may_stand_at_the_top_as_well_as_in_their_section(text: str, tmp_path: Path) -> None:
    flags = ("--learning-rate", "0.001", "--model", "resnet18", "--no-augment", "--backend", "ddp")
    assert train_config("--config", yaml_file(tmp_path, text)) == train_config(*flags)


def test_no_two_sections_have_an_option_of_the_same_name() -> None:
    names = [option.name for option in options_of(TrainConfig)]
    assert len(set(names)) == len(names)


def test_a_flag_right_of_the_file_wins_and_one_left_of_it_loses(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "epochs: 3\n")
    assert train_config("--config", file, "--epochs", "5").epochs == 5
    assert train_config("--epochs", "5", f"--config={file}").epochs == 3


def test_of_two_files_the_right_one_wins(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("epochs: 7\nseed: 1\n")
    first = yaml_file(tmp_path, "epochs: 3\nkeep_top: 9\n")
    config = train_config("--config", first, "--config", str(tmp_path / "other.yaml"))
    assert (config.epochs, config.seed, config.keep_top) == (7, 1, 9)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("epoch: 3", "no option 'epoch': did you mean epochs?"),
        ("optimizer: {learning_rat: 3}", "optimizer: unknown key 'learning_rat'; did you mean learning_rate?"),
        ("optimizer: {epochs: 3}", "optimizer: unknown key 'epochs'"),
        ("seed: 3\nlr: 3\noptimizer: {lr: 4}", "'lr' is 3 and 'optimizer: lr' is 4: leave one of the two out"),
        ("learning_rate: 3\nlr: 4", "'learning_rate' is 3 and 'lr' is 4: leave one of the two out"),
        ("epochs: 3\nepochs: 4", "'epochs' stands there twice"),
        ("optimizer: {momentum: 0.5, momentum: 0.6}", "'momentum' stands there twice"),
        ("workers: 3", "there are no loader workers"),
        ("data_dir: photos", "here it is store"),
        ("1: 2", "no option '1'"),
        ("epochs: three", "--epochs"),
        ("seed: 2.5", "--seed"),
        ("epochs: true", "'epochs' needs a value"),
        ("epochs: null", "--epochs"),
        ("epochs: [1, 2]", "'epochs' takes one value"),
        ("epochs: 0", "--epochs must be above 0 and finite, not 0"),
        ("augment: {augment: 3}", "'augment: augment' must be true or false, not 3"),
        ("epochs: {a: 1}", "'epochs' takes one value"),
        ("augment: 3", "'augment' must be true or false, not 3"),
        ("execution: 3", "no option 'execution'"),
        ("execution: {backend: mpi}", "mpi"),
        ("- epochs", "must be a mapping"),
        ("", "must be a mapping"),
        ("epochs: [1", "not YAML"),
    ],
)
def test_yaml_that_does_not_fit_is_refused_in_one_line(
    text: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert part in refusal(capsys, "train", "--config", yaml_file(tmp_path, text))


def test_a_config_that_is_missing_a_folder_or_binary_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "No such file" in refusal(capsys, "train", "--config", str(tmp_path / "none.yaml"))
    assert "directory" in refusal(capsys, "train", "--config", str(tmp_path))
    assert "not YAML" in refusal(capsys, "train", "--config", str(tmp_path / "binary.yaml"))


def test_a_value_that_begins_with_a_dash_survives_the_file(tmp_path: Path) -> None:
    config = train_config("--run-folder=-dashed=odd")
    assert str(config.run_folder) == "-dashed=odd"
    assert train_config("--config", yaml_file(tmp_path, to_yaml(config))) == config


# -- the program ----------------------------------------------------------------------------------------------


def test_an_unknown_command_is_refused_and_the_known_ones_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = refusal(capsys, "tran")
    assert "'tran'" in line
    assert all(command in line for command in COMMANDS)


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["-h"], 0), (["help"], 0), ([], 2)])
def test_usage_names_every_command(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(argv=words)
    assert left.value.code == code
    listed = capsys.readouterr().out
    assert all(f"  {command} " in listed for command in COMMANDS)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(argv=["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"horovod-asl {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_manual(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(argv=[command, "--help"])
    assert left.value.code == 0
    assert f"horovod-asl {command}" in capsys.readouterr().out


def test_a_rank_says_which_it_is_and_leaves_with_the_same_code() -> None:
    finished = subprocess.run(
        [sys.executable, "train.py", "--epochs", "0"],
        cwd=ROOT,
        env=clean_environment(OMPI_COMM_WORLD_RANK="3", OMPI_COMM_WORLD_SIZE="4"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 2
    assert finished.stderr == "error: rank 3: --epochs must be above 0 and finite, not 0\n"


# -- ~ --------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that is empty."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def config_of(command: str) -> type[Any]:
    """The dataclass of a command's flags."""
    if command == "train":
        return TrainConfig
    module = importlib.import_module(f"horovod_asl.commands.{command}")
    return getattr(module, f"{command.capitalize()}Config")  # type: ignore[no-any-return]


def fields_of(config: Any) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """Every option and its value, those of groups included."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        yield from fields_of(value) if dataclasses.is_dataclass(value) else [(field, value)]


# What makes each command's configuration, with `~` in every path that it takes.
EVERY_PATH = {
    "prepare": "~/photos NAME=~/photos ~/store --classes=~/classes.txt",
    "inspect": "~/store --contact-sheet=~/a.png --json=~/a.json",
    "live": "--tls-cert=~/cert.pem --tls-key=~/key.pem",
    "train": "--store=~/store --run-folder=~/run --resume=~/run --cache-features=~/f --train=head "
    "--pretrained=~/weights.pt",
    "evaluate": "~/run ~/photos --json=~/a.json --report=~/report --classes=~/classes.txt",
    "predict": "~/run ~/photo.jpg ~/photos",
    "translate": "~/film.mp4 --json=~/a.json --srt=~/a.srt --speak=~/a.wav --annotate=~/a.mp4",
    "draw": "HELLO ~/a.mp4",
    "export": "~/run ~/model.onnx",
    "crossval": "~/store --by=source --out=~/out --store=~/store --run-folder=~/run --resume=~/run "
    "--cache-features=~/f --train=head --pretrained=~/weights.pt",
    "compare": "--out=~/out --store=~/store",
    "doctor": "",
}
EXPORT_BUNDLE = {"bundle", "scores", "notes"}  # not together with OUT


def test_no_command_is_left_out_below() -> None:
    assert EVERY_PATH.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", EVERY_PATH)
def test_every_path_of_every_command_has_its_home(command: str, home: Path) -> None:
    config = parse(config_of(command), EVERY_PATH[command].split(), prog="", description=None)
    empty = EXPORT_BUNDLE if command == "export" else set()
    for field, value in fields_of(config):
        if "Path" in str(field.type) or field.metadata:
            assert (field.name in empty) == (not value), f"{command} {field.name}: give it a value above"
            for item in value if isinstance(value, tuple) else (value,) if value else ():
                assert str(item).removeprefix("NAME=").startswith(f"{home}/"), field.name


def test_a_box_and_its_papers_have_their_home_too(home: Path) -> None:
    words = ["~/run", "--bundle=~/box", "--scores", "~/a.json", "~/b.json", "--notes=~/n.md"]
    config = parse(config_of("export"), words, prog="", description=None)
    assert (config.bundle, config.notes) == (home / "box", home / "n.md")
    assert config.scores == (home / "a.json", home / "b.json")


def test_yaml_has_homes_as_flags_have_and_saves_them_in_full(tmp_path: Path, home: Path) -> None:
    file = yaml_file(tmp_path, "data: {store: ~/asl}\nrun_folder: ~/run\n")
    config = train_config(f"--config={file}")
    assert (config.data.store, config.run_folder) == (home / "asl", home / "run")
    assert f"store: {home}/asl" in to_yaml(config)


def test_the_config_file_itself_may_lie_at_home(home: Path) -> None:
    home.mkdir()
    yaml_file(home, "epochs: 3\n")
    assert train_config("--config=~/my.yaml").epochs == 3


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("prepare", "synthetic", "~nobody9/s"), "~nobody9/s: there is no user nobody9 on this machine"),
        (("prepare", "N=~nobody9/s", "s"), "~nobody9/s: there is no user nobody9 on this machine"),
        (("train", "--store=~nobody9/s"), "~nobody9/s: there is no user nobody9 on this machine"),
    ],
)
def test_the_home_of_nobody_is_refused_before_a_folder_of_that_name_is_made(
    words: tuple[str, ...],
    part: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert part in refusal(capsys, *words)
    assert not list(tmp_path.iterdir())


def test_a_file_whose_name_begins_with_a_tilde_is_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~photo.jpg").touch()
    assert expand_home("~photo.jpg") == "~photo.jpg"
    assert expand_home("photos/~a.jpg") == "photos/~a.jpg"
    assert expand_home("./~photo.jpg") == "./~photo.jpg"
