# SPDX-License-Identifier: GPL-3.0-or-later
"""The depth-based watertight mesh (DW-Mesh): a closed surface per frame, with one topology a shot.

topology.py   which vertices make which faces: built once a shot
ray_grid.py   where the vertices are: a fixed ray each, times the depth of a pixel or a pinned depth
repair.py     depth values that are no usable number
occlusion.py  which faces the plate really saw
walls.py      how far the others are drawn
edges.py      how wide things are where they end, and which pixels have cards there
export.py     a frame as a PLY file
"""
