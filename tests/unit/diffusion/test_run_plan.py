# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a small model runs: on whatever there is."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from ex4d_engine.diffusion import run_plan
from ex4d_engine.diffusion.ranks import Ranks
from ex4d_engine.diffusion.run_plan import ModelPaths, RuntimeOptions, check_memory, compute_device, plan_run
from ex4d_engine.diffusion.tiers import GIB
from ex4d_engine.diffusion.transformer_size import TransformerSize
from ex4d_engine.errors import Ex4dError
from ex4d_engine.progress import Silent
from tests import tiny_model
from tests.unit.diffusion.cards import give_card

WINDOW = 13 * 16 * 16  # tokens of 49 frames of 256 × 256
SMALL = TransformerSize(34_000_000, 12, 384, 6, vae_gib=5.0)
BIG = TransformerSize(16_000_000_000, 40, 5120, 40)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> ModelPaths:
    return ModelPaths(tiny_model.save_bundled_folder(tmp_path_factory.mktemp("models") / "bundled"), None)


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_card")
def test_the_small_model_fits_a_machine_with_three_gigabytes(
    monkeypatch: pytest.MonkeyPatch, paths: ModelPaths
) -> None:
    monkeypatch.setattr(run_plan, "transformer_size", lambda _: SMALL)
    free = type("Memory", (), {"available": int(2.8 * GIB)})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    check_memory(paths, RuntimeOptions(), WINDOW)
    free.available = int(0.5 * GIB)
    with pytest.raises(Ex4dError) as caught:
        check_memory(paths, RuntimeOptions(), WINDOW)
    assert (caught.value.code, caught.value.action) == ("out_of_memory", "preset:preview")


@pytest.mark.parametrize(("free_gib", "kind"), [(6.0, "cuda"), (0.3, "cpu")])
def test_on_a_card_with_room_else_on_the_cpu_and_always_in_float32(
    monkeypatch: pytest.MonkeyPatch, paths: ModelPaths, free_gib: float, kind: str
) -> None:
    give_card(monkeypatch, free_gib)
    plan = plan_run(paths, RuntimeOptions(precision="float8"), WINDOW, 4)
    assert (plan.device.type, plan.dtype, plan.precision, plan.compiled) == (kind, torch.float32, "exact", False)


def test_a_tier_that_was_asked_for_is_not_quietly_the_cpu(monkeypatch: pytest.MonkeyPatch, paths: ModelPaths) -> None:
    give_card(monkeypatch, 0.3)
    with pytest.raises(Ex4dError) as caught:
        plan_run(paths, RuntimeOptions(tier="48"), WINDOW, 4)
    assert caught.value.code == "out_of_memory"


def test_one_of_several_ranks_does_not_leave_the_others(monkeypatch: pytest.MonkeyPatch, paths: ModelPaths) -> None:
    """On the CPU it would wait for them, and they for it, for ever."""
    give_card(monkeypatch, 0.3)
    with pytest.raises(Ex4dError) as caught:
        plan_run(paths, RuntimeOptions(), WINDOW, 4, Ranks(1, 2, torch.device("cuda", 1), Silent()))
    assert caught.value.code == "out_of_memory"


@pytest.mark.usefixtures("no_card")
def test_apple_s_graphics_are_for_the_small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert compute_device(size=SMALL).type == "mps"
    assert compute_device(size=BIG).type == compute_device().type == "cpu"


@pytest.mark.usefixtures("no_card")
def test_ranks_on_a_cpu_need_it_each(monkeypatch: pytest.MonkeyPatch, paths: ModelPaths) -> None:
    monkeypatch.setattr(run_plan, "transformer_size", lambda _: SMALL)
    need = plan_run(paths, RuntimeOptions(), WINDOW, 4).need_gib
    free = type("Memory", (), {"available": int(1.9 * need * GIB)})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    plan_run(paths, RuntimeOptions(), WINDOW, 4, Ranks(0, 1, torch.device("cpu"), Silent()))
    with pytest.raises(Ex4dError) as caught:
        plan_run(paths, RuntimeOptions(), WINDOW, 4, Ranks(0, 2, torch.device("cpu"), Silent()))
    assert caught.value.code == "out_of_memory" and f"{2 * need:.1f} GiB" in caught.value.message


def test_a_folder_s_own_codec_counts_as_what_it_needs(paths: ModelPaths, model_folder: Path) -> None:
    sizes = [run_plan.transformer_size(folder) for folder in (paths.folder, model_folder)]
    assert sizes[0].vae_gib < sizes[1].vae_gib
