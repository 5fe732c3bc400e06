# SPDX-License-Identifier: GPL-3.0-or-later
"""The procedural courtyard scene of the bundled demo clip."""
