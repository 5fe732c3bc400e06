# SPDX-License-Identifier: GPL-3.0-or-later
"""Float8: products where card, system and torchao have them, else weights kept in it; known before any is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from ex4d_engine.diffusion import run_plan
from ex4d_engine.diffusion.float8 import TORCHAO, platform_lack, torchao_lack
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.diffusion.placement import place_transformer
from ex4d_engine.diffusion.run_plan import ModelPaths, RunPlan, RuntimeOptions, check_memory, plan_run
from ex4d_engine.diffusion.runtime import open_models
from ex4d_engine.diffusion.tiers import tier_named
from ex4d_engine.diffusion.transformer_size import TransformerSize, transformer_size
from ex4d_engine.errors import Ex4dError
from ex4d_engine.progress import Silent
from tests.tiny_shot import Listener
from tests.unit.diffusion.cards import give_card, give_main, give_torchao, take_torchao

REQUIREMENTS = Path(__file__).resolve().parents[3] / "requirements"
CARD = torch.device("cuda", 0)
TOKENS = 13 * 32 * 32  # of 49 frames of 512 × 512
MANY = 50  # forwards: enough to compile for
GENERATION = {(8, 0): "A100", (8, 6): "RTX 3090, A6000", (8, 9): "RTX 4090", (9, 0): "H100", (12, 0): "RTX 5090"}


@pytest.fixture
def wan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelPaths:
    """The 14B model by its size, and main memory enough for it."""
    monkeypatch.setattr(run_plan, "transformer_size", lambda _: TransformerSize(16_394_878_784, 40, 5120, 40))
    give_main(monkeypatch, 200.0)
    return ModelPaths(tmp_path, None)


def planned(paths: ModelPaths, **options: str) -> RunPlan:
    return plan_run(paths, RuntimeOptions(**options), TOKENS, MANY)


@pytest.mark.parametrize(("capability", "multiplies"), zip(GENERATION, (False, False, True, True, True), strict=True))
def test_cards_multiply_in_float8_from_ada_on_and_not_on_windows(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], multiplies: bool
) -> None:
    give_card(monkeypatch, 24.0, capability)
    assert (platform_lack(CARD) is None) == multiplies
    monkeypatch.setattr(sys, "platform", "win32")
    assert "Windows" in str(platform_lack(CARD))


def test_no_other_device_multiplies_in_float8(monkeypatch: pytest.MonkeyPatch) -> None:
    give_card(monkeypatch, 24.0, (11, 0))
    monkeypatch.setattr(torch.version, "hip", "6.4")  # AMD's cards are "cuda" to PyTorch, with numbers of their own
    assert "NVIDIA" in str(platform_lack(CARD)) and "NVIDIA" in str(platform_lack(torch.device("cpu")))


def test_torchao_is_there_or_missing_or_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    take_torchao(monkeypatch)
    assert torchao_lack() == "torchao is not installed"
    give_torchao(monkeypatch)
    assert torchao_lack() is None
    give_torchao(monkeypatch, is_whole=False)
    assert "does not load" in str(torchao_lack()) and "quantize_" in str(torchao_lack())


def test_torchao_is_an_extra_and_nobody_s_dependency() -> None:
    lines = {path.stem: path.read_text(encoding="utf-8") for path in REQUIREMENTS.glob("*.txt")}
    assert [name for name, text in lines.items() if "torchao" in text] == ["float8"]
    assert TORCHAO in lines["float8"].splitlines()
    project = (REQUIREMENTS.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert 'optional-dependencies.float8 = { file = ["requirements/float8.txt"] }' in project


@pytest.mark.parametrize("capability", [(8, 0), (8, 6)], ids=GENERATION.get)
def test_a_card_without_products_of_float8_keeps_weights_in_it_uncompiled(
    monkeypatch: pytest.MonkeyPatch, wan: ModelPaths, capability: tuple[int, int]
) -> None:
    """Also where torchao is there, and whoever asks: nothing that could be installed would change it."""
    give_torchao(monkeypatch)
    give_card(monkeypatch, 23.5, capability)
    for precision in ("auto", "float8"):
        plan = planned(wan, tier="24", precision=precision)
        assert (plan.tier.name, plan.precision, plan.float8, plan.compiled) == ("24", "float8", "storage", False)
        (note,) = plan.notes
        assert "this graphics card" in note and "uncompiled" in note and "pip" not in note
    check_memory(wan, RuntimeOptions(tier="24", precision="float8"), TOKENS)


@pytest.mark.parametrize("capability", [(8, 9), (9, 0)], ids=GENERATION.get)
def test_with_torchao_products_are_of_float8_and_compiled(
    monkeypatch: pytest.MonkeyPatch, wan: ModelPaths, capability: tuple[int, int]
) -> None:
    give_torchao(monkeypatch)
    give_card(monkeypatch, 23.5, capability)
    for precision in ("auto", "float8"):
        plan = planned(wan, precision=precision)
        assert (plan.tier.name, plan.float8, plan.compiled, plan.notes) == ("24", "products", True, ())


@pytest.mark.parametrize("is_there", [False, True], ids=["missing", "does not load"])
def test_without_torchao_auto_keeps_weights_in_float8_and_says_what_would_help(
    monkeypatch: pytest.MonkeyPatch, wan: ModelPaths, is_there: bool
) -> None:
    take_torchao(monkeypatch)
    if is_there:
        give_torchao(monkeypatch, is_whole=False)
    give_card(monkeypatch, 23.5)
    plan = planned(wan)
    assert (plan.tier.name, plan.float8, plan.compiled) == ("24", "storage", False)
    (note,) = plan.notes
    assert f"`pip install {TORCHAO}`" in note and "faster" in note and note.count(". ") == 0
    check_memory(wan, RuntimeOptions(), TOKENS)


def test_float8_by_name_without_torchao_is_refused_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, wan: ModelPaths
) -> None:
    take_torchao(monkeypatch)
    give_card(monkeypatch, 70.0)
    options = RuntimeOptions(precision="float8")
    for ask in (lambda: check_memory(wan, options, TOKENS), lambda: plan_run(wan, options, TOKENS, MANY)):
        with pytest.raises(Ex4dError) as caught:
            ask()
        assert caught.value.code == "missing_package" and f"`pip install {TORCHAO}`" in caught.value.hint
    assert planned(wan).float8 is None, "auto has room for all of it"


def test_blocks_that_wait_in_main_memory_are_widened_wherever_and_need_no_torchao(
    monkeypatch: pytest.MonkeyPatch, wan: ModelPaths
) -> None:
    take_torchao(monkeypatch)
    give_card(monkeypatch, 11.5)
    for precision in ("auto", "float8"):
        plan = planned(wan, tier="12", precision=precision)
        assert (plan.float8, plan.compiled, plan.notes) == ("storage", False, ())


@pytest.mark.parametrize(("tier", "capability"), [("24", (8, 6)), ("16", (9, 0)), ("12", (9, 0))])
def test_weights_that_come_or_are_widened_are_not_compiled_though_asked_for(
    monkeypatch: pytest.MonkeyPatch, wan: ModelPaths, tier: str, capability: tuple[int, int]
) -> None:
    give_card(monkeypatch, 23.5, capability)
    plan = planned(wan, tier=tier, compile="on")
    assert not plan.compiled and any("Nothing is compiled" in note for note in plan.notes)


@pytest.fixture
def tiny_plan(model_folder: Path) -> RunPlan:
    """Tier 24 on a card without products of float8, on the CPU."""
    size = transformer_size(model_folder)
    return RunPlan(size, 18, torch.device("cpu"), torch.float32, tier_named("24"), 0.0, "storage", False, ("A note.",))


def test_the_record_and_the_log_say_which_of_the_two(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_folder: Path, adapter_file: Path, tiny_plan: RunPlan
) -> None:
    monkeypatch.setenv("EX4D_CACHE", str(tmp_path))
    listener = Listener()
    paths = ModelPaths(model_folder, adapter_file)
    with open_models(paths, RuntimeOptions(), tiny_plan, is_guided=False, reporter=listener) as models:
        weight = models.pipeline.transformer.blocks[0].ffn.net[2].weight
        assert weight.dtype == torch.float8_e4m3fn
        assert (models.record["precision"], models.record["float8"]) == ("float8", "storage")
        assert models.record["compiled"] is False
    assert listener.logs[0] == "A note." and "(float8 storage)" in listener.logs[-1]


def test_products_are_quantised_block_by_block_where_they_compute(
    monkeypatch: pytest.MonkeyPatch, pipeline: Ex4dPipeline
) -> None:
    calls = give_torchao(monkeypatch)
    cpu = torch.device("cpu")
    place_transformer(pipeline.transformer, cpu, float8="products", offloaded=False, adapters=[], reporter=Silent())
    settings = {"granularity": "a scale a row", "set_inductor_config": False}
    assert calls == [(block, settings, cpu) for block in pipeline.transformer.blocks]
