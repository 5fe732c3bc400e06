# SPDX-License-Identifier: GPL-3.0-or-later
"""How much a take cost, as its record tells: presets, windows, second pass and cache, forward by forward."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest

from ex4d_engine import cli
from ex4d_engine.diffusion import runtime
from ex4d_engine.diffusion.placement import enable_cache
from ex4d_engine.diffusion.preset_defaults import DEFAULTS
from ex4d_engine.diffusion.run_plan import RuntimeOptions
from ex4d_engine.diffusion.tiers import TIERS, Tier
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.models import store
from ex4d_engine.preview_fill import FILL_VERSION
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Shot
from ex4d_engine.stages import GenerateOptions, diffusion_run, generate, render, require_preset
from ex4d_engine.stages.diffusion_presets import FAST_LORA
from ex4d_engine.take import Take, load_take
from tests import tiny_model
from tests.tiny_shot import Listener, orbit_take

QUICK = GenerateOptions(steps=2, area=1024, prompt="a camera", negative_prompt="blurred")
WINDOWED = {**QUICK.to_json(), "window": 9, "overlap": 5}

pytestmark = pytest.mark.usefixtures("models")


@pytest.fixture
def fast_lora(tmp_path: Path) -> Path:
    return store.register(FAST_LORA, tiny_model.save_fast_lora_file(tmp_path / "fast LoRA.safetensors"))


def conditioned(shot: Shot, count: int = 6) -> Take:
    """Conditioning along a path that begins at the source view."""
    return render(shot, orbit_take(shot, 12.0, count=count), Silent())


def work(take: Take) -> tuple[int, int]:
    return take.record["forwards"]["begun"], take.record["forwards"]["cut_short"]


def frames(take: Take) -> list[bytes]:
    return [take.file("generated", number).read_bytes() for number in take.numbers]


def windows_and_tiles(take: Take, options: GenerateOptions) -> tuple[int, int]:
    """Counted by the plan of the very run, lead-in frames included."""
    lead_in, own = take.record["diffusion"]["lead_in"], len(take.frames)
    settings = diffusion_run.VideoSettings(
        window=options.window or 49,
        overlap=options.overlap or 13,
        area=options.area or 0,
        detail_area=options.detail_area(take.width, take.height),
    )
    plan = diffusion_run.plan_video(lead_in + own, take.width, take.height, settings)
    return len(plan.windows), len(plan.tiles)


@pytest.mark.usefixtures("fast_lora")
def test_fast_takes_four_forwards_a_window_and_its_own_lora(shot: Shot) -> None:
    options = GenerateOptions(area=1024, window=9, overlap=5, prompt="a camera")
    fast = generate(shot, conditioned(shot, 10), "fast", Silent(), seed=3, options=options)
    windows, _ = windows_and_tiles(fast, options)
    assert windows > 1
    assert work(fast) == (4 * windows, 0)
    assert (fast.record["generation"]["steps"], fast.record["generation"]["guidance"]) == (4, 1.0)
    assert list(fast.record["diffusion"]["models"][FAST_LORA]) == ["fast LoRA.safetensors"]
    alike = GenerateOptions(**{**options.to_json(), "steps": 4, "guidance": 1.0})
    final = generate(shot, conditioned(shot, 10), "final", Silent(), seed=3, options=alike)
    assert work(final) == work(fast)
    assert frames(final) != frames(fast)


@pytest.mark.usefixtures("fast_lora")
def test_fast_from_the_command_line(
    shot: Shot, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    small = dataclasses.replace(DEFAULTS["fast"], area=1024)
    monkeypatch.setitem(DEFAULTS, "fast", small)
    take = conditioned(shot)
    arguments = ["generate", str(shot.root), "--take", take.name, "--preset", "fast", "--prompt", "a camera"]
    assert cli.main(arguments) == 0
    said = json.loads(capfd.readouterr().out)
    done = load_take(shot, said["take"])
    assert done.is_finished and work(done) == (4, 0)


@pytest.mark.parametrize(("detail", "has_tiles"), [("none", False), ("full", True)])
def test_every_forward_of_windows_and_second_pass_is_counted(shot: Shot, detail: str, has_tiles: bool) -> None:
    options = GenerateOptions(**{**WINDOWED, "detail": detail})
    done = generate(shot, conditioned(shot, 10), "final", Silent(), options=options)
    windows, tiles = windows_and_tiles(done, options)
    assert windows > 1 and (tiles > 1) == has_tiles
    second_pass_steps = 1  # 0.4 of two
    assert work(done) == (2 * windows * (2 + second_pass_steps * tiles), 0)
    assert not done.missing("generated") and done.result_file.stat().st_size > 0


@pytest.mark.parametrize(("threshold", "cut_short"), [(-1.0, 0), (1e9, 4)])
def test_forwards_that_the_cache_cuts_short_are_counted(
    shot: Shot, monkeypatch: pytest.MonkeyPatch, threshold: float, cut_short: int
) -> None:
    """At a threshold that nothing is above, all but the first step's of each branch are."""
    monkeypatch.setattr(runtime, "enable_cache", partial(enable_cache, threshold=threshold))
    options = GenerateOptions(**{**QUICK.to_json(), "steps": 3, "cache": "first-block"})
    assert work(generate(shot, conditioned(shot), "final", Silent(), options=options)) == (6, cut_short)


