"""Results as rows and columns, and what may honestly be said about them."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["method", "floor", "strong", "published"]

MISSING = "–"  # noqa: RUF001  a dash as long as a digit is wide
"""What stands for a number that was not measured."""
MAX_COLUMNS = 8
"""Columns of one table; more are cut into several tables."""

# Words that tell the sense of a metric whose sense the result does not state. Unknown words: no best value is marked.
_LOWER = {
    "mse", "mae", "rmse", "mape", "smape", "wape", "mase", "rmsle", "loss", "nll", "perplexity", "ppl", "error", "err",
    "wer", "cer", "eer", "fid", "crps", "brier", "ece", "medr", "meanr", "forgetting", "latency",
}  # fmt: skip
_HIGHER = {
    "accuracy", "acc", "f1", "auc", "auroc", "auprc", "ap", "map", "precision", "recall", "r", "hits", "hit", "mrr",
    "ndcg", "spearman", "kendall", "pearson", "r2", "return", "reward", "success", "bleu", "rouge", "cider", "anls",
    "nmi", "ari", "top1", "top5",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result table."""

    label: str
    role: Role
    values: Mapping[str, float | None]
    """Every metric of the table. None: not measured, or not finite."""
    spread: Mapping[str, float] = field(default_factory=dict)
    """Standard deviation over seeds, where there are several."""
    best: frozenset[str] = frozenset()
    """Metrics in which no measured row is better. For a published row: those in which it is better than all
    measured ones."""


@dataclass(frozen=True, slots=True)
class Group:
    """Metrics that are shown together, as the columns of one table."""

    title: str
    columns: tuple[tuple[str, str], ...]
    """(metric, heading)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the headline says about the method."""

    level: Literal["good", "mixed", "bad", "unknown"]
    short: str
    text: str


