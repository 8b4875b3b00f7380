"""Curves of metrics.jsonl, and the charts that a method draws of itself, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polycontrast.report.markup import Html, join, tag
from polycontrast.report.rows import brief, higher_is_better, number

Point = tuple[float, float]

BINS = 250
"""Bins per curve when it is thinned; each keeps up to four points."""
LOG_RATIO = 30.0
"""Largest by smallest value above which an axis is logarithmic."""

_FACTS = frozenset({"step", "stage", "epoch", "seconds"})
_TITLES = {"lr": "Learning rate", "grad_norm": "Gradient norm"}
_UNITS = {"lr": "learning rate", "grad_norm": "L2 norm of the gradient, before clipping"}


@dataclass(slots=True)
class Series:
    """One curve: unbroken parts of finite points, and the steps at which the value was not finite."""

    label: str
    style: str
    extreme: str = ""
    """``lowest`` or ``highest``: which of its values the summary tells besides the last."""
    parts: list[list[Point]] = field(default_factory=list)
    lost: list[float] = field(default_factory=list)

    @property
    def points(self) -> list[Point]:
        """All finite points in order."""
        return [point for part in self.parts for point in part]

    @property
    def count(self) -> int:
        """Values, finite or not."""
        return len(self.lost) + sum(map(len, self.parts))


@dataclass(frozen=True, slots=True)
class Chart:
    """Curves that share axes."""

    title: str
    unit: str
    series: Sequence[Series]
    log: bool | None = None
    """None: where the range of the values asks for it."""
    x_unit: str = "step"
    """What is along the horizontal axis. Steps are counted from 0."""
    band: Sequence[tuple[float, float, float]] = ()
    """Shaded: x, lower and upper edge."""


def collect(lines: Sequence[Mapping[str, Any]], key: str, label: str, style: str, extreme: str = "") -> Series:
    """The values of one key. The curve is broken where the stage changes and where a value is not finite."""
    series = Series(label, style, extreme)
    broken, stage = True, None
    for line in lines:
        step = number(line.get("step"))
        if key not in line or step is None or isinstance(line[key], (str, list, dict, bool)):
            continue
        value = number(line[key])
        if value is None:
            series.lost.append(step)
            broken = True
            continue
        if broken or line.get("stage") != stage:
            series.parts.append([])
        broken, stage = False, line.get("stage")
        series.parts[-1].append((step, value))
    return series


def charts(lines: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """What there is to draw: the loss first, then each of its terms, learning rates, gradient norms, the rest."""
    values = ((key, value) for line in lines for key, value in line.items() if key not in _FACTS)
    keys = dict.fromkeys(key for key, value in values if value is None or _is_number(value))
    measured = list(dict.fromkeys(k.partition("/")[2] for k in keys if k.startswith(("train/", "val/"))))
    measured.sort(key=lambda name: name != "loss")
    found = []
    for name in measured:
        best = "highest" if higher_is_better(name, {}) else "lowest"
        kinds = (("train", "training", "train", ""), ("val", "validation", "val", best))
        series = [collect(lines, f"{part}/{name}", *how) for part, *how in kinds if f"{part}/{name}" in keys]
        title, unit = ("Loss", "weighted sum of the terms") if name == "loss" else (name, name)
        found.append(Chart(title, unit, series))
    for prefix, title in _TITLES.items():
        own = [k for k in keys if k.startswith(prefix + "/")]
        # More curves than colours would be unreadable: the rest gets a chart of its own.
        for at in range(0, len(own), 4):
            series = [
                collect(lines, k, k.partition("/")[2], f"c{i}", "highest") for i, k in enumerate(own[at : at + 4])
            ]
            found.append(Chart(title, _UNITS[prefix], series))
    done = ("train/", "val/", *(prefix + "/" for prefix in _TITLES))
    found += [Chart(key, key, [collect(lines, key, key, "c0")]) for key in keys if not key.startswith(done)]
    return [chart for chart in found if any(series.count for series in chart.series)]


def own_charts(saved: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """What a method draws of itself, from charts.json (see :class:`polycontrast.method.Chart`)."""
    found = []
    for chart in saved:
        xs = [number(x) for x in chart["x"]]
        several = []
        for i, (label, values) in enumerate(chart["lines"].items()):
            lines = [{"step": x, label: y} for x, y in zip(xs, values, strict=True)]
            series = collect(lines, label, label, f"c{i}")
            series.lost = []  # a gap is a gap: nothing went wrong there
            several.append(series)
        edges = zip(xs, *(map(number, edge) for edge in chart.get("band") or ((), ())), strict=False)
        band = [(x, low, high) for x, low, high in edges if x is not None and low is not None and high is not None]
        found.append(Chart(chart["title"], chart.get("unit", ""), several, False, chart.get("x_unit", ""), band))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def stages(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """(name, first step, last step) of each unbroken stretch of one stage."""
    found: list[tuple[str, float, float]] = []
    for line in lines:
        step, name = number(line.get("step")), str(line.get("stage", ""))
        if step is None:
            continue
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1], max(step, found[-1][2]))
        else:
            found.append((name, step, step))
    return found


def thin(points: Sequence[Point], bins: int = BINS) -> list[Point]:
    """At most ``4 * bins`` points that look the same: first, lowest, highest and last of each bin, in order."""
    if len(points) <= 4 * bins:
        return list(points)
    kept: list[Point] = []
    for i in range(bins):
        part = range(i * len(points) // bins, (i + 1) * len(points) // bins)
        low = min(part, key=lambda at: points[at][1])
        high = max(part, key=lambda at: points[at][1])
        kept += [points[at] for at in sorted({part[0], low, high, part[-1]})]
    return kept


# ---- axes ----------------------------------------------------------------------------------------------------------


def wants_log(values: Sequence[float]) -> bool:
    """Whether values span so much that a linear axis would flatten most of them. Never with a value <= 0."""
    ordered = sorted(values)
    # A few dips are no reason; a spike is one, because it presses all the rest to the ground.
    return bool(ordered) and ordered[0] > 0 and ordered[-1] / ordered[len(ordered) // 20] > LOG_RATIO


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    span = high - low
    if not span > 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next((m * power for m in (1, 2, 5) if span / (m * power) <= about), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within [low, high], thinned when many, with others between them when few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / 6))
    decades = math.log10(high / low)
    factors = (1, 2, 5) if decades <= 1.6 else (1, 3) if decades <= 2.6 else (1,)
    ticks = [m * 10.0**e for e in range(first, last + 1, every) for m in factors]
    return [t for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]


def tick_label(value: float) -> str:
    """``0.002``, ``1,500``, ``2·10⁻⁶``."""
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e6:
        return f"{value:,.6g}" if abs(value) < 1e5 else f"{value:,.0f}"
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    if not exponent:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
    power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return power if mantissa == "1" else f"{mantissa}·{power}"


@dataclass(frozen=True, slots=True)
class _Scale:
    """Values to places on the page."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        at = math.log(value) if self.log else value
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        found = log_ticks(self.low, self.high) if self.log else []
        return found if len(found) > 1 else linear_ticks(self.low, self.high, about)


