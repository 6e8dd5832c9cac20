"""Machines as they really are: long TMPDIR, other systems, streams, users and file systems than the developers'."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file

from horovod_asl.__main__ import COMMANDS
from horovod_asl.engine import feature_cache
from horovod_asl.errors import UserError
from horovod_asl.labels import CLASSES
from horovod_asl.photos import workers
from horovod_asl.prepare.chunks import read_records, write_records
from horovod_asl.reports import machine
from horovod_asl.runs import checkpoint
from horovod_asl.store import mapping
from horovod_asl.store.store import Store
from horovod_asl.system import streams
from tests.conftest import draw_photo
from tests.launching import BIN, ROOT, clean_environment


def run(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python WORDS` to its end."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )


def folder_of_length(parent: Path, length: int) -> Path:
    """A new folder whose path has so many characters."""
    folder = parent / ("t" * (length - len(str(parent)) - 1))
    folder.mkdir()
    assert len(str(folder)) == length
    return folder


# -- TMPDIR ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "where"), [(71, "TMPDIR"), (72, "/tmp"), (200, "/tmp")])
def test_workers_start_however_long_the_path_of_tmpdir_is(length: int, where: str) -> None:
    program = (
        "import multiprocessing.util, os\nfrom horovod_asl.photos.workers import process_pool\n"
        "for _ in range(2):\n"
        "    with process_pool(1) as pool:\n        assert pool.submit(os.getpid).result() != os.getpid()\n"
        "print(multiprocessing.util.get_temp_dir())"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        folder = folder_of_length(Path(short), length)
        done = run("-c", program, TMPDIR=str(folder))
        assert done.returncode == 0, done.stderr
        made = Path(done.stdout.strip())
        assert made.parent == (folder if where == "TMPDIR" else Path("/tmp"))
        assert done.stderr.count("note: the path of TMPDIR is too long for sockets") == (where == "/tmp")
        assert not made.exists()


def test_no_folder_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """`gettempdir` is a mock that finds none, as in a container whose every disk is read-only."""

    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    workers._make_socket_folder.cache_clear()
    with pytest.raises(UserError, match="name a folder with a short path in TMPDIR"):
        workers.process_pool(1)


# -- streams --------------------------------------------------------------------------------------------------

ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


def asl(*words: str | Path) -> list[str]:
    return [str(BIN / "horovod-asl"), *map(str, words)]


def bash(script: str, *words: str | Path | bytes, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """`bash -c SCRIPT`, in which `"$@"` stands for `horovod-asl WORDS`."""
    command = ["bash", "-c", script, "bash", str(BIN / "horovod-asl"), *words]
    return subprocess.run(command, env=clean_environment(**variables), capture_output=True, timeout=60)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_manual_can_be_read_on_a_terminal_that_knows_ascii_alone(command: str) -> None:
    done = subprocess.run(
        asl(*command.split(), "--help"), env=clean_environment(**ASCII), capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"\\u" not in done.stdout  # each character that we write has a plain form
    assert b"usage: horovod-asl" in done.stdout


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [
        ("ascii", "a × b – 手…", b"a x b - \\u624b..."),
        ("latin-1", "é × 手", b"\xe9 \xd7 \\u624b"),
        ("utf-8", "é 手", "é 手".encode()),
        ("utf-8", "caf\udce9.jpg", b"caf\xe9.jpg"),  # a name in Latin-1, as Python holds it
        ("ascii", "caf\udce9.jpg …", b"caf\xe9.jpg ..."),
    ],
)
def test_what_an_encoding_lacks_is_replaced_and_names_keep_their_bytes(
    encoding: str, text: str, written: bytes
) -> None:
    program = f"from horovod_asl.system import streams\nstreams.make_usable()\nprint({text!a}, end='')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(PYTHONIOENCODING=encoding),
        capture_output=True,
        timeout=30,
        cwd=ROOT,
    )
    assert done.stdout == written, done.stderr


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, small_store: Path) -> Path:
    """A run of one epoch, which knows little."""
    path = tmp_path_factory.mktemp("runs") / "run"
    words = ("train", "--store", small_store, "--epochs", "1", "--run-folder", path)
    assert run("-m", "horovod_asl", *words).returncode == 0
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one photo of each class and one file that is none, whose names are Latin-1."""
    folder = tmp_path_factory.mktemp("names") / os.fsdecode(b"ordner-\xe4")
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        with (folder / name / os.fsdecode(b"foto-\xe9.jpg")).open("wb") as file:
            draw_photo(number).save(file, "JPEG")
    (folder / "A" / os.fsdecode(b"kein-\xe9.jpg")).write_bytes(b"nothing")
    return folder


