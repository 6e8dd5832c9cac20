"""launch/setup_launch.sh with a stand-in for apt-get: what it asks for, and that no service starts meanwhile."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ESSENTIALS = "bash dirname tr sed grep ls cat tail xargs rm tee chmod env comm id echo"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with the script, a PATH of essentials, and an apt-get that installs nothing but shows the policy."""
    script = (ROOT / "launch" / "setup_launch.sh").read_text()
    script = script.replace("/usr/sbin/policy-rc.d", str(tmp_path / "policy-rc.d"))
    script = script.replace("export PATH=$PATH:/usr/sbin:/sbin", "")
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "setup_launch.sh").write_text(script)
    (tmp_path / "bin").mkdir()
    for name in ESSENTIALS.split():
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    stand_in(tmp_path, "id", "echo 0")
    stand_in(tmp_path, "apt-get", f'echo "$*" >>asked; bash {tmp_path}/policy-rc.d; echo "policy $?" >>asked')
    return tmp_path


def stand_in(machine: Path, name: str, script: str) -> None:
    path = machine / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


def set_up(machine: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", "launch/setup_launch.sh"]
    environment = {"PATH": str(machine / "bin")}
    return subprocess.run(command, cwd=machine, env=environment, capture_output=True, text=True)


def test_only_what_is_missing_is_asked_for_and_services_are_kept_from_starting(machine: Path) -> None:
    stand_in(machine, "buildah", "")
    answer = set_up(machine)
    assert answer.returncode == 1
    assert "still missing after the installation: slurmctld" in answer.stderr
    update, policy, install, _ = (machine / "asked").read_text().splitlines()
    assert update.endswith("update")
    assert policy == "policy 101"
    assert "slurmctld slurmd slurm-client munge openssh-server" in install
    assert "buildah" not in install
    assert not (machine / "policy-rc.d").exists()


def test_an_administrator_s_own_policy_stays(machine: Path) -> None:
    (machine / "policy-rc.d").write_text("exit 104\n")
    set_up(machine)
    assert (machine / "policy-rc.d").read_text() == "exit 104\n"


def test_a_failure_shows_its_reason_and_leaves_no_policy(machine: Path) -> None:
    stand_in(machine, "apt-get", "echo E: no room on the disk; exit 100")
    answer = set_up(machine)
    assert answer.returncode == 1
    assert "E: no room on the disk" in answer.stderr
    assert not (machine / "policy-rc.d").exists()


def test_an_ordinary_user_is_told_what_an_administrator_must_run(machine: Path) -> None:
    stand_in(machine, "id", "echo 1000")
    answer = set_up(machine)
    assert answer.returncode == 1
    assert "apt-get install slurmctld slurmd" in answer.stderr
    assert not (machine / "asked").exists()
