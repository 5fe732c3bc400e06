# SPDX-License-Identifier: GPL-3.0-or-later
"""Compiled blocks give what plain ones give, also where they turn out not to compile. By Dynamo alone: no compiler."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ex4d_engine.diffusion import compilation
from ex4d_engine.diffusion.checkpoints import ADAPTER_NAME
from ex4d_engine.diffusion.compilation import CompiledBlocks
from ex4d_engine.diffusion.float8 import Float8
from ex4d_engine.diffusion.loading import load_pipeline
from ex4d_engine.diffusion.pipeline import Ex4dPipeline
from ex4d_engine.diffusion.placement import place_transformer
from ex4d_engine.errors import Ex4dError
from ex4d_engine.progress import Silent
from tests.tiny_model import TEXT_WIDTH, conditioning
from tests.tiny_shot import Listener


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.fx.GraphModule]]:
    """What a compiler would have been given, and runs as it is."""
    given: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Any:
        given.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    yield given
    torch._dynamo.reset()


def placed(folder: Path, adapter: Path, float8: Float8 | None) -> Ex4dPipeline:
    cpu = torch.device("cpu")
    pipeline = load_pipeline(folder, adapter, dtype=torch.float32, device="cpu", reporter=Silent())
    place_transformer(
        pipeline.transformer, cpu, float8=float8, offloaded=False, adapters=[ADAPTER_NAME], reporter=Silent()
    )
    return pipeline


def frames(pipeline: Ex4dPipeline, width: int = 48) -> np.ndarray:
    return pipeline(
        *conditioning(5, 32, width),
        prompt_embeds=torch.zeros(1, 512, TEXT_WIDTH),
        guidance_scale=1.0,
        num_inference_steps=1,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).frames


@pytest.mark.parametrize(("float8", "compiles"), [(None, True), ("storage", False)])
def test_where_compiling_fails_the_run_goes_on_uncompiled(
    model_folder: Path,
    adapter_file: Path,
    graphs: list[torch.fx.GraphModule],
    float8: Float8 | None,
    compiles: bool,
) -> None:
    """Weights that are widened for each use stand for whatever does not compile."""
    pipeline, listener = placed(model_folder, adapter_file, float8), Listener()
    expected = frames(pipeline)
    CompiledBlocks(pipeline.transformer, listener)
    assert np.abs(frames(pipeline) - expected).max() < 5e-5
    assert np.abs(frames(pipeline) - expected).max() < 5e-5
    assert bool(graphs) == compiles
    assert len(listener.logs) == (0 if compiles else 1), "once, and not for each block or forward"
    assert all("uncompiled" in line and "\n" not in line for line in listener.logs)


def test_who_runs_the_models_now_is_told(model_folder: Path, adapter_file: Path) -> None:
    pipeline, first, second = placed(model_folder, adapter_file, "storage"), Listener(), Listener()
    compiled = CompiledBlocks(pipeline.transformer, first)
    compiled.reporter = second
    frames(pipeline)
    assert not first.logs and len(second.logs) == 1


def test_a_compiler_that_is_not_there_is_such_a_failure(
    monkeypatch: pytest.MonkeyPatch, model_folder: Path, adapter_file: Path
) -> None:
    def backend(*_: object) -> Any:
        raise FileNotFoundError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    pipeline, listener = placed(model_folder, adapter_file, None), Listener()
    expected = frames(pipeline)
    CompiledBlocks(pipeline.transformer, listener)
    assert np.array_equal(frames(pipeline), expected)
    (line,) = listener.logs
    assert "no C++ compiler found" in line


def test_a_block_that_fails_by_itself_fails(model_folder: Path, adapter_file: Path) -> None:
    pipeline = placed(model_folder, adapter_file, None)
    for block in pipeline.transformer.blocks:
        block.forward = _out_of_memory
    CompiledBlocks(pipeline.transformer, Silent())
    with pytest.raises(Ex4dError) as caught:
        frames(pipeline)
    assert caught.value.code == "out_of_memory"


def _out_of_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("too much")


def test_sizes_of_earlier_jobs_do_not_keep_a_job_from_compiling(
    monkeypatch: pytest.MonkeyPatch, model_folder: Path, adapter_file: Path, graphs: list[torch.fx.GraphModule]
) -> None:
    """PyTorch keeps compiled sizes for as long as the process lives, up to a limit; Blender's engine serves all day."""
    listener = Listener()
    monkeypatch.setattr(compilation, "SIZES", 1)
    for width in (48, 64, 80):
        pipeline = placed(model_folder, adapter_file, None)
        expected, before = frames(pipeline, width), len(graphs)
        with torch._dynamo.config.patch(recompile_limit=1):
            CompiledBlocks(pipeline.transformer, listener)
            assert np.abs(frames(pipeline, width) - expected).max() < 5e-5
        assert len(graphs) > before, width
    assert not listener.logs


def test_a_job_of_ever_new_sizes_goes_on_uncompiled(
    monkeypatch: pytest.MonkeyPatch, model_folder: Path, adapter_file: Path
) -> None:
    """Compiling takes longer than a forward."""
    monkeypatch.setattr(compilation, "SIZES", 1)
    pipeline, listener = placed(model_folder, adapter_file, None), Listener()
    with torch._dynamo.config.patch(recompile_limit=1):
        compiled = CompiledBlocks(pipeline.transformer, listener)
        for width in (48, 64, 80, 96):
            frames(pipeline, width)
    assert compiled.has_failed and len(listener.logs) == 1