@pytest.mark.parametrize("variables", [ASCII, {"LC_ALL": "C.UTF-8"}], ids=["ascii", "utf-8"])
def test_names_that_are_not_utf_8_pass_through_predict(
    photos: Path, variables: dict[str, str], run_folder: Path
) -> None:
    answered = bash('"$@"', "predict", run_folder, photos, **variables)
    assert answered.returncode == 1  # one file is no photo
    assert answered.stdout.count(b"foto-\xe9.jpg") == len(CLASSES)
    assert b"kein-\xe9.jpg: not a picture" in answered.stderr

    listed = bash('find "$4" -name "foto*" | "$1" "$2" "$3" -', "predict", run_folder, photos, **variables)
    assert (listed.returncode, listed.stderr) == (0, b"")
    assert sorted(listed.stdout.splitlines())[0].startswith(bytes(photos) + b"/A/foto-\xe9.jpg  ")


def test_names_that_are_not_utf_8_pass_into_scores_and_report(
    photos: Path, run_folder: Path, tmp_path: Path
) -> None:
    words = ("evaluate", run_folder, photos, "--json", tmp_path / "a.json", "--report", tmp_path / "report")
    scored = bash('"$@"', *words, **ASCII)
    assert scored.returncode == 0, scored.stderr
    scores = json.loads((tmp_path / "a.json").read_bytes())
    assert scores["n"] == len(CLASSES)
    assert os.fsencode(scores["photos"]) == bytes(photos)  # JSON escapes the byte as Python does
    assert b" on ordner-\xe4" in (tmp_path / "report" / "report.html").read_bytes()


