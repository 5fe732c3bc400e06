# SPDX-License-Identifier: GPL-3.0-or-later
"""The camera that filmed the clip: its lens, its path, and the depth put into one world with it.

    lens.py, lens_metadata.py    intrinsics, and which of several answers is believed
    poses.py, colmap.py          a solved path, read from a file
    tracks.py, triangulation.py  points of the clip followed through its frames, and where they are
    placement.py, flicker.py     one scale and shift for the depth of the whole shot, and how steady it is
    scale.py                     scene units to metres
    cuts.py                      where one shot of the clip ends and the next begins
    zoom_finder.py               whether its lens zooms, by how the picture moves

Estimating the path from the clip itself has its place beside `poses.read_poses`: a function that takes passes over the
plate and the frames' intrinsics and returns the same `SourcePoses`. All that follows is then as it is for a file.
"""
