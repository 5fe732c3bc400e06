# SPDX-License-Identifier: GPL-3.0-or-later
"""The depth network's step by OpenVINO on the CPU: torch's numbers in less time (docs/performance.md).

It is optional. Where it is missing, fails or does not agree with torch, the log says so and torch goes on. The
converted network is kept in the cache folder: one file for each working size.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import Cancelled, Ex4dError
from ..files import write_bytes
from ..places import cache_folder
from ..progress import Reporter
from . import network as network_source
from .network import DepthMaps, DepthNetwork, Memory

Step = Callable[[Tensor, Memory | None], tuple[DepthMaps, Memory]]
"""As `DepthNetwork.step`."""

INPUTS: Final = ("image", "near_key", "far_key", "state")
OUTPUTS: Final = ("inverse_depth", "log_error", "sky", "next_near_key", "next_far_key", "next_state")
LEAST_FRAMES: Final = 48
"""Of a clip that is worth it. On two idle cores a frame takes about 30 ms less: loading a kept network (1 s) has paid
by then, converting one (3 s) pays within 120 frames, and the next clips of the same shape have it for nothing. Whether
there is one to load has no say, so that a clip's depth does not depend on which clips came before it."""
_KEPT: Final = 6  # converted networks, of 20 MB each; nobody has clips of many shapes
_LIKE_TORCH: Final = 1e-3  # of the largest value; rounding in single precision stays far below
_DIGEST: Final = 32  # bytes of a SHA-256


