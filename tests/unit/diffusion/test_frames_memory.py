# SPDX-License-Identifier: GPL-3.0-or-later
"""What frames take of the main memory, measured in a process of its own, against what a run is refused for.

The whole path of both passes, with models that compute nothing but leave what the 14B model and Wan's VAE leave in
main memory when they compute on a graphics card.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

MEASURE = """
import json, sys, threading
from pathlib import Path
import numpy as np
import torch
from ex4d_engine.diffusion import streaming_vae
from ex4d_engine.diffusion.generation import VideoSettings, generate_video, plan_video
from ex4d_engine.diffusion.loading import load_pipeline
from ex4d_engine.progress import Silent
from tests import tiny_model

torch.set_num_threads(1)
TILE = 192
folder, (WIDTH, HEIGHT, num_frames) = Path(sys.argv[1]), map(int, sys.argv[2:])
pipeline = load_pipeline(
    tiny_model.save_model_folder(folder / "model"),
    tiny_model.save_adapter_file(folder / "ex4d.safetensors"),
    dtype=torch.float32, device="cpu", reporter=Silent(),
)

class Camera(torch.nn.Module):
    dtype, device = torch.float32, torch.device("cpu")

    def forward(self, colour, mask):
        return torch.ones(1, 5120, colour.shape[2], colour.shape[3] // 2, colour.shape[4] // 2)

def encoded(video):
    groups = [torch.nn.functional.avg_pool2d(video[0, :, index].float(), 8) for index in range(0, video.shape[2], 4)]
    return torch.stack(groups, dim=1)[None].repeat(1, 6, 1, 1, 1)[:, :16].contiguous()

def first_frame(video):
    latents = (video.shape[2] - 1) // 4 + 1
    return torch.zeros(1, 20, latents, video.shape[3] // 8, video.shape[4] // 8), torch.zeros(1, 257, 1280)

def decode_one(vae, latent, memory, first):
    if memory[0] is None:
        pixels = latent.shape[-2] * latent.shape[-1] * 64
        memory[:10] = [torch.ones(2365 * pixels // 10) for _ in range(10)]
    frames = latent[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2)
    return frames.expand(-1, -1, 1 if first else 4, -1, -1).clone()

pipeline.encode_video, pipeline.encode_first_frame, pipeline.camera_encoder = encoded, first_frame, Camera()
pipeline.predict_velocity = lambda latents, *_: latents * 0.1
streaming_vae._decode_one = decode_one

def read(index):
    return np.full((HEIGHT, WIDTH, 3), index, np.uint8), np.full((HEIGHT, WIDTH), 255, np.uint8)

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

settings = VideoSettings(steps=2, guidance_scale=1.0, area=TILE**2, detail_area=WIDTH * HEIGHT, detail_strength=0.5)
before = resident()
ended, peaks = threading.Event(), [before]

def watch():
    while not ended.wait(0.002):
        peaks.append(resident())

watcher = threading.Thread(target=watch)
watcher.start()
prompts = (torch.zeros(1, 9, tiny_model.TEXT_WIDTH), None)
scratch, on_disk = folder / "decoder", 0
for frame in generate_video(
    pipeline, read, num_frames, WIDTH, HEIGHT, settings, prompts, Silent(), scratch=scratch
):
    on_disk = max(on_disk, sum(file.stat().st_size for file in scratch.iterdir()) if scratch.is_dir() else 0)
ended.set()
watcher.join()
plan = plan_video(num_frames, WIDTH, HEIGHT, settings)
print(json.dumps({
    "peak": max(peaks) - before, "reckoned": plan.host_bytes(), "on_disk": on_disk, "to_wait": plan.scratch_bytes()
}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="only Linux tells the kinds of memory apart")
@pytest.mark.parametrize("clip", ["640 384 49", "320 192 121"])
def test_frames_take_what_a_run_is_refused_for(tmp_path: Path, clip: str) -> None:
    command = [sys.executable, "-c", MEASURE, str(tmp_path), *clip.split()]
    # glibc gives back at once what is freed: else the peak is also of how threads took turns
    at_once = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=True, env={**os.environ, **at_once}
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert 0.6 * said["reckoned"] < said["peak"] < said["reckoned"]
    assert said["on_disk"] == pytest.approx(said["to_wait"], rel=0.01)