def number(value: object) -> float | None:
    """The value as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # Beyond this, differences of two values overflow; no metric is meant to be there.
    return float(value) if math.isfinite(value) and abs(value) < 1e300 else None


def split_index(metric: str) -> tuple[str, int | None]:
    """Family and index of a metric: ``recall@5`` is ("recall", 5), ``mse`` is ("mse", None)."""
    match = re.fullmatch(r"(.*[^\W\d_].*?)[_@/-](\d{1,9})", metric)
    return (match[1], int(match[2])) if match else (metric, None)


def higher_is_better(metric: str, result: Mapping[str, Any]) -> bool | None:
    """Sense of a metric: that of the headline if it is of the same family, else told by its name, else None."""
    headline, sense = result.get("headline"), result.get("higher_is_better")
    if isinstance(headline, str) and isinstance(sense, bool) and split_index(metric)[0] == split_index(headline)[0]:
        return sense
    words = {word for word in re.split(r"[^a-z0-9]+", metric.lower()) if not word.isdigit()}
    lower, higher = bool(words & _LOWER), bool(words & _HIGHER)
    return None if lower == higher else higher


def table(result: Mapping[str, Any]) -> list[Row]:
    """The result as rows: the method, its floors and strong baselines, published figures.

    Args:
        result: the JSON object of a run, or that of several seeds (``runs`` and ``summary``). Of several seeds
            the rows hold means, with the sample standard deviation as spread; the summary's own values win.

    Returns:
        One :class:`Row` each, all with the same metrics in the same order.
    """
    runs = [run for run in result.get("runs") or () if isinstance(run, Mapping)] if "runs" in result else [result]
    if not runs:
        return []
    first = runs[0]
    floors = set(first.get("floors") or ())
    raw: list[tuple[str, Role, dict[str, float | None], dict[str, float]]] = []
    values, spread = _over(run.get("metrics") for run in runs)
    for metric, summary in (result.get("summary") or {}).items():
        if isinstance(summary, Mapping):
            values[metric], deviation = number(summary.get("mean")), number(summary.get("std"))
            spread = spread if deviation is None else {**spread, metric: deviation}
    raw.append((str(first.get("method", "method")), "method", values, spread))
    names = dict.fromkeys(name for run in runs for name in run.get("baselines") or ())
    for name in sorted(names, key=lambda name: name not in floors):
        role: Role = "floor" if name in floors else "strong"
        raw.append((str(name), role, *_over((run.get("baselines") or {}).get(name) for run in runs)))
    for label, figures in (first.get("published") or {}).items():
        raw.append((str(label), "published", *_over([figures])))

    metrics = list(dict.fromkeys(metric for _, _, values, _ in raw for metric in values))
    best: dict[str, float] = {}
    for metric in metrics:
        sense = higher_is_better(metric, first)
        measured = [v for _, role, values, _ in raw if role != "published" and (v := values.get(metric)) is not None]
        if sense is not None and len(measured) > 1:
            best[metric] = max(measured) if sense else min(measured)
    rows = []
    for label, role, values, spread in raw:
        marked = set()
        for metric, limit in best.items():
            value = values.get(metric)
            if value is None:
                continue
            ahead = value > limit if higher_is_better(metric, first) else value < limit
            if ahead if role == "published" else value == limit:
                marked.add(metric)
        rows.append(Row(label, role, {m: values.get(m) for m in metrics}, spread, frozenset(marked)))
    return rows


def _over(several: Iterable[Mapping[str, Any] | None]) -> tuple[dict[str, float | None], dict[str, float]]:
    """Mean and sample standard deviation by metric over runs. A metric that one run lacks has no mean."""
    maps = [metrics if isinstance(metrics, Mapping) else {} for metrics in several]
    values: dict[str, float | None] = {}
    spread: dict[str, float] = {}
    for metric in dict.fromkeys(name for metrics in maps for name in metrics):
        seen = [v for metrics in maps if (v := number(metrics.get(metric))) is not None]
        complete = len(seen) == len(maps)
        values[str(metric)] = None if not complete else seen[0] if len(seen) == 1 else statistics.fmean(seen)
        if complete and len(seen) > 1:
            spread[str(metric)] = statistics.stdev(seen)
    return values, spread


def groups(metrics: Iterable[str], headline: str | None = None) -> list[Group]:
    """Metrics as tables that stay readable, that of the headline first.

    A family with its indices as columns (``mse_24``, ``mse_48``, ...) is one; the others come together by what
    stands before a slash.
    """
    names = list(metrics)
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(split_index(name)[0], []).append(name)
    tables: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        family, index = split_index(name)
        if sum(split_index(member)[1] is not None for member in families[family]) > 1:
            tables.setdefault(family, []).append((name, name if index is None else str(index)))
        else:
            before, slash, after = name.rpartition("/")
            tables.setdefault(before if slash else "", []).append((name, after))
    found = []
    for title, columns in tables.items():
        parts = math.ceil(len(columns) / MAX_COLUMNS)
        size = math.ceil(len(columns) / parts)
        found += [Group(title, tuple(columns[at : at + size])) for at in range(0, len(columns), size)]
    return sorted(found, key=lambda group: all(metric != headline for metric, _ in group.columns))


def shown_in(rows: Sequence[Row], group: Group) -> list[Row]:
    """The rows of one table: without those that have nothing here but something elsewhere."""
    here = {metric for metric, _ in group.columns}
    return [
        row
        for row in rows
        if row.role == "method"
        or any(row.values.get(metric) is not None for metric in here)
        or all(value is None for value in row.values.values())
    ]


def decimals(values: Iterable[float | None]) -> int:
    """Decimals that show four digits of the largest value and three of the smallest; at least four below 10."""
    sizes = [abs(v) for v in values if v]
    if all(size.is_integer() for size in sizes) and max(sizes, default=0) >= 2:
        return 0
    usual = [size for size in sizes if 1e-4 <= size < 1e6]
    if not usual:
        return 4
    low, high = math.floor(math.log10(min(usual))), math.floor(math.log10(max(usual)))
    return max(0, min(5, max(3 - high, 2 - low, 4 if high < 1 else 0)))


def shown(value: float | None, places: int = 4, *, missing: str = MISSING) -> str:
    """A number for reading; one that ``places`` decimals would hide gets four digits and an exponent."""
    if value is None:
        return missing
    if value and not (0.5 * 10.0**-places <= abs(value) < 1e7):
        return _short(value)
    return f"{value:.{places}f}"


def _short(value: float) -> str:
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e+")


def brief(value: float) -> str:
    """A single number with four significant digits and no needless exponent."""
    if value == 0:
        return "0"
    return shown(value, decimals([value])) if abs(value) >= 0.01 else _short(value)


def verdict(result: Mapping[str, Any]) -> Verdict:
    """Whether the headline beats the floors and the strong baselines, in plain sentences."""
    rows = table(result)
    headline, higher = result.get("headline"), bool(result.get("higher_is_better"))
    ours = rows[0].values.get(headline) if rows and isinstance(headline, str) else None
    if ours is None or not isinstance(headline, str):
        return Verdict("unknown", "No headline number", "Without a headline number nothing can be said about the run.")

    def by_role(role: Role) -> list[tuple[float, str]]:
        """(value, label), the best first."""
        found = [(v, row.label) for row in rows if row.role == role and (v := row.values.get(headline)) is not None]
        return sorted(found, reverse=higher)

    def ahead(other: float) -> bool:
        return ours > other if higher else ours < other

    places = decimals(row.values.get(headline) for row in rows)

    def named(several: Sequence[tuple[float, str]]) -> str:
        texts = [f"{label} ({shown(value, places)})" for value, label in several]
        return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)

    def gap(other: float) -> str:
        if ours == other:
            return "the two are equal"
        way = "higher" if ours > other else "lower"
        if other <= 0 or ours < 0:
            return f"the method is {shown(abs(ours - other), places)} {way}"
        share = abs(ours - other) / other * 100
        return f"the method is {f'{share:.3g}' if share >= 0.1 else 'less than 0.1'} % {way}"

    floors, strong = by_role("floor"), by_role("strong")
    said = []
    lost = [floor for floor in floors if not ahead(floor[0])]
    if not floors:
        said.append("No floor was measured, so it is not known whether the method works at all.")
    elif lost:
        said.append(
            f"The method does not beat the floor{'s' * (len(lost) > 1)} {named(lost)}, which a working method must beat"
            f": {gap(lost[0][0])}."
        )
    elif len(floors) == 1:
        said.append(f"The method beats its floor {named(floors)}: {gap(floors[0][0])}.")
    else:
        every = "both" if len(floors) == 2 else f"all {len(floors)}"
        said.append(f"The method beats {every} floors, the best of them {named(floors[:1])}: {gap(floors[0][0])}.")
    joint = "also " if floors and not lost else ""
    if not strong:
        said.append("No strong baseline was measured.")
    elif ahead(strong[0][0]):
        every = "both" if len(strong) == 2 else f"all {len(strong)}"
        which = "the strong baseline" if len(strong) == 1 else f"{every} strong baselines, the best of them"
        said.append(f"It {joint}beats {which} {named(strong[:1])}: {gap(strong[0][0])}.")
    else:
        which = "the" if len(strong) == 1 else "the best"
        said.append(f"It does not beat {which} strong baseline {named(strong[:1])}: {gap(strong[0][0])}.")
        beaten = [other for other in strong if ahead(other[0])]
        if beaten:
            said.append(f"It is ahead of {named(beaten)}.")
    text = " ".join(said)
    if lost:
        return Verdict("bad", "Does not beat its floors", text)
    if not floors:
        return Verdict("unknown", "No floor to compare with", text)
    if strong and ahead(strong[0][0]):
        return Verdict("good", "Beats floors and strong baselines", text)
    return Verdict("mixed", "Beats its floors only" if strong else "Beats its floors", text)
