# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run takes of the main memory, against sums made by hand.

The 14B model has 16 billion parameters here, so that one byte of each is 14.901 GiB.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ex4d_engine import bundled_model
from ex4d_engine.diffusion import run_plan
from ex4d_engine.diffusion.main_memory import PINNED_SHARE, loading_gib, require_main_memory, running_gib
from ex4d_engine.diffusion.ranks import Ranks
from ex4d_engine.diffusion.run_plan import ModelPaths, RuntimeOptions, check_memory, plan_run
from ex4d_engine.diffusion.tiers import GIB, tier_named
from ex4d_engine.diffusion.transformer_size import TransformerSize, transformer_size
from ex4d_engine.errors import Ex4dError
from ex4d_engine.progress import Silent
from tests import tiny_model
from tests.unit.diffusion.cards import give_card, give_main
from tests.unit.diffusion.test_run_plan import WINDOW

PUBLISHED = TransformerSize(16_000_000_000, 40, 5120, 40, stored=torch.float32)
HALVED = TransformerSize(16_000_000_000, 40, 5120, 40, stored=torch.bfloat16)


def test_float32_files_are_copied_to_bfloat16_and_bfloat16_files_are_mapped() -> None:
    assert loading_gib(PUBLISHED, torch.bfloat16) == pytest.approx(29.80, abs=0.01)  # 2 bytes each
    assert loading_gib(HALVED, torch.bfloat16) == 0
    assert loading_gib(PUBLISHED, torch.float32) == 0
    assert loading_gib(HALVED, torch.float32) == pytest.approx(59.60, abs=0.01)  # 4


@pytest.mark.parametrize(
    ("tier", "precision", "gib"),
    [
        ("48", "exact", 0.0),  # all on the card
        ("24", "float8", 3.6),  # VAE, image and camera encoder
        ("16", "exact", 78.11),  # 29.80, once more page-locked and rounded up by half: 44.70; and 3.6
        ("12", "float8", 42.72),  # 1.05 bytes: 15.65 and 23.47; and 3.6
    ],
)
def test_blocks_that_wait_are_there_once_more_page_locked(tier: str, precision: str, gib: float) -> None:
    assert running_gib(PUBLISHED, tier_named(tier), precision, 0) == pytest.approx(gib, abs=0.01)  # type: ignore[arg-type]
    two = running_gib(PUBLISHED, tier_named(tier), precision, 2 * GIB)  # type: ignore[arg-type]
    assert two == pytest.approx(gib + 2, abs=0.01)


def test_page_locked_memory_is_rounded_up_tensor_by_tensor() -> None:
    """A block of the 14B model: 10 matrices of 52.4 MB in 64 MiB each, and 2 of 141.6 MB in 256 MiB each."""
    weights = 10 * 5120 * 5120 * 2 + 2 * 5120 * 13824 * 2
    assert (10 * 2**26 + 2 * 2**28) / weights == pytest.approx(PINNED_SHARE, rel=0.01)


@pytest.mark.parametrize(
    ("size", "tier", "precision", "frames_gib", "ranks", "need_gib"),
    [
        (PUBLISHED, "48", "exact", 0, 1, 29.80),  # while it loads
        (HALVED, "48", "exact", 0, 1, 0.0),
        (HALVED, "48", "exact", 5, 1, 5.0),
        (PUBLISHED, "48", "exact", 5, 1, 29.80),  # the copy is on the card when the frames come
        (PUBLISHED, "48", "exact", 0, 4, 119.21),
        (PUBLISHED, "24", "float8", 0, 2, 59.60),
        (PUBLISHED, "16", "exact", 5, 1, 83.11),
        (PUBLISHED, "12", "float8", 0, 1, 42.72),
        (HALVED, "12", "float8", 0, 1, 42.72),
        (PUBLISHED, "12", "float8", 5, 2, 95.44),
    ],
)
def test_what_is_refused_is_what_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
    size: TransformerSize,
    tier: str,
    precision: str,
    frames_gib: int,
    ranks: int,
    need_gib: float,
) -> None:
    def require() -> None:
        kept = tier_named(tier), precision
        require_main_memory(size, *kept, torch.bfloat16, frames=frames_gib * GIB, ranks=ranks)  # type: ignore[arg-type]

    give_main(monkeypatch, need_gib + 0.1)
    require()
    if need_gib:
        give_main(monkeypatch, need_gib - 0.1)
        with pytest.raises(Ex4dError) as caught:
            require()
        assert caught.value.code == "out_of_memory" and "main memory" in caught.value.message
        assert (f"for {ranks} graphics cards" in caught.value.message) == (ranks > 1)


