# SPDX-License-Identifier: GPL-3.0-or-later
"""One run at a time makes a shot, and a lock whose process is gone holds nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ex4d_engine.errors import Ex4dError
from ex4d_engine.progress import Silent
from ex4d_engine.stages import reconstruct
from ex4d_engine.stages.folder_lock import LOCK_NAME, locked
from tests.conftest import REPOSITORY
from tests.tiny_shot import settings

HOLD = "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; " + (
    "from ex4d_engine.stages.folder_lock import locked\n"
    "with locked(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def test_it_goes_when_the_block_ends_whatever_happened(tmp_path: Path) -> None:
    with locked(tmp_path):
        assert (tmp_path / LOCK_NAME).is_file()
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    assert not (tmp_path / LOCK_NAME).exists()


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "Ünï 作業 shot"
    root.mkdir()
    command = [sys.executable, "-c", HOLD, str(root), str(REPOSITORY)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"held"
        with pytest.raises(Ex4dError, match=f"process {other.pid}") as caught, locked(root):
            pass
        assert caught.value.code == "shot_busy"
        with pytest.raises(Ex4dError, match="Another run"):
            reconstruct(settings(tmp_path), root, Silent())
        other.kill()
        other.wait(30)
    assert (root / LOCK_NAME).is_file()  # killed, it could not clean up
    with locked(root):
        pass
    reconstruct(settings(tmp_path), root, Silent())
    assert not (root / LOCK_NAME).exists()


@pytest.mark.parametrize("text", ["", "rubbish", "[]", json.dumps({"pid": 2**22 + 5, "started": 0.0})])
def test_a_lock_that_names_nobody_is_taken_over(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK_NAME).write_text(text)
    with locked(tmp_path):
        pass


def test_a_number_that_was_given_to_another_process_since_is_nobody(tmp_path: Path) -> None:
    import os

    (tmp_path / LOCK_NAME).write_text(json.dumps({"pid": os.getpid(), "started": 1.0}))
    with locked(tmp_path):
        pass
