"""What the lane is made of, fetched by name through the system's clients and checked by sha256."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeq.errors import EdgeqError, UnsupportedError
from edgeq.files import sha256_file
from edgeq.runtime.arm64.clients import Clients, run_client

ROOT_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
"""ARM64 packages of the emulated system; apt adds what they depend on."""

EMULATOR_PACKAGES = ("qemu-user-static", "qemu-user")
"""Where distributions keep the static emulator, older ones first."""

EMULATOR_NAMES = ("qemu-aarch64-static", "qemu-aarch64")
LANE_REQUIREMENTS = ("numpy", "protobuf", "flatbuffers", "packaging")
"""What the onnxruntime wheel imports, besides itself."""

_MANYLINUX = ("2_28", "2_27", "2_17", "2014")
_URI_LINE = re.compile(r"^'[^']+' (?P<file>\S+\.deb) \d+ SHA256:(?P<sha256>[0-9a-f]{64})$")
_PYTHON_PACKAGE = re.compile(r"^python(3\.\d+)-minimal_")

# All of apt's state goes into the lane's folder, so nothing needs or changes the system's. The sandbox user
# could not write there.
_APT_CONFIG = """\
#clear APT::Architectures;
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; "{host}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Update::Post-Invoke-Success "";
Acquire::ForceHash "SHA256";
Acquire::Languages "none";
Debug::NoLocking "true";
Dir::State "{folder}/state";
Dir::State::status "/dev/null";
Dir::Cache "{folder}/cache";
Dir::Log "{folder}/log";
{sources}
"""
_APT_SOURCES = 'Dir::Etc::sourcelist "{file}";\nDir::Etc::sourceparts "/dev/null";'


@dataclass(frozen=True, slots=True)
class Apt:
    """`apt-get` for ARM64 packages, with its state under `folder`."""

    clients: Clients
    folder: Path
    sources: Path | None = None

    @property
    def archives(self) -> Path:
        """Where downloaded packages lie."""
        return self.folder / "cache" / "archives"

    def run(self, *arguments: str, purpose: str) -> str:
        """Run apt-get with the lane's configuration in the folder of archives; returns stdout."""
        return self._run(arguments, purpose, self.archives)

    def expected(self, *arguments: str, purpose: str) -> dict[str, str]:
        """Sha256 by file name of what `arguments` would download, as the signed package lists have it."""
        # apt leaves out of its list what it already has: ask from a place where it has nothing.
        elsewhere = self.folder / "query"
        listing = ("--print-uris", f"-oDir::Cache::archives={elsewhere}")
        return parse_uris(self._run((*arguments, *listing), purpose, elsewhere))

    def _run(self, arguments: Sequence[str], purpose: str, folder: Path) -> str:
        command = [*self.clients.apt_get, "-q", "-y", *arguments]
        return run_client(command, purpose, folder=folder, env={"APT_CONFIG": str(self.folder / "apt.conf")})

    def prepare(self) -> None:
        """Write the configuration and the folders apt expects."""
        for name in ("state/lists/partial", "cache/archives/partial", "query/partial", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        sources = _APT_SOURCES.format(file=self.sources.resolve()) if self.sources else ""
        text = _APT_CONFIG.format(folder=self.folder, host="amd64", sources=sources)
        (self.folder / "apt.conf").write_text(text)

    def update(self) -> str | None:
        """Fetch the package lists; a failure is returned: a third-party source without ARM64 is no harm."""
        try:
            self.run("update", purpose="fetching the package lists")
        except EdgeqError as error:
            return error.message
        return None


def download_packages(apt: Apt) -> dict[str, str]:
    """Fetch the root's packages; returns sha256 by file name, as the signed package lists have it.

    Raises:
        EdgeqError: a package cannot be had, or a file is not what the lists say.
    """
    apt.prepare()
    failed_update = apt.update()
    try:
        expected = apt.expected("install", *ROOT_PACKAGES, purpose="finding ARM64 packages")
    except EdgeqError as error:
        raise _no_packages(failed_update or error.message) from error
    drop_corrupted(apt.archives, expected)
    apt.run("install", "--download-only", *ROOT_PACKAGES, purpose="downloading ARM64 packages")
    require_intact(apt.archives, expected)
    return expected


def download_emulator(apt: Apt, package: str) -> dict[str, str]:
    """Fetch the Debian package with the emulator for this host; returns sha256 by file name."""
    arguments = ("download", f"{package}:amd64")
    expected = apt.expected(*arguments, purpose=f"finding `{package}`")
    drop_corrupted(apt.archives, expected)
    apt.run(*arguments, purpose=f"downloading `{package}`")
    require_intact(apt.archives, expected)
    return expected


def find_emulator() -> Path | None:
    """An ARM64 user-mode emulator on PATH."""
    for name in EMULATOR_NAMES:
        if path := shutil.which(name):
            return Path(path).resolve()
    return None


def download_wheels(
    clients: Clients, folder: Path, *, python: str, onnxruntime: str, known: dict[str, str]
) -> dict[str, str]:
    """Fetch the ARM64 wheels into `folder`; returns sha256 by file name.

    Args:
        clients: the package clients.
        folder: created if needed.
        python: version of the emulated Python.
        onnxruntime: version to fetch.
        known: sha256 of wheels an earlier attempt recorded; those that differ are fetched again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drop_corrupted(folder, known)
    platforms = [f"--platform=manylinux_{name}_aarch64" for name in _MANYLINUX if "_" in name]
    platforms += [f"--platform=manylinux{name}_aarch64" for name in _MANYLINUX if "_" not in name]
    command = [*clients.pip, "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", f"--python-version={python}", "--implementation=cp"]
    command += [*platforms, f"--dest={folder}", f"onnxruntime=={onnxruntime}", *LANE_REQUIREMENTS]
    purpose = f"downloading the ARM64 wheels of onnxruntime {onnxruntime} for Python {python}"
    # pip unpacks in TMPDIR: keep that inside the cache too.
    temporary = folder.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    run_client(command, purpose, folder=folder, env={"TMPDIR": os.fspath(temporary)})
    return {path.name: sha256_file(path) for path in sorted(folder.glob("*.whl"))}


def parse_uris(listing: str) -> dict[str, str]:
    """Sha256 by file name out of `apt-get --print-uris`."""
    matches = (_URI_LINE.match(line) for line in listing.splitlines())
    return {match["file"]: match["sha256"] for match in matches if match}


def python_version(packages: dict[str, str]) -> str:
    """Version of the Python among the packages, such as `3.11`.

    Raises:
        EdgeqError: there is none.
    """
    for name in packages:
        if match := _PYTHON_PACKAGE.match(name):
            return match[1]
    raise EdgeqError(
        f"no ARM64 Python among the packages: got {', '.join(sorted(packages)) or 'none'}",
        hint="choose other package sources with --apt-sources FILE",
    )


def drop_corrupted(folder: Path, expected: dict[str, str]) -> None:
    """Remove files that are there and differ from `expected`, so that they are fetched again."""
    for name, digest in expected.items():
        path = folder / name
        if path.is_file() and sha256_file(path) != digest:
            path.unlink()


def require_intact(folder: Path, expected: dict[str, str]) -> None:
    """Every file of `expected` is in `folder` and has its sha256.

    Raises:
        EdgeqError: one is missing or differs (it is removed, so that the next attempt fetches it again).
    """
    for name, digest in expected.items():
        path = folder / name
        got = sha256_file(path) if path.is_file() else "no file"
        if got != digest:
            path.unlink(missing_ok=True)
            raise EdgeqError(
                f"the download `{name}` is damaged: got sha256 {got}, expected {digest}",
                hint="run the same command again: it fetches this file anew",
            )


def _no_packages(details: str) -> UnsupportedError:
    return UnsupportedError(
        f"the system's package sources do not offer the ARM64 packages {', '.join(ROOT_PACKAGES)}\n{details}",
        hint="name a sources.list that does with --apt-sources FILE, or use a Debian container",
    )
