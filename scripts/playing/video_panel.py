"""The panel beside the game: return so far, search value as number and curve, search policy as
bars.
"""

import collections

import cv2
import numpy as np

from actors.agent import Decision

HEIGHT, WIDTH = 640, 432  # pixels, whole blocks of 16 as H.264 codes them
MAX_ACTIONS_SHOWN = 18
_CURVE_LENGTH = 240  # decisions
_SUPERSAMPLING = 2  # drawn larger, then averaged down: OpenCV's line fonts get smooth edges
_MARGIN = 24
_ROW_TOP, _MAX_ROW_HEIGHT = 348, 30

_GROUND, _CARD, _TRACK = (24, 26, 33), (33, 36, 45), (46, 50, 62)
_TEXT, _FAINT = (236, 238, 243), (139, 146, 161)
_VALUE, _VALUE_AREA, _CHOSEN, _BAR = (94, 196, 255), (38, 66, 88), (255, 184, 76), (104, 116, 146)


class Panel:
    """Draws one panel per decision and remembers the values of the last ones.

    Args:
      title: name of the game.
      actions: A names.
      value_unit: what the search value is measured in, a few words.
    """

    def __init__(self, title: str, actions: list[str], *, value_unit: str):
        self._title, self._actions, self._value_unit = title, actions, value_unit
        self._values: collections.deque[float] = collections.deque(maxlen=_CURVE_LENGTH)

    def draw(self, decision: Decision, episode_return: float, num_decisions: int) -> np.ndarray:
        """Returns the panel [HEIGHT, WIDTH, 3] uint8 RGB.

        Args:
          decision: of one environment: action [], policy [A], value [].
          episode_return: unclipped, so far.
          num_decisions: made so far.
        """
        self._values.append(float(decision.value))
        canvas = _Canvas()
        canvas.text(self._title, _MARGIN, 44, 0.85, _TEXT, bold=True)
        canvas.text(f"decision {num_decisions:,}", WIDTH - _MARGIN, 44, 0.5, _FAINT, align="right")
        half = (WIDTH - 2 * _MARGIN - 12) // 2
        _draw_number(canvas, _MARGIN, half, "return so far", f"{episode_return:,.10g}", _TEXT)
        _draw_number(
            canvas, _MARGIN + half + 12, half, "search value", _short(float(decision.value)), _VALUE
        )
        _draw_curve(canvas, np.array(self._values), self._value_unit)
        self._draw_visits(canvas, decision)
        return canvas.finished()

    def _draw_visits(self, canvas: "_Canvas", decision: Decision) -> None:
        """Draws a bar per action; of very many actions the most probable."""
        canvas.text("search policy", _MARGIN, _ROW_TOP - 12, 0.5, _FAINT)
        shown = np.sort(np.argsort(-decision.policy, kind="stable")[:MAX_ACTIONS_SHOWN])
        height = min(_MAX_ROW_HEIGHT, (HEIGHT - _ROW_TOP - 12) / len(shown))
        size = 0.46 if height >= 20 else 0.40
        left, right = _MARGIN + 122, WIDTH - _MARGIN - 50
        for row, action in enumerate(shown):
            top, prob = _ROW_TOP + row * height, float(decision.policy[action])
            bottom, base = top + height - max(3, 0.22 * height), top + 0.5 * height + 3
            name, bar, number = (
                (_CHOSEN,) * 3 if action == decision.action else (_TEXT, _BAR, _FAINT)
            )
            canvas.text(self._actions[action], _MARGIN, base, size, name)
            canvas.box(left, top, right, bottom, _TRACK)
            canvas.box(left, top, left + prob * (right - left), bottom, bar)
            canvas.text(f"{100 * prob:.0f} %", WIDTH - _MARGIN, base, size, number, align="right")


def _draw_number(
    canvas: "_Canvas", left: float, width: float, name: str, number: str, colour: tuple
) -> None:
    canvas.box(left, 66, left + width, 138, _CARD)
    canvas.text(name, left + 14, 90, 0.46, _FAINT)
    canvas.text(number, left + 14, 125, 0.95, colour, bold=True)


def _draw_curve(canvas: "_Canvas", values: np.ndarray, unit: str) -> None:
    """Draws the values, the newest at the right end, between their own extremes."""
    left, top, right, bottom = _MARGIN, 150, WIDTH - _MARGIN, 306
    canvas.box(left, top, right, bottom, _CARD)
    canvas.text(f"search value ({unit})", left + 14, top + 22, 0.42, _FAINT)
    low, high = float(values.min()), float(values.max())
    middle, reach = (low + high) / 2, max((high - low) / 2, 1e-2 * abs(low), 1e-2)
    x = right - 62 - (right - left - 80) * np.arange(len(values))[::-1] / (_CURVE_LENGTH - 1)
    y = bottom - 16 - 100 * (values - (middle - reach)) / (2 * reach)
    canvas.area(x, y, bottom - 10, _VALUE_AREA)
    canvas.line(x, y, _VALUE)
    canvas.dot(x[-1], y[-1], _VALUE)
    for height, value in ((bottom - 12, middle - reach), (bottom - 112, middle + reach)):
        canvas.text(_short(value), right - 10, height, 0.42, _FAINT, align="right")


def _short(value: float) -> str:
    """Returns `value` in a few characters, never as -0.00."""
    return f"{round(value, 2) + 0.0:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"


class _Canvas:
    """An image that is drawn in the panel's own pixels, on a grid `_SUPERSAMPLING` times as
    fine.
    """

    def __init__(self):
        self._image = np.full(
            (HEIGHT * _SUPERSAMPLING, WIDTH * _SUPERSAMPLING, 3), _GROUND, np.uint8
        )

    def finished(self) -> np.ndarray:
        return cv2.resize(self._image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)

    def text(
        self,
        text: str,
        x: float,
        y: float,
        size: float,
        colour: tuple,
        *,
        bold: bool = False,
        align: str = "left",
    ) -> None:
        """Writes ASCII `text`; `y` is its base line, `x` its left or right end."""
        font, thickness = cv2.FONT_HERSHEY_DUPLEX, 3 if bold else 2
        scale = size * _SUPERSAMPLING
        if align == "right":
            x -= cv2.getTextSize(text, font, scale, thickness)[0][0] / _SUPERSAMPLING
        cv2.putText(self._image, text, _fine(x, y), font, scale, colour, thickness, cv2.LINE_AA)

    def box(self, left: float, top: float, right: float, bottom: float, colour: tuple) -> None:
        cv2.rectangle(self._image, _fine(left, top), _fine(right, bottom), colour, cv2.FILLED)

    def line(self, x: np.ndarray, y: np.ndarray, colour: tuple) -> None:
        cv2.polylines(
            self._image, [_fine_path(x, y)], False, colour, 2 * _SUPERSAMPLING, cv2.LINE_AA
        )

    def area(self, x: np.ndarray, y: np.ndarray, bottom: float, colour: tuple) -> None:
        corners = _fine_path(np.append(x, (x[-1], x[0])), np.append(y, (bottom, bottom)))
        cv2.fillPoly(self._image, [corners], colour, cv2.LINE_AA)

    def dot(self, x: float, y: float, colour: tuple) -> None:
        cv2.circle(self._image, _fine(x, y), 4 * _SUPERSAMPLING, colour, cv2.FILLED, cv2.LINE_AA)


def _fine(x: float, y: float) -> tuple[int, int]:
    return round(x * _SUPERSAMPLING), round(y * _SUPERSAMPLING)


def _fine_path(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.rint(np.stack([x, y], axis=-1) * _SUPERSAMPLING).astype(np.int32)
