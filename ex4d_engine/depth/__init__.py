# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth for a plate: one module a source, one registry (`registry.depth_source`)."""

from .registry import DepthClip, DepthFrame, DepthSource, PlatePass, default_source, depth_source, depth_sources

__all__ = ["DepthClip", "DepthFrame", "DepthSource", "PlatePass", "default_source", "depth_source", "depth_sources"]
