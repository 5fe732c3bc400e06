# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

import pytest

from ex4d_engine.diffusion.folder_adapter import folder_adapter, follows_cameras


@pytest.mark.parametrize(("name", "is_file"), [("ex4d.safetensors", True), ("ex4d", False)])
def test_an_adapter_is_a_file_or_a_folder_of_shards(tmp_path: Path, name: str, is_file: bool) -> None:
    (tmp_path / name).touch() if is_file else (tmp_path / name).mkdir()
    assert folder_adapter(tmp_path) == tmp_path / name and follows_cameras(tmp_path)


def test_a_saved_pipeline_has_a_camera_encoder_and_no_adapter(tmp_path: Path) -> None:
    assert folder_adapter(tmp_path) is None and not follows_cameras(tmp_path)
    (tmp_path / "camera_encoder").mkdir()
    assert folder_adapter(tmp_path) is None and follows_cameras(tmp_path)
