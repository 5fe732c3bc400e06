# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads from a hub in this process, and what goes wrong with downloads."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.models import registry, store
from ex4d_engine.models.download import PARTIAL_NAME, download, repair
from ex4d_engine.models.lock import LOCK_NAME, read_lock
from ex4d_engine.models.verify import verify
from ex4d_engine.progress import Silent
from tests.unit.models.conftest import CONTENT, SMALL
from tests.unit.models.hub import COMMIT, Hub

WEIGHTS = "vae/weights.safetensors"
FILES = sorted(CONTENT.keys() - {"README.md"})


class Recorder(Silent):
    """Remembers what it was told; cancels at the `cancel_at`th check."""

    def __init__(self, cancel_at: int = 0) -> None:
        super().__init__()
        self.said: list[str] = []
        self.reports: list[tuple[str, int, int]] = []
        self.checks = 0
        self.cancel_at = cancel_at

    def log(self, message: str) -> None:
        self.said.append(message)

    def progress(self, stage: str, done: int, total: int) -> None:
        self.reports.append((stage, done, total))

    def check(self) -> None:
        self.checks += 1
        if self.checks == self.cancel_at:
            self.cancelled.set()
        super().check()


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and PARTIAL_NAME not in path.parts and path.name != LOCK_NAME
    }


def failure(name: str = "small", **options: object) -> Ex4dError:
    with pytest.raises(Ex4dError) as caught:
        download(name, Silent(), **options)  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value


def test_the_files_named_and_no_others(hub: Hub, places: Path) -> None:
    recorder = Recorder()

    folder = download("small", recorder)

    assert folder == places / "small"
    assert files_in(folder) == {path: CONTENT[path] for path in FILES}
    assert not (folder / PARTIAL_NAME).exists()
    lock = read_lock(folder)
    assert lock is not None and lock.complete
    assert (lock.repository, lock.commit, sorted(lock.files)) == (SMALL.repository, COMMIT, FILES)
    assert verify("small", Silent()).intact == tuple(FILES)
    assert "Apache-2.0" in recorder.said[0]
    assert recorder.reports[-1] == ("download", 1, 1)


def test_a_complete_model_asks_for_nothing(hub: Hub) -> None:
    download("small", Silent())
    hub.requests.clear()
    assert download("small", Silent(), offline=True) == store.find("small")
    assert hub.requests == []


def test_megabytes_are_counted(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ex4d_engine.models.lock.MEGABYTE", 10_000)
    recorder = Recorder()
    download("small", recorder)
    done = [done for stage, done, total in recorder.reports if stage == "download"]
    assert done == sorted(done) and sorted(set(done)) == [0, 1, 2, 4]  # 30 026 bytes, the last begun one at the end


def test_a_cut_connection_goes_on_within_the_call(hub: Hub) -> None:
    hub.cut_after, hub.cuts = 12_000, 2
    assert files_in(download("small", Silent()))[WEIGHTS] == CONTENT[WEIGHTS]
    assert [asked for path, asked in hub.fetched() if path == WEIGHTS] == [None, "bytes=12000-", "bytes=24000-"]


def test_a_broken_download_goes_on_in_the_next_call(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.cut_after, hub.cuts = 12_000, 1
    hub_failing = hub.answers

    def fail_from_now(seconds: float) -> None:  # where the library would wait and ask again
        hub_failing["/someone"] = 500

    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", fail_from_now)
    assert failure().code == "no_network"
    assert WEIGHTS not in files_in(store.download_folder("small"))
    with pytest.raises(Ex4dError, match="not downloaded completely"):
        store.find("small")

    hub.answers.clear()
    hub.requests.clear()
    folder = download("small", Silent())

    assert hub.fetched() == [(WEIGHTS, "bytes=12000-")]  # the small files were there
    assert files_in(folder)[WEIGHTS] == CONTENT[WEIGHTS]


def test_cancelled_in_the_middle_and_resumed(hub: Hub) -> None:
    with pytest.raises(Cancelled):
        download("small", Recorder(cancel_at=20))
    partial = next((store.download_folder("small") / PARTIAL_NAME).glob("*weights*"))
    arrived = partial.stat().st_size
    assert 0 < arrived < len(CONTENT[WEIGHTS])

    hub.requests.clear()
    recorder = Recorder()
    folder = download("small", recorder)

    assert hub.fetched() == [(WEIGHTS, f"bytes={arrived}-")]
    assert files_in(folder)[WEIGHTS] == CONTENT[WEIGHTS]


def test_a_server_that_ignores_ranges(hub: Hub) -> None:
    with pytest.raises(Cancelled):
        download("small", Recorder(cancel_at=20))
    hub.without_ranges = True
    assert files_in(download("small", Silent()))[WEIGHTS] == CONTENT[WEIGHTS]


def test_another_version_does_not_continue_the_old_one(hub: Hub) -> None:
    with pytest.raises(Cancelled):
        download("small", Recorder(cancel_at=20))
    hub.files[WEIGHTS] = bytes(len(CONTENT[WEIGHTS]))
    assert files_in(download("small", Silent()))[WEIGHTS] == hub.files[WEIGHTS]


@pytest.mark.parametrize("path", FILES)
def test_a_wrong_checksum_is_refused_and_the_next_call_fetches_it(hub: Hub, path: str) -> None:
    hub.announced[path] = bytes(len(CONTENT[path]))

    error = failure()

    assert error.code == "model_invalid" and path in error.message
    assert path not in files_in(store.download_folder("small"))
    hub.announced.clear()
    assert files_in(download("small", Silent()))[path] == CONTENT[path]


def test_the_registry_s_checksum_stands_above_the_hub_s(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.MODELS, "small", dataclasses.replace(SMALL, sha256={WEIGHTS: "0" * 64}))
    assert failure().code == "model_invalid"


def test_repair_fetches_what_is_damaged_and_nothing_else(hub: Hub) -> None:
    folder = download("small", Silent())
    damaged = bytearray(CONTENT[WEIGHTS])
    damaged[500] ^= 1
    (folder / WEIGHTS).write_bytes(damaged)
    (folder / "vae/config.json").unlink()
    result = verify("small", Silent())
    assert (result.damaged, result.missing, result.whole) == ((WEIGHTS,), ("vae/config.json",), False)

    hub.requests.clear()
    repair("small", Silent())

    assert hub.fetched() == [("vae/config.json", None), (WEIGHTS, None)]
    assert verify("small", Silent()).whole
    hub.requests.clear()
    repair("small", Silent())
    assert hub.requests == []


def test_a_file_cut_short_is_noticed_and_fetched_again(hub: Hub) -> None:
    folder = download("small", Silent())
    (folder / WEIGHTS).write_bytes(CONTENT[WEIGHTS][:100])
    with pytest.raises(Ex4dError) as caught:
        store.find("small")
    assert (caught.value.code, caught.value.action) == ("model_invalid", "models:small")
    assert files_in(download("small", Silent()))[WEIGHTS] == CONTENT[WEIGHTS]


def test_files_without_a_lock_are_compared_and_kept(hub: Hub) -> None:
    folder = download("small", Silent())
    (folder / LOCK_NAME).unlink()
    hub.requests.clear()
    download("small", Silent())
    assert hub.fetched() == []


def test_a_damaged_lock(hub: Hub) -> None:
    folder = download("small", Silent())
    for text in (
        "{",
        '{"schema": 99}',
        '{"schema": 1, "name": "a", "repository": "b", "commit": "c", "files": {"../x": {}}}',
    ):
        (folder / LOCK_NAME).write_text(text, encoding="utf-8")
        assert failure().code == "model_invalid"


def test_a_full_disk_is_told_before_anything_is_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 20_000, 20_000))
    error = failure()
    assert error.code == "disk_full"
    assert hub.fetched() == []


