"""The contrastive objectives: pure functions over tensors, and thin modules over them.

``infonce(x, y, temperature=0.1)`` is a number with gradients; ``get("infonce")(temperature=0.1)`` is a module that
computes it. Every objective is exact, in memory that does not grow with the square of the batch, and in several
processes equal to one process on the whole batch. ``docs/losses.md`` has the formulas and conventions.
"""

from __future__ import annotations

from polycontrast.errors import did_you_mean
from polycontrast.losses.cached import CachedStep
from polycontrast.losses.common import Loss, LossConfig, unit_rows
from polycontrast.losses.filters import Duplicates, Filter, Guide, Listed, Neighbours, SameLabel
from polycontrast.losses.infonce import InfoNCE, infonce
from polycontrast.losses.moco import MoCo, moco
from polycontrast.losses.prediction import (
    BYOL,
    DINO,
    NNCLR,
    SimSiam,
    SwAV,
    byol,
    dino,
    moved_centre,
    nnclr,
    simsiam,
    sinkhorn,
    swav,
)
from polycontrast.losses.regression import RnC, SupConKernel, rnc, supcon_kernel
from polycontrast.losses.scale import LogitScale
from polycontrast.losses.siglip import SigLIP, siglip
from polycontrast.losses.soft import SoftInfoNCE, infonce_soft, mix_rows, mixup_targets
from polycontrast.losses.statistics import (
    AlignUniform,
    BarlowTwins,
    VICReg,
    align_uniform,
    barlow,
    joint_entropy,
    mmd,
    uniformity,
    vicreg,
)
from polycontrast.losses.supcon import SupCon, supcon
from polycontrast.losses.triplet import TripletLoss, mine, triplet
from polycontrast.losses.views import DCL, DCLW, DebiasedInfoNCE, NTXent, dcl, dclw, infonce_debiased, ntxent
from polycontrast.losses.vse import VSE, vse

_MODULES: tuple[type[Loss], ...] = (
    InfoNCE, SoftInfoNCE, DebiasedInfoNCE, NTXent, DCL, DCLW, SupCon, SupConKernel, RnC, SigLIP, MoCo, NNCLR,
    TripletLoss, VSE, VICReg, BarlowTwins, AlignUniform, BYOL, SimSiam, SwAV, DINO,
)  # fmt: skip

_ALIASES = {"sigmoid": "siglip"}
_BY_NAME: dict[str, type[Loss]] = {module.name: module for module in _MODULES}


def names() -> list[str]:
    """Names of the losses."""
    return sorted(_BY_NAME)


def get(name: str) -> type[Loss]:
    """The module class of a loss; its ``function`` and ``config_class`` are attributes.

    Raises:
        ValueError: no loss has this name.
    """
    known = _ALIASES.get(name, name)
    if known not in _BY_NAME:
        hint = did_you_mean(name, [*_BY_NAME, *_ALIASES])
        raise ValueError(f"there is no loss {name!r}; there are {', '.join(names())}.{hint}")
    return _BY_NAME[known]


__all__ = [
    # what is found by name
    "get", "names",
    # functions
    "align_uniform", "barlow", "byol", "dcl", "dclw", "dino", "infonce", "infonce_debiased", "infonce_soft",
    "joint_entropy", "mmd", "moco", "nnclr", "ntxent", "rnc", "siglip", "simsiam", "supcon", "supcon_kernel",
    "swav", "triplet", "uniformity", "vicreg", "vse",
    # modules
    "AlignUniform", "BYOL", "BarlowTwins", "DCL", "DCLW", "DINO", "DebiasedInfoNCE", "InfoNCE", "Loss",
    "LossConfig", "MoCo", "NNCLR", "NTXent", "RnC", "SigLIP", "SimSiam", "SoftInfoNCE", "SupCon", "SupConKernel",
    "SwAV", "TripletLoss", "VICReg", "VSE",
    # what goes with them
    "CachedStep", "Duplicates", "Filter", "Guide", "Listed", "LogitScale", "Neighbours", "SameLabel", "mine",
    "mix_rows", "mixup_targets", "moved_centre", "sinkhorn", "unit_rows",
]  # fmt: skip
