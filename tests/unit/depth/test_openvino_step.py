# SPDX-License-Identifier: GPL-3.0-or-later
"""The depth network's step by OpenVINO, on a network of random weights: torch's numbers, or torch."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ex4d_engine.depth import depth_source, openvino_step
from ex4d_engine.depth.network import DepthNetwork, Memory, NetworkShape, folded
from ex4d_engine.depth.network_weights import load_weights, save_weights
from ex4d_engine.depth.openvino_step import LEAST_FRAMES, Step
from ex4d_engine.errors import Cancelled
from ex4d_engine.progress import Silent

SHAPE = NetworkShape(
    widths=(4, 6, 8, 8, 8), blocks=(1, 1, 1, 1), key=4, reach=1, motion=4, memory=6, drawn=(8, 8, 6, 4)
)
SIZE = (96, 64)
SHORT = 24  # frames, where clips of few frames shall count
installed = pytest.mark.skipif(openvino_step.openvino_version() is None, reason="OpenVINO is not installed")


class Listener(Silent):
    """Keeps what is logged; cancels itself where it is told to."""

    def __init__(self, cancel_at: str = "nothing") -> None:
        super().__init__()
        self.said: list[str] = []
        self._cancel_at = cancel_at

    def log(self, message: str) -> None:
        self.said.append(message)
        if self._cancel_at in message:
            self.cancelled.set()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EX4D_CACHE", str(tmp_path / "Zwischenspeicher für Tiefe"))
    return tmp_path / "Zwischenspeicher für Tiefe" / "depth"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    new_weights(path, seed=1)
    return path


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is kept of the network of `weights`."""
    folder = tmp_path_factory.mktemp("converted")
    new_weights(folder / "weights.safetensors", seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EX4D_CACHE", str(folder))
        assert step_of(folder / "weights.safetensors") is not None
    (path,) = (folder / "depth").iterdir()
    return path


@pytest.fixture
def kept(converted: Path, cache: Path) -> Path:
    """The same in this test's own cache."""
    cache.mkdir(parents=True)
    return Path(shutil.copy(converted, cache))


def new_weights(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    save_weights(DepthNetwork(SHAPE), path, {})


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each conversion."""
    made: list[int] = []
    convert = openvino_step._converted

    def counted(*arguments: Any) -> Any:
        made.append(1)
        return convert(*arguments)

    monkeypatch.setattr(openvino_step, "_converted", counted)
    return made


def step_of(weights: Path, reporter: Silent | None = None, frame_count: int = LEAST_FRAMES) -> Step | None:
    return openvino_step.openvino_step(folded(load_weights(weights)), weights, SIZE, frame_count, reporter or Silent())


def maps_of(step: Step, count: int = 4) -> Iterator[np.ndarray]:
    """(3, H, W) of each frame of a clip of noise, and of the memory's parts, which the frames pass on."""
    generator = torch.Generator().manual_seed(2)
    memory: Memory | None = None
    for _ in range(count):
        maps, memory = step(torch.rand(1, 3, SIZE[1], SIZE[0], generator=generator), memory)
        yield torch.cat([*maps]).numpy()
        yield from (part.numpy() for part in memory)


def assert_same(step: Step, weights: Path) -> None:
    for ours, torchs in zip(maps_of(step), maps_of(folded(load_weights(weights)).step), strict=True):
        np.testing.assert_allclose(ours, torchs, rtol=1e-4, atol=1e-4 * np.abs(torchs).mean())


@installed
def test_it_gives_torch_s_numbers_and_is_converted_once(weights: Path, cache: Path, conversions: list[int]) -> None:
    first = step_of(weights)
    assert first is not None and len(conversions) == 1
    assert_same(first, weights)
    assert [path.suffix for path in cache.iterdir()] == [".openvino"]

    again = step_of(weights)
    assert again is not None and len(conversions) == 1
    for now, before in zip(maps_of(again), maps_of(first), strict=True):
        np.testing.assert_array_equal(now, before)


@installed
def test_what_it_answers_is_not_overwritten_by_the_next_frame(weights: Path, kept: Path) -> None:
    step = step_of(weights)
    assert step is not None
    held = list(maps_of(step))
    for late, early in zip(held, (part.copy() for part in maps_of(step)), strict=True):
        np.testing.assert_array_equal(late, early)


@installed
@pytest.mark.parametrize("damage", ["empty", "cut", "changed", "of another size"])
def test_damage_is_found(weights: Path, kept: Path, damage: str) -> None:
    example = openvino_step._example(folded(load_weights(weights)), (64, 64) if damage == "of another size" else SIZE)
    data = kept.read_bytes()
    assert (openvino_step._model(data, example) is None) == (damage == "of another size")
    kept.write_bytes(
        {"empty": b"", "cut": data[: len(data) // 2], "changed": data[:-9] + b"!" + data[-8:]}.get(damage, data)
    )
    assert openvino_step._model(kept.read_bytes(), example) is None


@installed
def test_a_damaged_file_is_made_again(weights: Path, kept: Path, conversions: list[int]) -> None:
    kept.write_bytes(kept.read_bytes()[:-1])
    step = step_of(weights)
    assert step is not None and len(conversions) == 1
    assert_same(step, weights)
    assert step_of(weights) is not None and len(conversions) == 1


@installed
def test_other_weights_are_converted_by_themselves_and_few_are_kept(
    weights: Path, kept: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_step, "_KEPT", 1)
    new_weights(weights, seed=3)
    step = step_of(weights)
    assert step is not None
    assert_same(step, weights)
    assert not kept.exists() and len(list(cache.iterdir())) == 1


@installed
def test_a_cache_that_cannot_be_written_is_no_hindrance(weights: Path, cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    listener = Listener()
    step = step_of(weights, listener)
    assert step is not None and any("could not be kept" in said for said in listener.said)
    assert_same(step, weights)


def test_short_clips_go_by_torch(weights: Path, cache: Path) -> None:
    listener = Listener()
    assert step_of(weights, listener, LEAST_FRAMES - 1) is None and not listener.said
    assert not cache.exists()


def depths(weights: Path, reporter: Silent) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    clip = [rng.integers(0, 256, (32, 48, 3), dtype=np.uint8) for _ in range(SHORT)]
    made = depth_source("bundled", weights=weights, device="cpu").estimate(
        lambda: iter(clip), len(clip), (48, 32), reporter
    )
    return [frame.depth for frame in made.frames]


def by_torch(weights: Path, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    with monkeypatch.context() as patch:
        patch.setattr("ex4d_engine.depth.bundled.openvino_step", lambda *_: None)
        return depths(weights, Silent())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets clips of few and small frames count."""
    monkeypatch.setattr("ex4d_engine.depth.bundled.WORKING_SIDE", 96)
    monkeypatch.setattr(openvino_step, "LEAST_FRAMES", SHORT)


@installed
@pytest.mark.usefixtures("small")
def test_the_source_uses_it(weights: Path, conversions: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    made = depths(weights, listener)
    assert len(conversions) == 1 and len(listener.said) == 1 and "kept for the next clip" in listener.said[0]
    for ours, torchs in zip(made, by_torch(weights, monkeypatch), strict=True):
        # a pixel whose probability of sky lies on the threshold may be either
        assert np.isclose(ours, torchs, rtol=1e-3).mean() > 0.999


@pytest.mark.usefixtures("small")
def test_without_openvino_torch_does_it(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_torch(weights, monkeypatch)
    monkeypatch.setattr(openvino_step, "openvino_version", lambda: None)
    listener = Listener()
    np.testing.assert_array_equal(depths(weights, listener), expected)
    assert len(listener.said) == 1 and "not installed" in listener.said[0]


@installed
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("part", ["_converted", "_compiled"])
def test_where_openvino_fails_torch_does_it(weights: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    expected = by_torch(weights, monkeypatch)

    def failing(*_: Any) -> None:
        raise RuntimeError("Check 'false' failed\nat src/core.cpp:7")

    monkeypatch.setattr(openvino_step, part, failing)
    listener = Listener()
    np.testing.assert_array_equal(depths(weights, listener), expected)
    assert listener.said[-1] == "OpenVINO fails (Check 'false' failed): the depth network runs by torch."


@installed
def test_where_its_numbers_are_others_torch_does_it(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = openvino_step._converted

    def another(network: DepthNetwork, example: tuple[torch.Tensor, ...]) -> Any:
        torch.manual_seed(9)
        return convert(folded(DepthNetwork(SHAPE).eval()), example)

    monkeypatch.setattr(openvino_step, "_converted", another)
    listener = Listener()
    assert step_of(weights, listener) is None
    assert "not torch's" in listener.said[-1]


@installed
def test_what_fails_in_the_middle_goes_on_by_torch(weights: Path) -> None:
    class Failing:
        def infer(self, _: Any) -> None:
            raise RuntimeError("no memory")

    listener = Listener()
    step = openvino_step._OpenVinoStep(folded(load_weights(weights)), Failing(), listener)
    assert_same(step, weights)
    assert len(listener.said) == 1


@installed
def test_it_can_be_cancelled_while_it_is_prepared(weights: Path) -> None:
    with pytest.raises(Cancelled):
        step_of(weights, Listener(cancel_at="Preparing"))


def signal_stack() -> tuple[int | None, int, int]:
    stack = openvino_step._SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.place, stack.flags, stack.size


@installed
@pytest.mark.skipif(sys.platform != "linux", reason="there OpenVINO sets no stack for signals")
def test_signals_are_handled_where_they_were_before(weights: Path) -> None:
    """On OpenVINO's own stack, which it gives back later, the next signal would end the program."""
    before = signal_stack()
    step = step_of(weights)
    assert step is not None
    list(maps_of(step))
    assert signal_stack() == before


@installed
def test_openvino_reports_nothing_to_anybody() -> None:
    code = (
        "import sys; from ex4d_engine.depth.openvino_step import _openvino; _openvino()\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "assert telemetry_utils.tm.__name__ == 'openvino.tools.ovc.telemetry_stub'\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