def test_a_disk_that_fills_up_meanwhile(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    assert failure().code == "disk_full"


def test_a_model_that_is_no_longer_published(hub: Hub) -> None:
    hub.answers["/api/models"] = 404
    error = failure()
    assert error.code == "model_missing" and SMALL.repository in error.message


def test_a_file_that_is_no_longer_published(hub: Hub) -> None:
    hub.answers[f"/{SMALL.repository}/resolve/{COMMIT}/vae/weights"] = 404
    assert failure().code == "model_missing"


def test_a_repository_without_the_file(hub: Hub) -> None:
    hub.repository = "someone/lora"
    error = failure("lora")
    assert error.code == "model_missing" and "loras/a.safetensors" in error.message


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_hub_that_refuses(hub: Hub, status: int) -> None:
    hub.answers["/api/models"] = status
    assert failure().code in {"no_network", "model_missing"}


def test_no_hub_at_the_other_end(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in (b"<html>Please log in", b"[]", b'{"id": "a", "siblings": [{}]}'):
        monkeypatch.setattr(hub, "info", lambda page=page: page)
        assert failure().code == "no_network"


def test_no_network() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        error = failure(endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert (error.code, error.action) == ("no_network", "models:small")


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(offline=True).code == "no_network"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = failure()
    assert error.code == "no_network" and "offline" in error.message
    assert hub.requests == []


def test_two_downloads_at_once(hub: Hub) -> None:
    import filelock

    folder = store.download_folder("small") / PARTIAL_NAME
    folder.mkdir(parents=True)
    with filelock.FileLock(folder / "lock"):
        assert failure().code == "model_busy"
    download("small", Silent())


def test_a_path_that_leads_out_of_the_folder(hub: Hub, places: Path) -> None:
    hub.files["vae/../../../evil"] = b"x"
    assert failure().code == "no_network"
    assert not (places.parent / "evil").exists()


def test_an_unknown_model() -> None:
    error = failure("smell")
    assert error.code == "unknown_model" and "small" in error.hint


def test_the_hub_learns_no_more_than_it_must(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import build_hf_headers

    from ex4d_engine.models.hub import AGENT

    assert build_hf_headers(headers=AGENT, token=False) == AGENT


def test_importing_the_package_is_cheap() -> None:
    root = Path(__file__).resolve().parents[3]
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "import ex4d_engine.models.store, ex4d_engine.models.download, ex4d_engine.models.verify\n"
        "import ex4d_engine.models.commands\n"
        "print({'torch', 'numpy', 'huggingface_hub', 'safetensors', 'httpx2'} & sys.modules.keys())"
    )
    answer = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "set()"
