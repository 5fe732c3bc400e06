# SPDX-License-Identifier: GPL-3.0-or-later
"""One module a source that is downloaded or read from files; `..registry` knows them."""
