#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Blender for the window test on a Debian or Ubuntu machine that has none. Standard library only.

    python3 tools/window_blender.py        # prints the path of a program that starts it

Debian trixie's Blender 4.3 lives in a folder of its own (~/.cache/ex4d), made once by debootstrap: 1.9 GB,
about three minutes. It is started in a mount namespace of its own, so nothing is mounted for anybody else
and nothing stays mounted. Needs root, as debootstrap does; prints why and fails where it cannot be had.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITE = "trixie"
MIRROR = "http://deb.debian.org/debian"
HOST_PACKAGES = {"debootstrap": "debootstrap", "Xvfb": "xvfb", "xwd": "x11-apps"}
PACKAGES = ("blender", "libgl1-mesa-dri", "libegl1", "x11-apps", "python3-numpy")
STARTER = """#!/bin/sh
# starts the Blender of {root}; written by tools/window_blender.py
exec unshare --mount --propagation private sh -c '
    root="$0"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    for folder in {shared}; do
        [ -d "$folder" ] || continue
        mkdir -p "$root$folder"
        mount --rbind "$folder" "$root$folder"
    done
    exec chroot "$root" /usr/bin/env LC_ALL=C.UTF-8 blender "$@"
' "{root}" "$@"
"""


def main() -> int:
    """Prints the starter's path; status 1 where there is none, with the reason on stderr."""
    try:
        print(provide(cache_folder()))
        return 0
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        print(f"window_blender: no Blender for the window test: {error}", file=sys.stderr)
        return 1


def cache_folder() -> Path:
    """Where it is kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ex4d"


def provide(folder: Path) -> Path:
    """Makes it unless it is there and starts; returns the starter."""
    root, starter = folder / f"blender-{SUITE}", folder / "blender-window"
    if (root / "usr" / "bin" / "blender").exists():
        write_starter(starter, root)  # anew each time: what it must see may lie elsewhere now
        if starts(starter):
            return starter
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError("it needs root on Debian or Ubuntu; or set EX4D_BLENDER to a Blender of 4.2 or newer")
    missing = [package for program, package in HOST_PACKAGES.items() if shutil.which(program) is None]
    if missing:
        quiet("apt-get", "update", "--quiet")
        quiet("apt-get", "install", "--yes", "--no-install-recommends", *missing)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    root.chmod(0o755)
    quiet("debootstrap", "--variant=minbase", SUITE, str(root), MIRROR)
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
    for source in Path("/etc/apt/apt.conf.d").glob("*"):  # proxies and certificates of this machine
        shutil.copy(source, root / "etc" / "apt" / "apt.conf.d")
    (root / "usr" / "sbin" / "policy-rc.d").write_text("#!/bin/sh\nexit 101\n")  # no services in there
    (root / "usr" / "sbin" / "policy-rc.d").chmod(0o755)
    quiet("chroot", str(root), "apt-get", "update", "--quiet")
    quiet("chroot", str(root), "apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES)
    write_starter(starter, root)
    if not starts(starter):
        raise RuntimeError(f"{starter} does not start")
    return starter


def write_starter(starter: Path, root: Path) -> None:
    """Writes the program; it shows Blender the folders of the checkout, the tests and the engine's Python."""
    needed = (Path(__file__), Path.home(), Path(tempfile.gettempdir()), Path(sys.executable))
    tops = {Path(*path.resolve().parts[:2]) for path in needed} - {Path("/usr")}  # its own /usr stays
    shared = sorted(str(top) for top in (*tops, Path("/usr/local")))
    starter.write_text(STARTER.format(root=root, shared=" ".join(shared)), encoding="utf-8")
    starter.chmod(0o755)


def starts(starter: Path) -> bool:
    """Whether it answers with its version."""
    if not starter.is_file():
        return False
    answer = subprocess.run([str(starter), "--version"], capture_output=True, text=True, timeout=60, check=False)
    return answer.stdout.startswith("Blender ")


def quiet(*command: str) -> None:
    """Runs it; on failure its last lines are the error."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    if result.returncode != 0:
        last = " ".join((result.stdout + result.stderr).split()[-40:])
        raise RuntimeError(f"{' '.join(command[:2])} failed: {last}")


if __name__ == "__main__":
    sys.exit(main())
