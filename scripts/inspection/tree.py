"""A search tree as an SVG, root at the left: a box a visited node, on its edge the action that
leads there.

┌───────────────┐  LEFT   ┌───────────────┐
│ visits, value ├─────────┤ visits, Q     │
└───────────────┘         │ prior, reward │
"""

import xml.etree.ElementTree as xml
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from configs.schema import ConfigError
from muzero.search import SearchTree, search_tree
from scripts.inspection.game import play
from scripts.inspection.stored import Stored
from scripts.program.assemble import build_search

_BOX, _GAP = (142, 38), (96, 12)  # width and height in pixels
_MARGIN, _TOP = 16, 56
_LINE = 15
_BEST, _OTHER, _INK, _FAINT = "#d9730d", "#9aa7b4", "#1d2733", "#5c6b7a"


class Place(NamedTuple):
    """Where a node is drawn: its depth, and its row in units of a box; a parent is in the middle of
    its children.
    """

    depth: int
    row: float


def searched(stored: Stored, *, seed: int, step: int) -> tuple[SearchTree, list[str]]:
    """Returns the tree (no leading axis) of the state after `step` decisions of the greedy game,
    and action names.

    Raises `ConfigError` if the game is over by then.
    """
    game = play(stored, seed=seed, num_decisions=step)
    if game.is_over:
        raise ConfigError(
            f"--step = {step}: the game of --seed {seed} is over after {len(game.action)} decisions"
        )
    search = build_search(stored.config, stored.spec, root_noise=False, describe=search_tree)
    inputs = game.agent.observe(game.observation[-1][None], np.array([step == 0]))
    tree = jax.device_get(jax.jit(search)(stored.search_average, *inputs)).stats
    return SearchTree(*(field[0] for field in tree)), game.action_names


def children(tree: SearchTree, node: int) -> list[int]:
    """Returns the visited children of a node, by action."""
    found = np.flatnonzero((tree.parent == node) & (tree.visits > 0))
    return sorted(map(int, found), key=lambda child: tree.action[child])


def layout(tree: SearchTree) -> dict[int, Place]:
    """Returns the place of every visited node."""
    places: dict[int, Place] = {}
    rows = iter(range(len(tree.visits)))

    def put(node: int, depth: int) -> float:
        below = [put(child, depth + 1) for child in children(tree, node)]
        places[node] = Place(depth, (below[0] + below[-1]) / 2 if below else float(next(rows)))
        return places[node].row

    put(0, 0)
    return places


def draw(tree: SearchTree, action_names: list[str], title: str) -> str:
    """Returns the visited part of one tree as an SVG document; the most visited way down is in
    colour.
    """
    places = layout(tree)
    width = (
        _MARGIN * 2 + (max(p.depth for p in places.values()) + 1) * (_BOX[0] + _GAP[0]) - _GAP[0]
    )
    height = _TOP + _MARGIN + (max(p.row for p in places.values()) + 1) * (_BOX[1] + _GAP[1])
    width = max(width, 2 * _MARGIN + 8 * len(title))
    size = {"width": f"{width}", "height": f"{height:g}", "viewBox": f"0 0 {width} {height:g}"}
    root = xml.Element(
        "svg", {"xmlns": "http://www.w3.org/2000/svg", "font-family": "sans-serif"} | size
    )
    xml.SubElement(root, "rect", width="100%", height="100%", fill="#ffffff")
    _text(root, _MARGIN, 26, title, size=15, fill=_INK)
    note = (
        "every box: visits, Q or value; prior of the action, reward. In colour: the most visited "
        "way down"
    )
    _text(root, _MARGIN, 44, note, size=11, fill=_FAINT)
    best = set(_most_visited_path(tree))
    for node in places:
        if node:
            _edge(root, tree, node, places, action_names, is_best=node in best)
    for node, place in places.items():
        _box(root, tree, node, place, is_best=node in best)
    xml.indent(root)
    return xml.tostring(root, encoding="unicode") + "\n"


def labels(tree: SearchTree, node: int) -> tuple[str, str]:
    """Returns the two lines of a node's box."""
    if node == 0:
        return f"{tree.visits[node]} visits", f"value {tree.value[node]:.3g}"
    first = f"{tree.visits[node]} visits, Q {tree.q[node]:.3g}"
    return first, f"prior {tree.prior[node]:.2f}, r {tree.reward[node]:.3g}"


def _most_visited_path(tree: SearchTree) -> Iterator[int]:
    node = 0
    while True:
        yield node
        below = children(tree, node)
        if not below:
            return
        node = max(below, key=lambda child: tree.visits[child])


def _corner(place: Place) -> tuple[float, float]:
    return _MARGIN + place.depth * (_BOX[0] + _GAP[0]), _TOP + place.row * (_BOX[1] + _GAP[1])


def _box(root: xml.Element, tree: SearchTree, node: int, place: Place, *, is_best: bool) -> None:
    x, y = _corner(place)
    group = xml.SubElement(root, "g", {"class": "node", "id": f"node{node}"})
    style = {"stroke": _BEST if is_best else _OTHER, "fill": "#fff6ec" if is_best else "#f6f8fa"}
    xml.SubElement(
        group,
        "rect",
        x=f"{x:g}",
        y=f"{y:g}",
        width=str(_BOX[0]),
        height=str(_BOX[1]),
        rx="5",
        **style,
    )
    for line, text in enumerate(labels(tree, node)):
        _text(group, x + 8, y + 16 + line * _LINE, text, size=11, fill=_INK)


def _edge(
    root: xml.Element,
    tree: SearchTree,
    node: int,
    places: dict[int, Place],
    names: list[str],
    *,
    is_best: bool,
) -> None:
    (left, top), (right, bottom) = (_corner(places[n]) for n in (int(tree.parent[node]), node))
    x0, y0, x1, y1 = left + _BOX[0], top + _BOX[1] / 2, right, bottom + _BOX[1] / 2
    bend = (x0 + x1) / 2
    group = xml.SubElement(root, "g", {"class": "edge"})
    thickness = 1 + 4 * float(tree.visits[node]) / float(tree.visits[0])
    xml.SubElement(
        group,
        "path",
        {"d": f"M{x0:g},{y0:g} C{bend:g},{y0:g} {bend:g},{y1:g} {x1:g},{y1:g}", "fill": "none"}
        | {"stroke": _BEST if is_best else _OTHER, "stroke-width": f"{thickness:.2f}"},
    )
    _text(group, x1 - 6, y1 - 5, names[int(tree.action[node])], size=10, fill=_FAINT, anchor="end")


def _text(
    parent: xml.Element,
    x: float,
    y: float,
    text: str,
    *,
    size: int,
    fill: str,
    anchor: str = "start",
) -> None:
    place = {
        "x": f"{x:g}",
        "y": f"{y:g}",
        "font-size": str(size),
        "fill": fill,
        "text-anchor": anchor,
    }
    halo = (
        {"paint-order": "stroke", "stroke": "#ffffff", "stroke-width": "3"}
        if anchor == "end"
        else {}
    )
    xml.SubElement(
        parent, "text", place | halo
    ).text = text  # the label of an edge may lie on its curve
