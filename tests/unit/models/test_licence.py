# SPDX-License-Identifier: GPL-3.0-or-later
"""A licence that restricts use: its text comes first, from the model's own repository, and stays with the model."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import pytest

from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.models import registry, store
from ex4d_engine.models.download import download, repair
from ex4d_engine.models.licence import ACCEPTED_NAME
from ex4d_engine.models.registry import Model
from ex4d_engine.models.verify import verify
from ex4d_engine.progress import Silent
from tests.unit.models.conftest import CONTENT, RESTRICTED
from tests.unit.models.hub import COMMIT, Hub
from tests.unit.models.test_download import Recorder

TEXT = "Licence of the Small model\n\n§ 1. You may läugh.\n"


@pytest.fixture
def licensed(hub: Hub) -> Hub:
    hub.files["LICENSE"] = TEXT.encode()
    return hub


def refused(recorder: Recorder | None = None, **options: object) -> Ex4dError:
    with pytest.raises(Ex4dError) as caught:
        download("restricted", recorder or Recorder(), **options)  # type: ignore[arg-type]
    return caught.value


def kept() -> str | None:
    file = store.download_folder("restricted") / ACCEPTED_NAME
    return file.read_text(encoding="utf-8") if file.is_file() else None


def test_the_text_is_shown_before_anything_of_the_model_is_fetched(licensed: Hub) -> None:
    recorder = Recorder()
    error = refused(recorder)
    assert (error.code, error.action) == ("licence_not_accepted", "licence:restricted")
    assert "Academic use only" in error.message and "https://example.org/licence" in error.message
    assert "`ex4d models download restricted --accept-licence`" in error.hint
    assert any(TEXT in line for line in recorder.said)
    assert licensed.fetched() == [("LICENSE", None)]
    assert kept() is None and not store.download_folder("restricted").exists()


def test_what_was_accepted_stays_beside_the_model(licensed: Hub) -> None:
    recorder = Recorder()
    folder = download("restricted", recorder, accept_licence=True)
    assert kept() == TEXT and any(TEXT in line for line in recorder.said)
    assert licensed.fetched()[0] == ("LICENSE", None)
    assert (folder / "model_index.json").read_bytes() == CONTENT["model_index.json"]
    result = verify("restricted", Silent())
    assert result.whole and ACCEPTED_NAME not in (*result.unknown, *result.intact), "it is no part of the model"


def test_it_is_asked_for_once_the_text_was_shown(licensed: Hub) -> None:
    asked: list[Model] = []
    recorder = Recorder()

    def agree(model: Model) -> bool:
        assert any(TEXT in line for line in recorder.said)
        asked.append(model)
        return len(asked) > 1

    assert refused(recorder, agree=agree).code == "licence_not_accepted"
    assert kept() is None
    assert download("restricted", recorder, agree=agree).is_dir() and kept() == TEXT
    assert asked == [RESTRICTED, RESTRICTED]


def test_a_download_that_goes_on_asks_again_only_for_another_text(licensed: Hub) -> None:
    with pytest.raises(Cancelled):
        download("restricted", Recorder(cancel_at=20), accept_licence=True)
    assert kept() == TEXT
    licensed.files["LICENSE"] = b"You may not laugh any more."
    assert refused().code == "licence_not_accepted"
    assert kept() == TEXT
    licensed.files["LICENSE"] = TEXT.encode()
    recorder = Recorder()
    assert download("restricted", recorder).is_dir()
    assert not any(TEXT in line for line in recorder.said)


def test_a_repair_neither_asks_nor_shows_again(licensed: Hub) -> None:
    folder = download("restricted", Silent(), accept_licence=True)
    (folder / "vae/config.json").unlink()
    recorder = Recorder()
    repair("restricted", recorder)
    assert not any(TEXT in line for line in recorder.said) and verify("restricted", Silent()).whole


def none_published(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    del hub.files["LICENSE"]


def withheld(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.answers[f"/someone/small/resolve/{COMMIT}/LICENSE"] = 403


def gone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.answers[f"/someone/small/resolve/{COMMIT}/LICENSE"] = 404


def no_text(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["LICENSE"] = b"\x89PNG\x00\xff"


def nothing_in_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["LICENSE"] = b" \n"


def endless(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.files["LICENSE"] = b"x" * (2**20 + 1)


@pytest.mark.parametrize("fault", [none_published, withheld, gone, no_text, nothing_in_it, endless])
def test_without_a_text_name_and_address_are_shown_and_kept(
    licensed: Hub, monkeypatch: pytest.MonkeyPatch, fault: object
) -> None:
    fault(licensed, monkeypatch)  # type: ignore[operator]
    recorder = Recorder()
    assert refused(recorder).code == "licence_not_accepted"
    (line,) = (line for line in recorder.said if "could not be had" in line)
    assert "Academic use only" in line and "https://example.org/licence" in line and "someone/small" in line
    download("restricted", Silent(), accept_licence=True)
    assert kept() == "Academic use only\nhttps://example.org/licence\n"


def test_the_registry_names_the_file(licensed: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    licensed.files["legal/terms.txt"] = b"Terms of another name."
    other = dataclasses.replace(RESTRICTED, licence_files=("legal/terms.txt",))
    monkeypatch.setitem(registry.MODELS, "restricted", other)
    download("restricted", Silent(), accept_licence=True)
    assert kept() == "Terms of another name."


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"\xef\xbb\xbfone\r\ntwo\rthree", "one\ntwo\nthree"),
        ("caf\u00e9 \u201cx\u201d".encode("cp1252"), "caf\u00e9 \u201cx\u201d"),
        (b"a\x1b]0;title\x07b\x1b[2Jc\td", "a]0;titleb[2Jc\td"),
    ],
)
def test_text_of_other_systems_is_read_and_steers_no_terminal(licensed: Hub, sent: bytes, shown: str) -> None:
    licensed.files["LICENSE"] = sent
    download("restricted", Silent(), accept_licence=True)
    assert kept() == shown


def test_a_licence_that_restricts_nothing_is_not_fetched(licensed: Hub) -> None:
    folder = download("small", Silent())
    assert "LICENSE" not in [path for path, _ in licensed.fetched()] and not (folder / ACCEPTED_NAME).exists()


def test_offline_and_without_network_that_is_what_is_said(licensed: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(offline=True).code == "no_network"
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert "offline" in refused().message
    assert licensed.requests == []
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        assert refused(endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}").code == "no_network"
    licensed.answers["/api/models"] = 404
    assert refused().code == "model_missing"


def test_every_restricted_model_names_a_file(tmp_path: Path) -> None:
    restricted = [model for model in registry.MODELS.values() if model.needs_acceptance]
    assert len(restricted) > 3 and all(model.licence_files and model.licence_url for model in restricted)
