"""The graph of a panel: how it is normalised, multiplied, and kept in a model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from polycontrast.errors import DataError

Kind = Literal["sym", "transition", "double_transition", "scaled_laplacian", "identity"]
Float = npt.NDArray[np.float64]

SPARSE_FROM = 1000
"""Sensors beyond which the given graph is multiplied as a sparse matrix on every device."""
SPARSE_BELOW = 0.08
"""Share of edges below which it is so on a CPU for more than 100 sensors: measured, faster from about 0.1 on."""


@dataclass(frozen=True, eq=False)
class Graph:
    """Weighted edges between numbered sensors."""

    matrix: sp.csr_array
    """(N, N) float64; row: from, column: to."""

    def __post_init__(self) -> None:
        rows, columns = self.matrix.shape
        if rows != columns:
            raise DataError(f"an adjacency matrix must be square, got {rows} x {columns}")
        if not np.isfinite(self.matrix.data).all() or (self.matrix.data < 0).any():
            raise DataError("the adjacency matrix holds NaN, infinite or negative weights; give weights of 0 or more")

    @classmethod
    def of(cls, adjacency: Any) -> Graph:
        """From a dense or sparse matrix."""
        found = sp.csr_array(np.asarray(adjacency, dtype=np.float64) if not sp.issparse(adjacency) else adjacency)
        found = found.astype(np.float64)
        found.eliminate_zeros()
        return cls(found)

    @classmethod
    def of_edges(cls, n: int, sources: Any, targets: Any, weights: Any = None, *, directed: bool = True) -> Graph:
        """From lists of equal length; of repeated edges the last counts. Undirected: the larger of both ways."""
        rows, columns = np.asarray(sources, dtype=np.int64), np.asarray(targets, dtype=np.int64)
        values = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
        _, last = np.unique((rows * n + columns)[::-1], return_index=True)
        keep = len(rows) - 1 - last
        matrix = sp.csr_array((values[keep], (rows[keep], columns[keep])), shape=(n, n))
        return cls(matrix if directed else sp.csr_array(matrix.maximum(matrix.T)))

    @classmethod
    def none(cls, n: int) -> Graph:
        """No edge but that of every sensor to itself."""
        return cls(sp.csr_array(sp.eye_array(n, format="csr")))

    @property
    def size(self) -> int:
        """Sensors, N."""
        return int(self.matrix.shape[0])

    @property
    def is_identity(self) -> bool:
        """Whether no two sensors are connected."""
        coo = self.matrix.tocoo()
        return bool((coo.coords[0] == coo.coords[1]).all())

    def select(self, at: Sequence[int]) -> Graph:
        """The part between some sensors, in this order."""
        chosen = np.asarray(at, dtype=np.int64)
        return Graph(sp.csr_array(self.matrix[chosen][:, chosen]))

    def edges(self) -> tuple[Tensor, Tensor]:
        """(2, E) int64 and (E,) float32, to be kept in a model."""
        coo = self.matrix.tocoo()
        return torch.from_numpy(np.stack(coo.coords).astype(np.int64)), torch.from_numpy(coo.data.astype(np.float32))

    def supports(self, kind: Kind, *, lambda_max: float | None = 2.0) -> list[sp.csr_array]:
        """Normalised adjacency matrices.

        sym: ``(A D^-1/2)^T D^-1/2`` with D the row sums, as the code has it (of a directed graph the transpose);
        transition: ``D^-1 A``; double_transition: that and the same of the transpose; scaled_laplacian:
        ``2 L / lambda_max - I`` with ``L = I - D^-1/2 A D^-1/2`` and A made symmetric by the larger of both ways;
        identity: no graph. Sensors without edges get zeros (in the Laplacian ``L = I``).

        Args:
            kind: which.
            lambda_max: largest eigenvalue of the Laplacian; its bound 2 as in the code. None: computed.
        """
        a = self.matrix
        match kind:
            case "sym":
                root = _diagonal(a, -0.5)
                return [sp.csr_array((a @ root).T @ root)]
            case "transition":
                return [sp.csr_array(_diagonal(a, -1.0) @ a)]
            case "double_transition":
                back = sp.csr_array(a.T)
                return [sp.csr_array(_diagonal(m, -1.0) @ m) for m in (a, back)]
            case "scaled_laplacian":
                a = sp.csr_array(a.maximum(a.T))
                root, eye = _diagonal(a, -0.5), sp.eye_array(self.size)
                laplacian = sp.csr_array(eye - root @ a @ root)
                if lambda_max is None:
                    lambda_max = float(np.linalg.eigvalsh(laplacian.toarray())[-1])
                return [sp.csr_array(laplacian * (2.0 / lambda_max) - eye)]
            case "identity":
                return [sp.csr_array(sp.eye_array(self.size, format="csr"))]
        raise ValueError(f"unknown kind of adjacency {kind!r}")


def _diagonal(matrix: sp.csr_array, power: float) -> sp.dia_array:
    degrees = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    return sp.diags_array(np.where(degrees > 0, np.where(degrees > 0, degrees, 1.0) ** power, 0.0))


# ---- multiplying ---------------------------------------------------------------------------------------------------
#
# A mixer gives the terms T_1 z, T_2 z, ... of all its supports, support after support; T_0 z = z is free, so the terms
# that are computed number ``orders`` = supports * (K - 1). Mixers of one graph for all samples take z as (N, B, C), so
# that a term is one matrix product; mixers of a graph per sample take (B, N, C).


class DenseMixer:
    """Chebyshev polynomials of the given supports, made once, as one tall matrix."""

    node_first = True

    def __init__(self, supports: Sequence[Tensor], cheb_k: int) -> None:
        terms: list[Tensor] = []
        for support in supports:
            chain = [torch.eye(len(support), dtype=support.dtype, device=support.device), support]
            while len(chain) < cheb_k:
                chain.append(2.0 * support @ chain[-1] - chain[-2])
            terms += chain[1:cheb_k]
        self.n, self.orders = len(supports[0]), len(terms)
        self.tall = torch.cat(terms) if terms else supports[0].new_zeros(0, self.n)  # (orders * N, N)

    def mix(self, z: Tensor) -> list[Tensor]:
        """(N, ..., C) to ``orders`` of the same shape."""
        product = self.tall @ z.reshape(self.n, -1)
        return list(product.view(self.orders, *z.shape).unbind(0))

    def constant(self, z: Tensor) -> Tensor:
        """Sum over terms of T_k applied to what is the same at all sensors: (1 + orders, B, C) to (N, B, C)."""
        ones = z.new_ones(1, self.n)
        rows = torch.cat([ones, self.tall.sum(1).view(self.orders, self.n)])
        return (rows.T @ z.flatten(1)).view(self.n, *z.shape[1:])

    def nodes(self, z: Tensor) -> list[Tensor]:
        """T_0 z, T_1 z, ... of what differs between sensors alone: (N, C) to (N, 1, C) each."""
        z = z.unsqueeze(1)
        return [z, *self.mix(z)]


class SparseMixer(DenseMixer):
    """The same for large graphs: the recursion with sparse products, whose polynomials would fill up."""

    def __init__(self, supports: Sequence[sp.csr_array], cheb_k: int, like: Tensor) -> None:
        self.supports = [(_csr(s, like), _csr(sp.csr_array(s.T), like)) for s in supports]
        self.n, self.cheb_k = int(supports[0].shape[0]), cheb_k
        self.orders = len(supports) * (cheb_k - 1)

    def mix(self, z: Tensor) -> list[Tensor]:
        """(N, ..., C) to ``orders`` of the same shape."""
        flat, terms = z.reshape(self.n, -1), []
        for support, transposed in self.supports:
            before, now = None, flat
            for _ in range(self.cheb_k - 1):
                product = _SparseProduct.apply(now, support, transposed)
                before, now = now, product if before is None else 2.0 * product - before
                terms.append(now)
        return [term.view(z.shape) for term in terms]

    def constant(self, z: Tensor) -> Tensor:
        """As of :class:`DenseMixer`."""
        with torch.no_grad():
            ones = z.new_ones(self.n, 1)
            rows = torch.cat([ones, *self.mix(ones)], 1)
        return (rows @ z.flatten(1)).view(self.n, *z.shape[1:])


def _csr(matrix: sp.csr_array, like: Tensor) -> Tensor:
    starts, columns = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data).to(like.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse (CSR tensor support|invariant checks)", UserWarning)
        return torch.sparse_csr_tensor(starts, columns, values, size=matrix.shape).to(like.device)


class _SparseProduct(torch.autograd.Function):
    """A constant sparse matrix times a dense one; backward multiplies by the transpose, kept ready."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, support: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed, ctx.dtype = transposed, z.dtype
        return _in_full(support, z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _in_full(ctx.transposed, grad).to(ctx.dtype), None, None


def _in_full(matrix: Tensor, z: Tensor) -> Tensor:
    """There is no sparse product in half precision."""
    with torch.autocast(z.device.type, enabled=False):
        return matrix @ z.to(matrix.dtype)


class SampleMixer:
    """A row-stochastic graph of each sample, ``softmax(relu(E E^T))``; polynomials by recursion, never multiplied out.

    Args:
        embedding: (B, N, g) E.
        cheb_k: terms, T_0 among them.
    """

    node_first = False

    def __init__(self, embedding: Tensor, cheb_k: int) -> None:
        self.orders, self.batch = cheb_k - 1, len(embedding)
        self._prepare(embedding)

    def _prepare(self, embedding: Tensor) -> None:
        self.graph = torch.softmax(torch.relu(embedding @ embedding.transpose(1, 2)), -1)  # (B, N, N)

    def _times(self, z: Tensor) -> Tensor:
        return torch.bmm(self.graph, z)

    def _next(self, now: Tensor, before: Tensor) -> Tensor:
        """2 A now - before."""
        return torch.baddbmm(before, self.graph, now, beta=-1.0, alpha=2.0)

    def mix(self, z: Tensor) -> list[Tensor]:
        """(B, N, C) to ``orders`` of the same shape."""
        if not self.orders:
            return []
        terms = [z, self._times(z)]
        while len(terms) <= self.orders:
            terms.append(self._next(terms[-1], terms[-2]))
        return terms[1:]

    def constant(self, z: Tensor) -> Tensor:
        """As of :class:`DenseMixer`, to (B, 1, C): rows sum to 1, so every T_k leaves a constant as it is."""
        return z.sum(0).unsqueeze(1)

    def nodes(self, z: Tensor) -> list[Tensor]:
        """(N, C) to (B, N, C) each."""
        z = z.expand(self.batch, *z.shape)
        return [z, *self.mix(z)]


class TopKMixer(SampleMixer):
    """The same with the k largest entries of every row, softmax over those: memory and time of order N k, not N^2.

    Args:
        embedding: (B, N, g).
        cheb_k: terms.
        k: entries kept per row.
    """

    def __init__(self, embedding: Tensor, cheb_k: int, k: int) -> None:
        self.k = min(k, embedding.shape[1])
        super().__init__(embedding, cheb_k)

    def _prepare(self, embedding: Tensor) -> None:
        batch, n, width = embedding.shape
        with torch.no_grad():  # which entries; a strip of rows at a time
            strip = max(1, (1 << 24) // (batch * n))
            parts = [
                (embedding[:, i : i + strip] @ embedding.transpose(1, 2)).topk(self.k, -1).indices
                for i in range(0, n, strip)
            ]
            near = torch.cat(parts, 1)  # (B, N, k)
            offset = torch.arange(batch, device=near.device).view(-1, 1, 1) * n
            self.at = (near + offset).view(-1, self.k)
        mine = embedding.reshape(-1, 1, width)
        others = embedding.reshape(-1, width)[self.at]  # (B N, k, g)
        self.weights = torch.softmax(torch.relu((mine * others).sum(-1)), -1)

    def _times(self, z: Tensor) -> Tensor:
        flat = z.reshape(-1, z.shape[-1])
        # A weighted sum of k rows each, without writing the k rows down.
        weights = self.weights.to(flat.dtype)
        product = torch.nn.functional.embedding_bag(self.at, flat, per_sample_weights=weights, mode="sum")
        return product.view(z.shape)

    def _next(self, now: Tensor, before: Tensor) -> Tensor:
        return 2.0 * self._times(now) - before


Mixer = DenseMixer | SampleMixer


def static_mixer(graph: Graph, kind: Kind, cheb_k: int, how: Literal["auto", "dense", "sparse"], like: Tensor) -> Mixer:
    """The mixer of a given graph, on the device and in the precision of ``like``."""
    supports = graph.supports(kind)
    share = max(s.nnz for s in supports) / graph.size**2
    thin = like.device.type == "cpu" and graph.size > 100 and share < SPARSE_BELOW
    if how == "sparse" or (how == "auto" and (thin or graph.size > SPARSE_FROM)):
        return SparseMixer(supports, cheb_k, like)
    dense = [torch.from_numpy(s.toarray()).to(like.device, like.dtype) for s in supports]
    return DenseMixer(dense, cheb_k)