@pytest.mark.parametrize(
    ("tier", "free_gib", "ranks", "action", "said"),
    [
        ("16", 50, 1, "tier:12", "memory tier 12"),
        ("16", 24, 1, "preset:draft", "preset draft"),  # tier 12 would not fit either
        ("12", 40, 1, "preset:preview", "preset preview"),  # draft's model is not here
        ("48", 24, 1, "preset:draft", "preset draft"),  # a smaller tier loads no less
        ("48", 100, 4, "preset:draft", "among fewer"),
    ],
)
def test_what_would_help_is_offered(
    monkeypatch: pytest.MonkeyPatch, tier: str, free_gib: int, ranks: int, action: str, said: str
) -> None:
    give_main(monkeypatch, free_gib)
    monkeypatch.setattr(bundled_model, "has_bundled_model", lambda: action != "preset:preview")
    chosen = tier_named(tier)
    with pytest.raises(Ex4dError) as caught:
        require_main_memory(PUBLISHED, chosen, chosen.precision, torch.bfloat16, ranks=ranks)
    assert caught.value.action == action and said in caught.value.hint
    assert f"{free_gib} are free" in caught.value.message


@pytest.mark.parametrize(("frames_gib", "cards", "fits"), [(0, 1, True), (5, 1, False), (0, 2, False)])
def test_a_plan_counts_frames_and_ranks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, frames_gib: int, cards: int, fits: bool
) -> None:
    """45 GiB are free and tier 12 takes 42.7."""
    give_card(monkeypatch, 15.0)
    give_main(monkeypatch, 45.0)
    monkeypatch.setattr(run_plan, "transformer_size", lambda _: PUBLISHED)
    ranks = Ranks(0, cards, torch.device("cuda", 0), Silent()) if cards > 1 else None

    def plan() -> None:
        options = RuntimeOptions(tier="12")
        assert plan_run(ModelPaths(tmp_path, None), options, WINDOW, 50, ranks, frames_gib * GIB).tier.name == "12"

    if fits:
        plan()
    else:
        with pytest.raises(Ex4dError, match="main memory"):
            plan()


def test_it_is_known_before_any_work_unless_models_are_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """How much of the main memory those would give back is not known."""
    give_card(monkeypatch, 15.0)
    give_main(monkeypatch, 40.0)
    monkeypatch.setattr(run_plan, "transformer_size", lambda _: PUBLISHED)
    with pytest.raises(Ex4dError, match="main memory"):
        check_memory(ModelPaths(tmp_path, None), RuntimeOptions(tier="12"), WINDOW)
    check_memory(ModelPaths(tmp_path, None), RuntimeOptions(tier="12"), WINDOW, held_gib=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_precision_of_a_folder_is_read_from_its_files(tmp_path: Path, dtype: torch.dtype) -> None:
    """Norms are often kept in float32: most values decide."""
    folder = tiny_model.save_model_folder(tmp_path / "Ünï 作業")
    (file,) = (folder / "transformer").glob("*.safetensors")
    weights = {name: value if "norm" in name else value.to(dtype) for name, value in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    assert transformer_size(folder).stored == dtype


def test_a_file_that_is_cut_short_counts_as_published(tmp_path: Path) -> None:
    """What is wrong with it is said when it is loaded."""
    folder = tiny_model.save_model_folder(tmp_path / "model")
    (file,) = (folder / "transformer").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    assert transformer_size(folder).stored == torch.float32
