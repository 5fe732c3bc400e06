# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
import torch

from ex4d_engine.errors import Ex4dError
from ex4d_engine.torch_device import torch_device


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "", "hpu"])
def test_an_unknown_device_is_said(name: str) -> None:
    with pytest.raises(Ex4dError) as caught:
        torch_device(name)
    assert caught.value.code == "bad_request"


def test_auto_is_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert torch_device("auto").type == "mps"
    assert torch_device("auto", with_mps=False) == torch_device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device("auto") == torch.device("cuda", 0)


def test_a_full_card_is_not_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(Ex4dError) as caught:
        torch_device("cpu")
    assert caught.value.code == "out_of_memory"