def test_the_cache_does_not_carry_over_to_another_window_or_tile(shot: Shot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "enable_cache", partial(enable_cache, threshold=1e9))
    options = GenerateOptions(**{**WINDOWED, "detail": "full", "cache": "first-block"})
    done = generate(shot, conditioned(shot, 10), "final", Silent(), options=options)
    windows, tiles = windows_and_tiles(done, options)
    assert windows > 1 and tiles > 1
    assert work(done) == (2 * windows * (2 + tiles), 2 * windows)  # cut short: each window's second step


def test_a_cache_is_refused_where_ranks_share_a_branch_and_before_any_rank_is_started(
    shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank would decide by its own tokens whether to go on, and one that does waits for the others for ever."""

    def started(job: object, ranks: int, *_: object) -> None:
        raise AssertionError(f"{ranks} ranks were started")

    monkeypatch.setattr(diffusion_run, "run_parallel", started)
    options = GenerateOptions(**{**QUICK.to_json(), "guidance": 1.0, "gpus": 2, "cache": "first-block"})
    with pytest.raises(Ex4dError) as caught:
        generate(shot, conditioned(shot), "final", Silent(), options=options)
    assert caught.value.code == "bad_request" and "first-block" in caught.value.message
    guided = GenerateOptions(**{**options.to_json(), "guidance": 5.0})  # a branch each: nothing is shared
    with pytest.raises(AssertionError, match="2 ranks"):
        generate(shot, conditioned(shot), "final", Silent(), options=guided)


def test_frames_too_large_for_the_main_memory_are_refused_before_models_are_loaded(
    shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusion_run.VideoPlan, "host_bytes", lambda *_: 10**15)
    monkeypatch.setattr(diffusion_run, "run_rank", lambda *_, **__: pytest.fail("the run began"))
    options = GenerateOptions(**{**QUICK.to_json(), "detail": "full"})
    with pytest.raises(Ex4dError) as caught:
        generate(shot, conditioned(shot), "final", Silent(), options=options)
    assert caught.value.code == "out_of_memory" and "main memory" in caught.value.message
    assert "931323 GiB" in caught.value.message and "detail" in caught.value.hint


def test_a_disk_too_small_for_what_the_decoder_remembers_is_refused_before_models_are_loaded(
    shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusion_run.VideoPlan, "scratch_bytes", lambda _: 10**18)
    monkeypatch.setattr(diffusion_run, "run_rank", lambda *_, **__: pytest.fail("the run began"))
    with pytest.raises(Ex4dError) as caught:
        generate(shot, conditioned(shot), "final", Silent(), options=QUICK)
    assert caught.value.code == "disk_full"


def test_what_waits_between_windows_is_in_the_take_and_goes_however_the_run_ends(
    shot: Shot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed run left goes, too."""
    seen: list[int] = []
    take = conditioned(shot, 10)
    folder, of_another_rank = take.root / "decoder_0", take.root / "decoder_3"
    folder.mkdir()
    of_another_rank.mkdir()
    (folder / "left.bin").write_bytes(b"by a killed run")

    class Stopped(Silent):
        limit = 10**6

        def check(self) -> None:
            waiting = len(list(folder.glob("*_*.bin")))
            if waiting:
                seen.append(waiting)
                assert not (folder / "left.bin").exists()
            if len(seen) > self.limit:
                self.cancelled.set()
            super().check()

    stopped = Stopped()
    stopped.limit = 2
    options = GenerateOptions(**{**WINDOWED, "detail": "full"})
    with pytest.raises(Cancelled):
        generate(shot, take, "final", stopped, options=options)
    assert max(seen) > 0 and not folder.exists() and not of_another_rank.exists()
    done = generate(shot, take, "final", Stopped(), options=options)
    assert max(seen) > 1 and not folder.exists() and done.is_finished


def test_options_that_preview_has_no_use_for_are_named(shot: Shot) -> None:
    listener = Listener()
    options = GenerateOptions(tier="16", steps=12, detail="full")
    done = generate(shot, conditioned(shot), "preview", listener, options=options)
    assert [line for line in listener.logs if "steps" in line and "tier" in line and "detail" in line]
    assert "no use for" in (done.root / "log.jsonl").read_text(encoding="utf-8")
    assert done.record["generation"] == {"preset": "preview", "seed": 0, "fill": FILL_VERSION}, (
        "so the take says nothing that was not so"
    )
    silent = Listener()
    generate(shot, conditioned(shot), "preview", silent)
    assert not any("no use for" in line for line in silent.logs)


@pytest.mark.parametrize(
    ("chosen", "advice"),
    [
        ({"precision": "float8", "cache": "first-block"}, "Set the precision to exact and run again."),
        ({"precision": "exact", "cache": "first-block"}, "Set the cache to none and run again."),
        (
            {"precision": "exact", "cache": "none", "attention": "_flash_3"},
            "Set the attention to native and run again.",
        ),
    ],
)
def test_the_advice_against_no_numbers_is_what_is_not_plain_yet(chosen: dict[str, str], advice: str) -> None:
    assert diffusion_run.remedy(chosen) == advice
    plain = diffusion_run.remedy({"precision": "exact", "cache": "none", "attention": "native"})
    assert "precision" not in plain and "ex4d models verify" in plain


def test_a_preset_is_checked_with_the_tier_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    from ex4d_engine import methods
    from ex4d_engine.diffusion import run_plan

    asked: list[tuple[RuntimeOptions, int]] = []

    def plan(size: object, options: RuntimeOptions, tokens: int, *_: object) -> tuple[Tier, str, float]:
        asked.append((options, tokens))
        if options.tier == "48":
            raise Ex4dError("out_of_memory", "Too big.", "Choose a smaller one.", "tier:24")
        return TIERS[0], "exact", 1.0

    monkeypatch.setattr(run_plan, "_memory_plan", plan)
    for tier in ("auto", *(tier.name for tier in TIERS)):
        params = methods.check_params("check_preset", {"preset": "final", "options": {"tier": tier, "window": 81}})
        if tier != "48":
            assert methods.run_method("check_preset", params, Silent()) == {}
            continue
        with pytest.raises(Ex4dError) as caught:
            methods.run_method("check_preset", params, Silent())
        assert caught.value.action == "tier:24"
    assert [options.tier for options, _ in asked] == ["auto", *(tier.name for tier in TIERS)]
    require_preset("final")
    assert asked[-1][1] < asked[0][1], "a longer window needs more"
    with pytest.raises(Ex4dError) as refused:
        methods.run_method("check_preset", {"preset": "final", "options": {"tier": "9"}}, Silent())
    assert refused.value.code == "bad_request"
