# SPDX-License-Identifier: GPL-3.0-or-later
"""How good results are, in numbers."""