def _bounds(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        return (low / 2, high * 2) if log else (low - abs(low) * 0.1 - 1e-9, high + abs(high) * 0.1 + 1e-9)
    if log:
        room = (high / low) ** 0.05
        return low / room, high * room
    room = (high - low) * 0.06
    # Close to zero, show zero: the eye reads heights as amounts.
    return 0.0 if 0 <= low < 0.4 * high else low - room, high + room


# ---- drawing -------------------------------------------------------------------------------------------------------


def draw(chart: Chart, spans: Sequence[tuple[str, float, float]], *, width: int, height: int) -> Html:
    """One chart as an ``svg`` element of a fixed coordinate system that scales with the page."""
    values = [y for series in chart.series for _, y in series.points]
    if not values:
        return tag("p", "No finite value.", class_="note")
    values += [edge for _, *edges in chart.band for edge in edges]
    log = wants_log(values) if chart.log is None else chart.log
    low, high = _bounds(values, log)
    top, bottom = 34, height - 40
    y = _Scale(low, high, bottom, top, log)
    y_ticks = y.ticks(5)
    left = 14 + 6.8 * max(len(tick_label(t)) for t in y_ticks)
    every = [x for series in chart.series for x in (*series.lost, *(p[0] for p in series.points))]
    x_high = max([*every, *(last for _, _, last in spans)])
    steps = chart.x_unit == "step"
    x_low = min([0.0, *every] if steps else every)
    x = _Scale(x_low, x_high if x_high > x_low else x_low + 1, left, width - 12)

    inside = [_grid(x, y, y_ticks, width, whole=steps), _stages(spans, x, top, bottom), _band(chart.band, x, y)]
    inside += [_curve(series, x, y, bottom) for series in chart.series]
    unit = ", ".join(word for word in (chart.unit, "log scale" if y.log else "") if word)
    inside.append(tag("text", unit, x=2, y=12, class_="unit"))
    inside.append(tag("text", chart.x_unit, x=width - 12, y=height - 4, class_="unit", text_anchor="end"))
    inside.append(_readouts(chart, x, top, bottom, width))
    about = f"{chart.title}: {', '.join(s.label for s in chart.series)}."
    if steps:
        said = " ".join(f"{s.label}: {summary(s)}." for s in chart.series)
        about = f"{chart.title} over {x.high:,.0f} steps. {said}"
    return tag("svg", *inside, role="img", aria_label=about, viewBox=f"0 0 {width} {height}")


def _grid(x: _Scale, y: _Scale, y_ticks: Sequence[float], width: int, *, whole: bool) -> Html:
    lines = "".join(f"M{x.start:.1f} {y(t):.1f}H{width - 12}" for t in y_ticks)
    numbers = []
    for t in y_ticks:
        numbers.append(tag("text", tick_label(t), x=f"{x.start - 7:.1f}", y=f"{y(t) + 4:.1f}", text_anchor="end"))
    for t in x.ticks(max(2, width // 110)):
        if t == int(t) or not whole:
            anchor = "end" if x(t) > width - 30 else "middle"
            numbers.append(tag("text", tick_label(t), x=f"{x(t):.1f}", y=f"{y.start + 17:.1f}", text_anchor=anchor))
    axis = f"M{x.start:.1f} {y.start:.1f}H{width - 12}"
    return join(tag("path", d=lines, class_="grid"), tag("path", d=axis, class_="axis"), numbers)


def _stages(spans: Sequence[tuple[str, float, float]], x: _Scale, top: float, bottom: float) -> Html:
    """Shades every second stage, marks the borders and writes the names that fit."""
    if len(spans) < 2:
        return Html()
    drawn = []
    for i, (name, first, _) in enumerate(spans):
        start = x(first) if i else x.start
        end = x(spans[i + 1][1]) if i + 1 < len(spans) else x.end
        if i % 2:
            drawn.append(tag("path", d=f"M{start:.1f} {top}H{end:.1f}V{bottom}H{start:.1f}Z", class_="stage"))
        if i:
            drawn.append(tag("path", d=f"M{start:.1f} {top - 12}V{bottom}", class_="border"))
        fits = int((end - start - 8) / 6.6)
        if fits >= min(4, len(name)):
            text = name if len(name) <= fits else name[: fits - 1] + "…"
            drawn.append(tag("text", text, x=f"{start + 5:.1f}", y=top - 3, class_="stage-name"))
    return join(drawn)


def _band(band: Sequence[tuple[float, float, float]], x: _Scale, y: _Scale) -> Html | None:
    if not band:
        return None
    upper = [f"{x(at):.1f} {y(high):.1f}" for at, _, high in band]
    lower = [f"{x(at):.1f} {y(low):.1f}" for at, low, _ in reversed(band)]
    return tag("path", d="M" + "L".join([*upper, *lower]) + "Z", class_="band")


def _curve(series: Series, x: _Scale, y: _Scale, bottom: float) -> Html:
    path, dots = [], []
    few = len(series.points) <= 60
    bins = max(1, BINS // max(1, len(series.parts)))
    for part in series.parts:
        placed = [f"{x(at):.1f} {y(value):.1f}" for at, value in thin(part, bins)]
        path.append("M" + "L".join(placed))
        # A point alone has no line: it needs a dot to be seen.
        dots += placed if few and series.style == "val" else placed if len(part) == 1 else []
    lost = "".join(f"M{x(at):.1f} {bottom - 7:.1f}v7" for at, _ in thin([(at, 0.0) for at in series.lost]))
    return join(
        tag("path", d="".join(path), class_=f"curve {series.style}"),
        [tag("path", d="".join(f"M{dot}h0" for dot in dots), class_=f"dots {series.style}")] if dots else None,
        [tag("path", d=lost, class_="lost")] if lost else None,
    )


def _readouts(chart: Chart, x: _Scale, top: float, bottom: float, width: int) -> Html:
    """Strips over the plot that show their values while the pointer is on them: style alone, no script."""
    count = max(20, width // 12)
    size = (x.end - x.start) / count
    found: dict[int, dict[str, list[Point]]] = {}
    for series in chart.series:
        for at, value in series.points:
            under = found.setdefault(min(count - 1, int((x(at) - x.start) / size)), {})
            under.setdefault(series.label, []).append((at, value))
    strips = []
    for i, seen in sorted(found.items()):
        step = max(points[-1][0] for points in seen.values())
        words = [f"step {step:,.0f}" if chart.x_unit == "step" else f"{chart.x_unit} {tick_label(step)}".strip()]
        for label, points in seen.items():
            low, high = brief(min(value for _, value in points)), brief(max(value for _, value in points))
            words.append(f"{label} {low}" if low == high else f"{label} {low} to {high}")
        start = x.start + i * size
        strips.append(
            tag(
                "g",
                tag("path", d=f"M{start:.1f} {top}h{size:.2f}V{bottom}h-{size:.2f}Z", class_="strip"),
                tag("path", d=f"M{x(step):.1f} {top}V{bottom}", class_="cross"),
                tag("text", " · ".join(words), x=width - 12, y=12, text_anchor="end"),
                class_="read",
            )
        )
    return tag("g", *strips, aria_hidden="true")


def summary(series: Series) -> str:
    """A curve in words, for the legend and for those who cannot see it."""
    points = series.points
    if not points:
        return "no finite value"
    said = f"last {brief(points[-1][1])}"
    if series.extreme:
        step, value = (max if series.extreme == "highest" else min)(points, key=lambda point: point[1])
        if value != points[-1][1]:
            said += f", {series.extreme} {brief(value)} at step {step:,.0f}"
    return said


def gaps(series: Series) -> str:
    """The note on values that are not finite, or nothing."""
    if not series.lost:
        return ""
    where = f"at step {series.lost[0]:,.0f}" if len(series.lost) == 1 else f"first at step {series.lost[0]:,.0f}"
    return f"{series.label}: {len(series.lost):,} of {series.count:,} values not finite, {where}; shown as a gap."
