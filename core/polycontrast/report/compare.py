"""Finished runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polycontrast.config import flat
from polycontrast.errors import RunError
from polycontrast.report.rows import higher_is_better, number

if TYPE_CHECKING:
    from polycontrast.runs import Run


def side_by_side(runs: Sequence[Run]) -> dict[str, Any]:
    """What is equal and what differs between runs.

    Returns:
        ``runs``, one result object each as in result.json; ``metrics``, a list of values by metric, None where a run
        lacks it; ``best``, the index of the best run by metric, where its sense is known and there is a single best;
        ``settings``, a list of values by dotted path, for the settings in which the runs differ; ``warnings``, what
        stands against reading one column against another.

    Raises:
        RunError: fewer than two runs, or one that is not finished.
    """
    if len(runs) < 2:
        raise RunError("compare needs two runs or more")
    results: list[dict[str, Any]] = []
    for run in runs:
        if (result := run.result) is None:
            raise RunError(f"{run.path} is not finished, so it has no numbers; go on with train --resume")
        results.append(result)
    metrics = {
        name: [number(result["metrics"].get(name)) for result in results]
        for name in dict.fromkeys(name for result in results for name in result["metrics"])
    }
    configs = [flat(run.config["config"]) for run in runs]
    paths = dict.fromkeys(path for config in configs for path in config)
    by_path = {path: [config.get(path) for config in configs] for path in paths}
    settings = {path: values for path, values in by_path.items() if any(value != values[0] for value in values)}
    return {
        "runs": results,
        "metrics": metrics,
        "best": {name: at for name, values in metrics.items() if (at := _best(name, values, results[0])) is not None},
        "settings": settings,
        "warnings": _warnings(results, settings),
    }


def _best(name: str, values: Sequence[float | None], result: Mapping[str, Any]) -> int | None:
    measured = [value for value in values if value is not None]
    sense = higher_is_better(name, result)
    if sense is None or len(measured) < 2:
        return None
    best = max(measured) if sense else min(measured)
    return values.index(best) if measured.count(best) == 1 else None


def _warnings(results: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[str]:
    def differ(name: str) -> bool:
        return any(result.get(name) != results[0].get(name) for result in results)

    said = [
        f"these runs {what}: their numbers are not comparable"
        for name, what in (("dataset", "used different data"), ("protocol", "were measured by different protocols"))
        if differ(name)
    ]
    if differ("seed") and (differ("method") or settings):
        said.append("these runs have different seeds: part of a difference is the seed; --seeds and ablate pair them")
    return said
