# SPDX-License-Identifier: GPL-3.0-or-later
"""The weights that presets need: which they are, where they lie, how they come here and whether they are whole.

Importing this package loads nothing heavy; what speaks to the hub or opens weights imports its library itself.
"""
