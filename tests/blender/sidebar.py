# SPDX-License-Identifier: GPL-3.0-or-later
"""The sidebar without a window: what its panels would show."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tests.blender.add_on import ADDON

bpy = pytest.importorskip("bpy")


class Layout:
    """Stands in for Blender's, which only a window has: takes every call, and checks what it is about."""

    def __init__(self, seen: set[str], is_open: bool = True) -> None:
        self.seen = seen
        self.is_open = is_open  # panels within

    def prop(self, data: Any, name: str, **_: Any) -> None:
        assert name in data.bl_rna.properties, name
        self.seen.add(name)

    def operator(self, name: str, **settings: Any) -> Any:
        self.seen |= {name, settings.get("text", "")}
        properties = getattr(bpy.ops.ex4d, name.removeprefix("ex4d.")).get_rna_type().properties
        return SimpleNamespace(**{entry.identifier: None for entry in properties})

    def label(self, text: str = "", icon: str = "NONE") -> None:
        self.seen.add(text)

    def progress(self, factor: float, text: str) -> None:
        self.seen.add(text)

    def template_list(
        self, kind: str, identifier: str, data: Any, name: str, active_data: Any, active_name: str, **_: Any
    ) -> None:
        assert hasattr(bpy.types, kind)
        self.prop(data, name)
        self.prop(active_data, active_name)

    def panel(self, identifier: str, *, default_closed: bool = False) -> tuple[Layout, Layout | None]:
        assert {"idname", "default_closed"} <= set(bpy.types.UILayout.bl_rna.functions["panel"].parameters.keys())
        return self, self if self.is_open else None

    def template_icon(self, icon: int, scale: float) -> None:
        self.seen.add("picture")

    def row(self, **_: Any) -> Layout:
        return self

    box = column = row


def drawn(*, is_open: bool = True, **context: Any) -> set[str]:
    """Every property, operator and text that the sidebar shows now."""
    panels = sys.modules[f"{ADDON}.ex4d_blender.panels"]
    seen: set[str] = set()
    for section in (panels.Status, *panels.SECTIONS):
        panel = SimpleNamespace(layout=Layout(seen, is_open))
        section.draw(panel, SimpleNamespace(scene=bpy.context.scene, region=SimpleNamespace(width=300), **context))
    return seen


def failure_buttons() -> list[Any]:
    """The buttons of the failure's message, with what they were given."""
    buttons: list[Any] = []

    class Recorded(Layout):
        def operator(self, name: str, **settings: Any) -> Any:
            buttons.append(super().operator(name, **settings))
            return buttons[-1]

    panel = SimpleNamespace(layout=Recorded(set()))
    status = sys.modules[f"{ADDON}.ex4d_blender.panels"].Status
    status.draw(panel, SimpleNamespace(scene=bpy.context.scene, region=SimpleNamespace(width=300)))
    return buttons
