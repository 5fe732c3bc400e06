# SPDX-License-Identifier: GPL-3.0-or-later
"""A run of the model that ends before its end: nothing half-written, memory given back, and the next one goes on."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ex4d_engine.diffusion import loading, runtime, streaming_vae
from ex4d_engine.diffusion.transformer import Ex4dTransformer3DModel
from ex4d_engine.errors import Cancelled, Ex4dError
from ex4d_engine.image_files import read_png
from ex4d_engine.progress import Silent
from ex4d_engine.shot import Shot
from ex4d_engine.stages import GenerateOptions, generate, render, require_preset
from ex4d_engine.take import Take, list_takes, load_take
from tests import tiny_model
from tests.tiny_shot import Listener, contents, orbit_take

WINDOWS = GenerateOptions(steps=2, area=1024, window=9, overlap=5, prompt="a camera", negative_prompt="blurred")
"""Two windows over ten frames: of 0 … 8 and, after a shift of four, of the rest."""

generate_stage = importlib.import_module("ex4d_engine.stages.generate")  # the package's own name is the function

pytestmark = pytest.mark.usefixtures("models")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """Every model that a run has loaded, without holding it."""
    loaded: list[weakref.ref[Any]] = []
    load = runtime.load_pipeline

    def watched(*arguments: Any, **named: Any) -> Any:
        pipeline = load(*arguments, **named)
        parts = (part for part in pipeline.components.values() if isinstance(part, torch.nn.Module))
        loaded.extend(weakref.ref(part) for part in parts)
        return pipeline

    monkeypatch.setattr(runtime, "load_pipeline", watched)
    return loaded


def conditioned(shot: Shot) -> Take:
    return render(shot, orbit_take(shot, 12.0, count=10), Silent())


def run(shot: Shot, take: Take, reporter: Silent | None = None) -> Take:
    return generate(shot, load_take(shot, take.name), "final", reporter or Silent(), seed=3, options=WINDOWS)


def frames(take: Take) -> list[bytes]:
    return [take.file("generated", number).read_bytes() for number in take.numbers]


def half_written(take: Take) -> list[Path]:
    """Temporary files, and pictures that are none."""
    for number in take.numbers:
        if take.file("generated", number).is_file():
            read_png(take.file("generated", number))
    return [path for path in take.root.rglob(".*") if path.is_file()]


def forwards(take: Take) -> int:
    return int(take.record["forwards"]["begun"])


def in_call(number: int, then: Callable[[], None], call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, and `then` before its call of that number, from 0."""
    calls = iter(range(10**6))

    def counted(*arguments: Any, **named: Any) -> Any:
        if next(calls) == number:
            then()
        return call(*arguments, **named)

    return counted


@pytest.mark.parametrize(("latent", "windows_left"), [(1, 1), (3, 0), (4, 0)])
def test_a_cancel_in_the_decoder_is_heard_there_and_costs_no_step(
    shot: Shot, monkeypatch: pytest.MonkeyPatch, opened: list[weakref.ref[Any]], latent: int, windows_left: int
) -> None:
    whole = run(shot, conditioned(shot))
    take, reporter = conditioned(shot), Silent()
    with monkeypatch.context() as patch:
        patch.setattr(streaming_vae, "_decode_one", in_call(latent, reporter.cancelled.set, streaming_vae._decode_one))
        with pytest.raises(Cancelled) as caught:
            run(shot, take, reporter)
        assert len(opened) > 6 and not [part() for part in opened if part() is not None], "while the error is at hand"
    assert caught.value.code == "cancelled" and not half_written(take)
    stopped = load_take(shot, take.name)
    done = run(shot, take)
    assert frames(done) == frames(whole)
    per_window = forwards(whole) // 2
    assert (forwards(stopped), forwards(done)) == ((2 - windows_left) * per_window, forwards(whole))


