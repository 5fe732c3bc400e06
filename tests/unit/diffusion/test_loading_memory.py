# SPDX-License-Identifier: GPL-3.0-or-later
"""What loading a transformer takes of the main memory, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.conftest import REPOSITORY
from tests.tiny_model import TRANSFORMER

MIDDLING = {**TRANSFORMER, "num_attention_heads": 12, "attention_head_dim": 64, "ffn_dim": 3072, "num_layers": 6}

MEASURE = """
import json, sys, threading
from pathlib import Path
import torch
from ex4d_engine.diffusion.loading import load_component
from ex4d_engine.diffusion.transformer import Ex4dTransformer3DModel

def resident(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))

before, mapped = resident("RssAnon"), resident("RssFile")
ended, peaks = threading.Event(), [before]

def watch():
    while not ended.wait(0.001):
        peaks.append(resident("RssAnon"))

watcher = threading.Thread(target=watch)
watcher.start()
model = load_component(Ex4dTransformer3DModel, Path(sys.argv[1]), getattr(torch, sys.argv[2]))
ended.set()
watcher.join()
own = max(*peaks, resident("RssAnon")) - before
size = sum(weight.nbytes for weight in model.parameters())
print(json.dumps({"own": own / size, "mapped": (resident("RssFile") - mapped) / size}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("Ünï 作業 transformer")
    WanTransformer3DModel(**{**MIDDLING, "added_kv_proj_dim": 768}).save_pretrained(folder, max_shard_size="40MB")
    assert len(list(folder.glob("*.safetensors"))) > 4
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells the kinds of memory apart")
@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 1.25), ("float32", 0.25)])
def test_no_weight_is_in_memory_twice_and_no_file_stays_mapped(folder: Path, dtype: str, most: float) -> None:
    """In the file's own precision nothing is copied at all; in another there is that one copy."""
    command = [sys.executable, "-c", MEASURE, str(folder), dtype]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True).stdout
    shares = json.loads(said.splitlines()[-1])
    assert shares["own"] < most
    assert shares["mapped"] < 0.25
