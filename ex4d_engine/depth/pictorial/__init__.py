# SPDX-License-Identifier: GPL-3.0-or-later
"""The training-free estimate: ground, sky, and what moves against them."""
