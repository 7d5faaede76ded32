"""Accessibility tree of a page in Chromium: names that a screen reader speaks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

NAMED = {
    "image", "img", "button", "link", "combobox", "textbox", "searchbox", "spinbutton", "slider", "checkbox",
    "heading", "dialog", "table", "progressbar", "region", "navigation", "group", "DateTime",
}  # fmt: skip


def spoken(page: Any) -> list[tuple[str, str, int]]:
    """Return role, name and level (0 for none) of all elements that a screen reader finds, in their order."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    found = []
    for node in nodes:
        if not node["ignored"]:
            level = [p["value"]["value"] for p in node.get("properties", ()) if p["name"] == "level"]
            name = str(node.get("name", {}).get("value", ""))
            found.append((str(node["role"]["value"]), name.strip(), *(level or [0])))
    return found


def check(page: Any) -> list[tuple[str, str, int]]:
    """Assert that pictures, controls and regions have names and headings their order; return `spoken`."""
    found = spoken(page)
    assert [element for element in found if element[0] in NAMED and not element[1]] == []
    levels = [level for role, _, level in found if role == "heading"]
    assert all(after - before <= 1 for before, after in pairwise(levels)), levels
    return found
