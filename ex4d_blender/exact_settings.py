# SPDX-License-Identifier: GPL-3.0-or-later
"""A copied scene made ready for the conditioning: emptied, and with settings that leave colours as they are."""

from __future__ import annotations

import bpy

from . import compat


def empty(stage: bpy.types.Scene, layer_name: str) -> None:
    """Takes everything out of the copied scene that could draw or move something; one view layer stays."""
    for child in list(stage.collection.children):
        stage.collection.children.unlink(child)
    for item in list(stage.collection.objects):
        stage.collection.objects.unlink(item)
    for layer in list(stage.view_layers):
        if layer.name != layer_name:
            stage.view_layers.remove(layer)
    layer = stage.view_layers[0]
    layer.use = True
    layer.material_override = None
    stage.animation_data_clear()  # animated render settings would come back at every frame
    stage.timeline_markers.clear()  # markers switch cameras
    stage.background_set = None


def apply_exact_settings(stage: bpy.types.Scene, engine: str, include_cg: bool) -> None:
    """Settings with which a picture comes out as it went in: measured, 0 of 255 from the source camera."""
    render = stage.render
    render.engine = compat.CYCLES if engine == "CYCLES" else compat.eevee_engine()
    render.resolution_percentage = 100
    render.film_transparent = True
    render.dither_intensity = 0.0
    render.filter_size = 0.01
    for off in (
        "use_border",
        "use_compositing",
        "use_freestyle",
        "use_motion_blur",
        "use_multiview",
        "use_persistent_data",
        "use_sequencer",
        "use_stamp",
    ):
        setattr(render, off, False)
    compat.set_still_png(render)
    stage.display_settings.display_device = "sRGB"
    view = stage.view_settings
    view.view_transform, view.look = "Standard", "None"
    view.exposure, view.gamma = 0.0, 1.0
    view.use_curve_mapping = False
    if hasattr(view, "use_white_balance"):  # 4.3 on
        view.use_white_balance = False
    if not include_cg:
        stage.world = None
    if engine == "CYCLES":
        cycles = stage.cycles
        # not the box filter: from the second sample on it is a pixel wide, whatever its width is set to
        cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 0.01
        cycles.film_exposure = 1.0
        cycles.use_denoising = False  # it would smooth the plate
        if not include_cg:
            cycles.samples, cycles.max_bounces, cycles.use_adaptive_sampling = 1, 0, False
    elif not include_cg:
        stage.eevee.taa_render_samples = 1
