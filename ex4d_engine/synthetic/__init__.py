# SPDX-License-Identifier: GPL-3.0-or-later
"""Procedural scenes with exact depth, cameras, flow and any number of views: for training, evaluation and tests.

Imports torch and nothing else, so that it runs on a bare training machine.
"""

from .cameras import camera_path
from .clips import ClipBatch, Views, random_clips, render_views
from .scenes import Scenes, random_scenes

__all__ = ["ClipBatch", "Scenes", "Views", "camera_path", "random_clips", "random_scenes", "render_views"]
