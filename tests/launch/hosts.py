"""Two hosts on one machine: each with its own network, name, processes, /etc/hosts and sshd, joined by a cable.

A host is process 1 of its own PID namespace, so it dies whole; and it dies with the process that runs the tests,
however that ends (PR_SET_PDEATHSIG). Nothing is put in the machine's own /etc, /run or network: mounts are the
host's own, and the cable's two ends, both called eth0, are born inside the two hosts and vanish with them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.launching import ROOT

ADDRESSES = {"alpha": "10.77.0.1", "beta": "10.77.0.2"}
"""The two hosts. No other network is reachable from theirs, so these clash with nothing."""

_NAMESPACES = ["--mount", "--uts", "--net", "--pid"]

# What process 1 of a host does; it goes on when the cable is plugged in (a line on its standard input).
_BOOT = """
set -e
exec 2>"$1/$2.log"
hostname "$2"
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd
mount --bind "$1/hosts" /etc/hosts
mount --bind "$1/ssh" /etc/ssh
ip link set lo up
read -r
/usr/sbin/sshd -D -e -f /etc/ssh/sshd_config &
until ssh -n "$2" true 2>/dev/null; do sleep 0.05; done
echo ready
wait
"""

_SSHD = """
HostKey /etc/ssh/key
AuthorizedKeysFile /etc/ssh/key.pub
PasswordAuthentication no
UsePAM no
StrictModes no
UseDNS no
"""

_SSH = """
Host *
  IdentityFile /etc/ssh/key
  GlobalKnownHostsFile /etc/ssh/known_hosts
  UserKnownHostsFile /dev/null
  BatchMode yes
  LogLevel ERROR
"""


@dataclass(frozen=True)
class Host:
    """A host that runs. `pid` is its process 1, as this machine counts."""

    name: str
    pid: int

    def words(self, **environment: str) -> list[str]:
        """The words before a command that run it on this host, in the checkout."""
        inside = ["nsenter", "--target", str(self.pid), *_NAMESPACES, "env", f"--chdir={ROOT}"]
        return [*inside, *(f"{name}={value}" for name, value in environment.items())]

    def mount(self, source: Path, target: Path) -> None:
        """On this host alone, let `target` be `source`."""
        _run("nsenter", "--target", str(self.pid), "--mount", "mount", "--bind", str(source), str(target))

    def link(self, state: str) -> None:
        _run("nsenter", "--target", str(self.pid), "--net", "ip", "link", "set", "eth0", state)


@dataclass(frozen=True)
class Hosts:
    """Both hosts, and the cable."""

    alpha: Host
    beta: Host

    def cut(self) -> None:
        """Pull the cable: packets vanish, no connection is closed."""
        self.beta.link("down")

    def restore(self) -> None:
        self.beta.link("up")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """alpha and beta, with ssh between them without a password, and this machine's files."""
    require_hosts()
    with two_hosts(tmp_path / "hosts") as both:
        yield both


def require_hosts() -> None:
    """Fail where something is to be installed; skip where the machine has no namespaces to give."""
    missing = [
        tool for tool in ("ip", "unshare", "nsenter", "setpriv", "ssh-keygen") if not shutil.which(tool)
    ]
    missing += [] if Path("/usr/sbin/sshd").exists() else ["sshd"]
    if missing:
        pytest.fail(f"no {', '.join(missing)}: run `make setup-launch`", pytrace=False)
    if os.geteuid() != 0:
        pytest.fail("two hosts on one machine need root: run `sudo make test-launch`", pytrace=False)
    trial = ["unshare", *_NAMESPACES, "--fork", "--mount-proc"]
    trial += ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"]
    tried = subprocess.run(trial, capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"this machine gives no namespaces or no veth pair: {tried.stderr.strip()}")


@contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """Start both hosts with their files in `folder`; both are ended with all that runs on them."""
    _write_files(folder)
    holders: list[subprocess.Popen[str]] = []
    try:
        for name in ADDRESSES:
            holders.append(_boot(name, folder))
        hosts = [Host(name, _process_1(holder)) for name, holder in zip(ADDRESSES, holders, strict=True)]
        _plug_in(*hosts)
        for host, holder in zip(hosts, holders, strict=True):
            _wait_until_ready(host, holder, folder)
        yield Hosts(*hosts)
    finally:
        for holder in holders:
            _end(holder)


def _write_files(folder: Path) -> None:
    (folder / "ssh").mkdir(parents=True)
    names = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "horovod_asl tests", "-f", f"{folder}/ssh/key")
    public = (folder / "ssh" / "key.pub").read_text()
    (folder / "ssh" / "known_hosts").write_text(f"{','.join(ADDRESSES)} {public}")
    (folder / "ssh" / "sshd_config").write_text(_SSHD)
    (folder / "ssh" / "ssh_config").write_text(_SSH)


def _boot(name: str, folder: Path) -> subprocess.Popen[str]:
    words = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        *_NAMESPACES,
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]
    return subprocess.Popen(
        [*words, "bash", "-c", _BOOT, "bash", folder, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _process_1(holder: subprocess.Popen[str]) -> int:
    """The child of unshare; it exists once unshare has forked."""
    unshare = psutil.Process(holder.pid)
    while holder.poll() is None:
        for child in unshare.children():
            return child.pid
    raise AssertionError(f"unshare ended with {holder.returncode}")


def _plug_in(alpha: Host, beta: Host) -> None:
    ends = ["eth0", "netns", str(alpha.pid), "type", "veth", "peer", "name", "eth0", "netns", str(beta.pid)]
    _run("ip", "link", "add", *ends)
    for host in (alpha, beta):
        inside = ["nsenter", "--target", str(host.pid), "--net", "ip"]
        _run(*inside, "address", "add", f"{ADDRESSES[host.name]}/24", "dev", "eth0")
        host.link("up")


def _wait_until_ready(host: Host, holder: subprocess.Popen[str], folder: Path) -> None:
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write("\n")
    holder.stdin.flush()
    if holder.stdout.readline() != "ready\n":
        log = (folder / f"{host.name}.log").read_text()
        raise AssertionError(f"the host {host.name} did not start:\n{log}")


def _end(holder: subprocess.Popen[str]) -> None:
    """Kill unshare, with it process 1 of the host, and with that all that runs there."""
    if holder.poll() is None:
        holder.send_signal(signal.SIGKILL)
    holder.wait()
    for pipe in (holder.stdin, holder.stdout):
        if pipe is not None:
            pipe.close()


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
