# SPDX-License-Identifier: GPL-3.0-or-later
"""The registry of depth sources."""

from __future__ import annotations

import pytest

from ex4d_engine.depth import depth_source, depth_sources
from ex4d_engine.errors import Ex4dError


def test_every_source_describes_itself() -> None:
    sources = depth_sources()
    assert {"file", "rough-pictorial"} <= set(sources)
    for name, constructor in sources.items():
        assert constructor.name == name
        assert constructor.title and constructor.licence
        assert isinstance(constructor.needs_download, bool)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(Ex4dError) as caught:
        depth_source("crystal-ball")
    assert caught.value.code == "unknown_depth_source"
    assert "rough-pictorial" in caught.value.hint and "file" in caught.value.hint


def test_an_unknown_option_lists_the_known() -> None:
    with pytest.raises(Ex4dError) as caught:
        depth_source("file", path="x", colour="blue")
    assert caught.value.code == "unknown_depth_source"
    assert "meaning" in caught.value.hint
