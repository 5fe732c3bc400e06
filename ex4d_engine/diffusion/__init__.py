# SPDX-License-Identifier: GPL-3.0-or-later
"""The generation model: a Wan image-to-video transformer steered by the latents of a render and its mask.

Importing this package loads nothing heavy; each module imports torch and diffusers itself.
"""