class TensorStep(nn.Module):
    """`DepthNetwork.step` from `INPUTS` to `OUTPUTS`: tensors alone, as exporters want it."""

    def __init__(self, network: DepthNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, near_key: Tensor, far_key: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """One frame (1, 3, H, W) with what the frame before left."""
        maps, memory = self.network.step(image, Memory(near_key, far_key, state))
        return (*maps, *memory)


def openvino_version() -> str | None:
    """Of the installed OpenVINO; None where there is none. Imports nothing."""
    try:
        return metadata.version("openvino")
    except metadata.PackageNotFoundError:
        return None


def openvino_step(
    network: DepthNetwork, weights: Path, size: tuple[int, int], frame_count: int, reporter: Reporter
) -> Step | None:
    """The network's step on the CPU by OpenVINO, with as many threads as torch has.

    Args:
        network: on the CPU, folded.
        weights: the file that it was read from.
        size: (width, height) of the frames that it will see, multiples of 32.
        frame_count: of the clip.
        reporter: told of what takes seconds, and why torch has to do where it has to.

    Returns: None where torch is to go on: for a short clip, and wherever OpenVINO is missing or fails.

    Raises:
        Ex4dError: `cancelled`.
    """
    if frame_count < LEAST_FRAMES:
        return None
    version = openvino_version()
    if version is None:
        reporter.log("OpenVINO is not installed: the depth network runs by torch, which is slower.")
        return None
    try:
        path = cache_folder() / "depth" / f"{size[0]}x{size[1]}-{_key(weights, size, version)}.openvino"
        example = _example(network, size)
        model = _kept_model(path, example)
        if model is None:
            reporter.log(f"Preparing the depth network for {size[0]} × {size[1]}; this is kept for the next clip.")
            data = _converted(network, example)
            reporter.check()
            _keep(data, path, reporter)
            # not the one at hand: read again, its operations come in another order and round otherwise
            model = _model(data, example)
        step = _OpenVinoStep(network, _compiled(model), reporter)
        reporter.check()
        if _agree(step, network, example):
            return step
        reporter.log("OpenVINO's depth is not torch's on this machine: the depth network runs by torch.")
    except Cancelled:
        raise
    except Exception as error:  # whatever a runtime raises that is not needed: torch does the same
        reporter.log(f"OpenVINO fails ({_first_line(error)}): the depth network runs by torch.")
    return None


class _OpenVinoStep:
    """A `Step`. The first frame of a clip, whose memory is its own features, is torch's."""

    def __init__(self, network: DepthNetwork, request: Any, reporter: Reporter) -> None:
        self._network, self._request, self._reporter = network, request, reporter

    def __call__(self, image: Tensor, memory: Memory | None) -> tuple[DepthMaps, Memory]:
        if memory is None or self._request is None:
            return self._network.step(image, memory)
        try:
            made = self._request.infer([value.contiguous().numpy() for value in (image, *memory)])
        except RuntimeError as error:
            self._reporter.log(f"OpenVINO fails ({_first_line(error)}): the depth network goes on by torch.")
            self._request = None
            return self._network.step(image, memory)
        # copies: the next frame's values will lie where these do
        values = [torch.from_numpy(np.array(made[place])) for place in range(len(OUTPUTS))]
        return DepthMaps(*values[:3]), Memory(*values[3:])


def _openvino() -> Any:
    """The module. `import openvino` alone reports itself to a statistics service unless its telemetry is missing, for
    which it has a stub; so it never finds it."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's way to say that there is none
    import openvino

    return openvino


def _key(weights: Path, size: tuple[int, int], version: str) -> str:
    """Names what a converted network was made of and by."""
    digest = hashlib.sha256(f"{size} {version} {torch.__version__}".encode())
    for path in (weights, Path(network_source.__file__), Path(__file__)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


@torch.no_grad()
def _example(network: DepthNetwork, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """A second frame of noise and what the first one left: `INPUTS`."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 1, 3, size[1], size[0], generator=generator)
    _, memory = network.step(first)
    return tuple(value.contiguous() for value in (second, *memory))


@torch.no_grad()
def _converted(network: DepthNetwork, example: tuple[Tensor, ...]) -> bytes:
    """The network as a file's content: a digest of the rest, the graph's length, the graph, its weights."""
    openvino = _openvino()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: the sizes are meant to be fixed
        # traced here, as OpenVINO would trace it twice to compare
        traced = torch.jit.trace(TensorStep(network).eval(), example, check_trace=False)
        shapes = [tuple(value.shape) for value in example]
        model = openvino.convert_model(traced, example_input=example, input=shapes)
    for port, name in zip((*model.inputs, *model.outputs), INPUTS + OUTPUTS, strict=True):
        port.get_tensor().set_names({name})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        graph, constants = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    body = len(graph).to_bytes(8, "little") + graph + constants
    return hashlib.sha256(body).digest() + body


def _keep(data: bytes, path: Path, reporter: Reporter) -> None:
    """Writes what was converted; a cache that cannot be written costs the next clip some seconds and nothing else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
        kept = sorted(path.parent.glob("*.openvino"), key=lambda file: file.stat().st_mtime)
        for old in kept[:-_KEPT]:
            old.unlink(missing_ok=True)
    except (OSError, Ex4dError) as error:
        reporter.log(f"The prepared depth network could not be kept ({_first_line(error)}).")


def _kept_model(path: Path, example: tuple[Tensor, ...]) -> Any:
    """The model that was kept, None where there is none or it cannot be used; marked as the one used last."""
    try:
        model = _model(path.read_bytes(), example)
    except OSError:
        return None
    if model is not None:
        with contextlib.suppress(OSError):  # a cache that only others may write to
            os.utime(path)
    return model


def _model(data: bytes, example: tuple[Tensor, ...]) -> Any:
    """The model of what `_converted` returned for inputs like the example; None for anything else."""
    digest, body = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        return None
    graph = 8 + int.from_bytes(body[:8], "little")
    try:
        model = _openvino().Core().read_model(body[8:graph], body[graph:])
        named = tuple(port.get_any_name() for port in (*model.inputs, *model.outputs))
        shapes = [tuple(port.get_partial_shape().to_shape()) for port in model.inputs]
    except RuntimeError:
        return None
    fits = named == INPUTS + OUTPUTS and shapes == [tuple(value.shape) for value in example]
    return model if fits else None


def _compiled(model: Any) -> Any:
    """A request to infer. In single precision, else it would be another network where the processor can do less; its
    threads are not bound to cores, as Blender may render on the same ones."""
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    with same_signal_stack():
        return _openvino().Core().compile_model(model, "CPU", settings).create_infer_request()


class _SignalStack(ctypes.Structure):
    """Linux's `stack_t`."""

    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def same_signal_stack() -> Iterator[None]:
    """Leaves the thread the stack that its signals are handled on.

    Compiling for the CPU sets one of OpenVINO's own, on Linux, whose memory it gives back later: then a handler of
    Python's has nowhere to run, and Ctrl-C is a segmentation fault (seen with 2026.4.1).
    """
    if sys.platform != "linux":
        yield
        return
    library, before = ctypes.CDLL(None), _SignalStack()
    known = library.sigaltstack(None, ctypes.byref(before)) == 0
    try:
        yield
    finally:
        if known:
            library.sigaltstack(ctypes.byref(before), None)


@torch.no_grad()
def _agree(step: Step, network: DepthNetwork, example: tuple[Tensor, ...]) -> bool:
    """Whether a step gives torch's numbers; asked each time, as this runs on processors where it was never tried."""
    image, memory = example[0], Memory(*example[1:])
    pairs = zip(_values(step(image, memory)), _values(network.step(image, memory)), strict=True)
    return all(_close(ours.numpy(), torchs.numpy()) for ours, torchs in pairs)


def _values(made: tuple[DepthMaps, Memory]) -> tuple[Tensor, ...]:
    return (*made[0], *made[1])


def _close(ours: np.ndarray, torchs: np.ndarray) -> bool:
    largest = float(np.nan_to_num(np.abs(torchs), nan=0.0, posinf=0.0).max())
    return bool(np.allclose(ours, torchs, rtol=_LIKE_TORCH, atol=_LIKE_TORCH * largest, equal_nan=True))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
