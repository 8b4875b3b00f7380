"""Rules of the measures; the README beside the files says what each holds."""

from __future__ import annotations

import itertools

from golden.rules import Case, rule
from polycontrast.evaluation import caption_retrieval, knn_classify

_TILES = ((1024, 8192), *itertools.product((1, 3, 7, 64), (1, 3, 7, 64)))
_UNITS = "says that the rows are of unit length, which does not change a cosine"
_FLAGS = "how the reference was called; rows are of unit length either way"


def _leave_out_flags(case: Case) -> None:
    for name in ("normalised_inside", "normalised_before_call"):
        case.skip(name, reason=_FLAGS)
    case.skip("stored_unit_rows", reason=_UNITS)


@rule("core", "knn_weighted")
def knn_weighted(case: Case) -> None:
    query, bank, labels = case.tensor("query"), case.tensor("bank"), case.tensor("bank_labels")
    assert case.array("vote_weight").item() == "exp(similarity/temperature)"
    _leave_out_flags(case)
    for tile in _TILES:
        order = knn_classify(
            query, bank, labels, k=case.integer("k"), temperature=case.number("temperature"),
            n_classes=case.integer("n_classes"), tile=tile,
        )  # fmt: skip
        case.same("predicted_order", order)


@rule("core", "retrieval")
def retrieval(case: Case) -> None:
    ks = [int(k) for k in case.tensor("ks")]
    _leave_out_flags(case)
    for tile in _TILES:
        numbers = caption_retrieval(
            case.tensor("images"), case.tensor("captions"), captions_per_image=case.integer("captions_per_image"),
            ks=ks, tile=tile,
        )  # fmt: skip
        for way in ("i2t", "t2i"):
            got = [numbers[f"{way}_{name}"] for name in (*(f"R@{k}" for k in ks), "median_rank", "mean_rank")]
            case.close(way, got)
