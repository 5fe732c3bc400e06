# SPDX-License-Identifier: GPL-3.0-or-later
"""The architectures of the downloaded networks, to the names of their published tensors."""