def full_disk(monkeypatch: pytest.MonkeyPatch, start: str, number: int) -> None:
    """The disk is full in the middle of the write of that number, from 0, among files whose name starts so."""
    write, replace = Path.write_bytes, os.replace
    seen: list[str] = []

    def renaming(source: Any, target: Any) -> None:
        if Path(target).name.startswith(start):
            seen.append(str(target))
            if len(seen) > number:
                write(Path(source), Path(source).read_bytes()[:10])
                raise OSError(errno.ENOSPC, "No space left on device", str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", renaming)


@pytest.mark.parametrize("number", [1])
def test_a_full_disk_under_a_window_loses_that_window_only(
    shot: Shot, monkeypatch: pytest.MonkeyPatch, opened: list[weakref.ref[Any]], number: int
) -> None:
    whole, take = run(shot, conditioned(shot)), conditioned(shot)
    with monkeypatch.context() as patch:
        full_disk(patch, "first_", number)
        with pytest.raises(Ex4dError) as caught:
            run(shot, take)
        assert not [part() for part in opened if part() is not None]
    assert caught.value.code == "disk_full" and "latents" in caught.value.message
    assert len(caught.value.message.splitlines()) == 1 and not half_written(take)
    assert len(list((take.root / "latents").iterdir())) == number
    assert forwards(load_take(shot, take.name)) == (number + 1) * forwards(whole) // 2
    done = run(shot, take)
    assert frames(done) == frames(whole) and not (done.root / "latents").exists()


@pytest.mark.parametrize("number", [3])
def test_a_full_disk_under_the_frames_keeps_the_windows(
    shot: Shot, monkeypatch: pytest.MonkeyPatch, opened: list[weakref.ref[Any]], number: int
) -> None:
    whole, take = run(shot, conditioned(shot)), conditioned(shot)
    with monkeypatch.context() as patch:
        full_disk(patch, "generated", number)
        with pytest.raises(Ex4dError) as caught:
            run(shot, take)
        assert not [part() for part in opened if part() is not None]
    assert caught.value.code == "disk_full" and not half_written(take)
    assert take.missing("generated")
    stopped = load_take(shot, take.name)
    done = run(shot, take)
    assert frames(done) == frames(whole)
    assert forwards(done) == forwards(whole) >= forwards(stopped)


def test_out_of_memory_in_a_step_offers_the_next_tier_and_lets_go(
    shot: Shot, monkeypatch: pytest.MonkeyPatch, opened: list[weakref.ref[Any]]
) -> None:
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    take = conditioned(shot)
    with monkeypatch.context() as patch:
        block = Ex4dTransformer3DModel.forward
        patch.setattr(Ex4dTransformer3DModel, "forward", in_call(3, full, block))
        with pytest.raises(Ex4dError) as caught:
            run(shot, take)
        assert not [part() for part in opened if part() is not None], "while the error is at hand"
    assert (caught.value.code, caught.value.action) == ("out_of_memory", "tier:24")
    assert not half_written(take) and not run(shot, take).missing("generated")


# --- a finished take, and a run over it that makes nothing --------------------------------------------------------


@pytest.fixture
def finished(shot: Shot) -> Take:
    """Preset `preview`'s, which takes no time."""
    return generate(shot, conditioned(shot), "preview", Silent())


@pytest.mark.parametrize(
    ("refused", "code"),
    [
        ({"overlap": 9}, "bad_request"),
        ({"attention": "magic"}, "bad_request"),
        ({"gpus": 2, "guidance": 1.0, "cache": "first-block"}, "bad_request"),
        ({"adapter": "{}"}, "model_invalid"),
    ],
)
def test_a_run_that_is_refused_leaves_no_take(
    shot: Shot, finished: Take, tmp_path: Path, refused: dict[str, Any], code: str
) -> None:
    """The adapter is one of another model."""
    save_other_adapter(tmp_path / "other.safetensors")
    options = dataclasses.replace(
        WINDOWS,
        **{name: str(tmp_path / "other.safetensors") if value == "{}" else value for name, value in refused.items()},
    )
    before = contents(finished.root)
    with pytest.raises(Ex4dError) as caught:
        generate(shot, finished, "final", Silent(), options=options)
    assert caught.value.code == code
    assert list_takes(shot) == [finished.name] and contents(finished.root) == before
    assert sorted(path.name for path in shot.takes_folder.iterdir()) == [finished.name]


def save_other_adapter(path: Path) -> None:
    """An adapter for a transformer of another width."""
    tensors = load_file(tiny_model.save_adapter_file(path))
    save_file({name: torch.zeros(*(2 * side for side in value.shape)) for name, value in tensors.items()}, path)


def test_windows_that_cannot_overlap_so_are_refused_before_any_work() -> None:
    with pytest.raises(Ex4dError) as caught:
        require_preset("final", GenerateOptions(window=49, overlap=49))
    assert caught.value.code == "bad_request" and "share from 1 to 45 frames, not 49" in caught.value.message


def test_a_full_disk_under_the_copy_leaves_no_take(shot: Shot, finished: Take, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(generate_stage, "link_or_copy", in_call(3, full, generate_stage.link_or_copy))
        with pytest.raises(OSError, match="No space"):
            generate(shot, finished, "final", Silent(), options=WINDOWS)
    assert list_takes(shot) == [finished.name]


@pytest.mark.parametrize(
    ("stage", "after", "kept"), [("load model", 1, False), ("denoise", 1, False), ("denoise", 5, True)]
)
def test_a_cancelled_run_leaves_a_take_only_where_it_made_something(
    shot: Shot, finished: Take, stage: str, after: int, kept: bool
) -> None:
    """Two steps are a window: it is kept, and the next run of the same settings goes on from it."""
    with pytest.raises(Cancelled):
        generate(shot, finished, "final", Listener(stop_in=stage, after=after), seed=3, options=WINDOWS)
    assert (len(list_takes(shot)) == 2) == kept
    done = generate(shot, finished, "final", Silent(), seed=3, options=WINDOWS)
    assert len(list_takes(shot)) == 2 and not done.missing("generated")


# --- while it loads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "after"), [("load model", 1), ("load model", 2), ("load model", 3), ("place model", 1)]
)
def test_a_cancel_while_loading_gives_the_memory_back(
    shot: Shot, monkeypatch: pytest.MonkeyPatch, stage: str, after: int
) -> None:
    """Whatever had been loaded by then is gone while the error is still at hand."""
    loaded: list[weakref.ref[Any]] = []
    load = loading.load_component

    def watched(*arguments: Any, **named: Any) -> Any:
        model = load(*arguments, **named)
        loaded.extend(weakref.ref(part) for part in (model, *model.parameters()))
        return model

    monkeypatch.setattr(loading, "load_component", watched)
    take = conditioned(shot)
    with pytest.raises(Cancelled) as caught:
        generate(shot, take, "final", Listener(stop_in=stage, after=after), seed=3, options=WINDOWS)
    assert loaded and not [part() for part in loaded if part() is not None], "while the error is at hand"
    assert caught.value.code == "cancelled" and not half_written(take)
    assert load_take(shot, take.name).missing("generated") == list(take.numbers)
