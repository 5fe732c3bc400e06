# SPDX-License-Identifier: GPL-3.0-or-later
"""The weights that presets and depth sources need: which, where they lie, how they come here, whether they are whole.

Importing this package loads nothing heavy; what speaks to the hub or opens weights imports its library itself.
"""
