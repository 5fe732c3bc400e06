# SPDX-License-Identifier: GPL-3.0-or-later
"""The EX-4D engine: a clip and a camera path in, a filled new view out. Never imports bpy."""

__version__ = "0.1.0"