def test_a_run_folder_is_refused_whose_name_its_writers_cannot_take(
    small_store: Path, tmp_path: Path
) -> None:
    words = ("train", "--store", small_store, "--run-folder", tmp_path / os.fsdecode(b"lauf-\xe9"))
    done = bash('"$@"', *words)
    assert done.returncode == 2
    assert b"take no name that is not UTF-8" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_name_that_the_locale_cannot_spell_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("run_folder: läufe/ü\n", encoding="utf-8")
    done = bash('"$@"', "train", "--config", tmp_path / "my.yaml", **ASCII)
    assert done.returncode == 2
    assert b"set LC_ALL=C.UTF-8" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "words", [["--help"], ["prepare", "--help"], ["inspect", "STORE"]], ids=" ".join
)
def test_a_reader_that_leaves_is_not_an_error(words: list[str], unbuffered: str, small_store: Path) -> None:
    given = [str(small_store) if word == "STORE" else word for word in words]
    done = bash('"$@" | true; exit ${PIPESTATUS[0]}', *given, PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (streams.BROKEN_PIPE, b"")


def test_a_broken_pipe_that_is_not_of_the_output_is_not_hidden() -> None:
    program = (
        "import os, horovod_asl.__main__ as program\n"
        "def fail(*words):\n    ours, others = os.pipe()\n    os.close(ours)\n    os.write(others, b'x')\n"
        "program._command = fail\nprogram.main('doctor', [])"
    )
    done = run("-c", program)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("words", [["--help"], ["inspect", "STORE"]], ids=" ".join)
def test_output_into_a_full_disk_is_one_line(words: list[str], unbuffered: str, small_store: Path) -> None:
    given = [str(small_store) if word == "STORE" else word for word in words]
    done = bash('"$@" >/dev/full', *given, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    assert done.stderr == b"error: the output cannot be written (No space left on device)\n"


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_no_error(closed: str, small_store: Path, tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    done = bash(f'"$@" {closed}', "inspect", str(small_store), "--json", facts)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(facts.read_text())["photos"] == 29 * 8  # and nothing that was printed is in it


# -- a file system that refuses memory maps -------------------------------------------------------------------


@pytest.fixture
def no_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mmap.mmap` is a mock that answers as FUSE does with direct I/O."""

    def refuse(*words: object, **options: object) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(mmap, "mmap", refuse)
    mapping._say_once.cache_clear()


def test_a_store_that_cannot_be_mapped_is_read_into_memory_and_says_so(
    small_store: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    rows = np.array([5, 0, 231])
    mapped = Store.open(small_store)
    expected = mapped.gather(rows)
    assert mapped.is_mapped
    request.getfixturevalue("no_maps")
    store = Store.open(small_store)
    np.testing.assert_array_equal(store.gather(rows), expected)
    assert not store.is_mapped
    size = (small_store / "images-00000.npy").stat().st_size
    assert size == 232 * 32 * 32 * 3 + 128
    line = f"note: the file system of {small_store} refuses memory maps; its files are read into memory"
    assert capsys.readouterr().err == f"{line} ({size / 2**30:.2f} GiB)\n"


@pytest.mark.usefixtures("no_maps")
def test_a_store_that_does_not_fit_into_memory_is_refused(
    small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(UserError, match="copy the folder to a local disk"):
        Store.open(small_store).gather(np.arange(2))


@pytest.mark.usefixtures("no_maps")
def test_chunks_that_cannot_be_mapped_are_not_taken_for_damaged(tmp_path: Path) -> None:
    records = np.arange(6, dtype=np.int64)
    write_records(str(tmp_path / "chunk"), records)
    (file,) = tmp_path.iterdir()
    read = read_records(file, records.dtype, check=True)
    assert read is not None
    assert read.tolist() == records.tolist()


def test_a_file_that_is_missing_is_not_taken_for_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mapping.open_arrays([tmp_path / "none.npy"])


@pytest.mark.usefixtures("no_maps")
def test_features_are_refused_before_any_is_computed_and_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made, fault = feature_cache._make_file(1000, None)
    assert made is None
    assert f"the file system of {tmp_path}" in str(fault)
    assert "name a folder on a local disk in TMPDIR" in str(fault)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_maps")
def test_weights_are_read_without_a_map(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3.0)}, tmp_path / "weights.safetensors")
    assert checkpoint.load_weights(tmp_path)["a"].tolist() == [0.0, 1.0, 2.0]


# -- macOS ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def like_macos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python, and of those that it starts, which lacks what macOS lacks (a mock)."""
    folder = tmp_path_factory.mktemp("macos")
    lacking = ("sched_getaffinity", "sched_setaffinity", "posix_fallocate", "posix_fadvise")
    (folder / "sitecustomize.py").write_text(f"import os\nfor name in {lacking}:\n    delattr(os, name)\n")
    return {"PYTHONPATH": str(folder)}


def test_prepare_and_predict_do_without_what_linux_alone_has(
    like_macos: dict[str, str], run_folder: Path, tmp_path: Path
) -> None:
    words = ("synthetic", tmp_path / "store", "--image-size", "32", "--synthetic-photos", "1", "--no-hands")
    done = run("-m", "horovod_asl", "prepare", *words, **like_macos)
    assert done.returncode == 0, done.stderr
    draw_photo(1).save(tmp_path / "photo.jpg")
    done = run("-m", "horovod_asl", "predict", run_folder, tmp_path / "photo.jpg", **like_macos)
    assert done.returncode == 0, done.stderr


def test_the_doctor_does_without_what_linux_alone_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(Path, "is_dir", lambda self: False)  # there is no /dev/shm
    devices = machine.devices({})
    assert devices["cores"]["usable"] >= 1
    assert devices["memory_gib"] is None
    assert "dev_shm_gib" not in machine.storage()


@pytest.mark.parametrize("errors", [None, errno.EOPNOTSUPP], ids=["macOS", "a file system that cannot"])
def test_room_is_taken_with_zeros_where_it_cannot_be_reserved(
    errors: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: object) -> None:
        raise OSError(errors, "not supported")

    if errors is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    with (tmp_path / "table").open("w+b") as file:
        feature_cache._reserve(file, 3 * 2**20 + 5)
    status = (tmp_path / "table").stat()
    assert status.st_size == 3 * 2**20 + 5
    assert status.st_blocks * 512 >= status.st_size


# -- users and folders ----------------------------------------------------------------------------------------


def nobody(*words: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command run by a user without an entry in passwd and without HOME, who may read everything."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, with setpriv")
    may = "+dac_read_search"  # the environment may lie where root alone may look
    who = ("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", f"--inh-caps={may}")
    unset = ("env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME", "-u", "USERNAME", "-u", "XDG_CACHE_HOME")
    return subprocess.run(
        [*who, f"--ambient-caps={may}", *unset, *map(str, words)],
        env=clean_environment(PYTHONPATH=str(ROOT), **variables),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
    )


def test_a_user_without_a_name_gets_one_for_torch_and_its_like() -> None:
    program = (
        "import getpass, horovod_asl.__main__ as program\n"
        "program._command = lambda *words: print(getpass.getuser()) or 0\nprogram.main('doctor', [])"
    )
    done = nobody(sys.executable, "-c", program, cwd=ROOT)
    assert done.stdout == "uid-12345\n", done.stderr


def test_a_user_without_a_home_can_predict_and_learns_what_the_sample_needs(run_folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        work = Path(folder)
        draw_photo(1).save(work / "photo.jpg")
        (work / "~").mkdir()  # what programs leave that expand nothing: no home
        work.chmod(0o777)
        done = nobody(BIN / "horovod-asl", "predict", run_folder, work / "photo.jpg", cwd=work)
        assert done.returncode == 0, done.stderr
        done = nobody(BIN / "horovod-asl", "train", "--run-folder", work / "run", cwd=work)
        assert done.returncode == 2
        assert "set HOME" in done.stderr
        assert "HOROVOD_ASL_SAMPLE" in done.stderr
        assert done.stderr.count("\n") == 1


def test_what_may_not_be_written_is_one_line_that_names_it() -> None:
    program = (
        "import horovod_asl.__main__ as program\n"
        "def fail(*words):\n    raise PermissionError(13, 'Permission denied', '/runs/a/run.json')\n"
        "program._command = fail\nprogram.main('doctor', [])"
    )
    done = run("-c", program)
    assert (done.returncode, done.stderr) == (2, "error: /runs/a/run.json: Permission denied\n")


def test_a_working_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = bash(f'cd {gone}; rmdir {gone}; "$@"', "doctor")
    assert done.returncode == 2
    assert done.stderr == b"error: the working folder was removed: go to another, with `cd`\n"
