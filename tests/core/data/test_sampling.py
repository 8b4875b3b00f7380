from __future__ import annotations

import pytest
import torch

from polycontrast.data import ResumableSampler, TensorExamples, derive_seed, draws, normal, uniform
from polycontrast.errors import ConfigError


def sampler(**changes: object) -> ResumableSampler:
    return ResumableSampler(**{"size": 23, "batch_size": 6, "seed": 3, **changes})  # type: ignore[arg-type]


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone() -> None:
    flat = [i for batch in sampler(drop_last=False) for i in batch]
    assert sorted(flat) == list(range(23))
    assert flat == [i for batch in sampler(drop_last=False) for i in batch]
    assert flat != [i for batch in sampler(drop_last=False, epoch=1) for i in batch]
    assert flat != [i for batch in sampler(drop_last=False, seed=4) for i in batch]
    assert list(sampler(shuffle=False))[1] == [6, 7, 8, 9, 10, 11]


def test_a_resumed_epoch_goes_on_where_it_was() -> None:
    assert list(sampler())[2:] == list(sampler(start=2))
    assert len(sampler()) == 3
    assert len(sampler(drop_last=False)) == 4


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_every_global_batch(world: int) -> None:
    parts = [list(sampler(rank=rank, world=world)) for rank in range(world)]
    joined = [[i for part in parts for i in part[b]] for b in range(3)]
    assert joined == list(sampler())
    assert {len(batch) for part in parts for batch in part} == {6 // world}


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine.batch_size 6 is not divisible by the number of processes, 4"):
        sampler(world=4)


def test_fewer_examples_than_a_batch_make_one_batch_of_equal_shares() -> None:
    parts = [list(sampler(size=5, rank=rank, world=2)) for rank in range(2)]
    assert [len(p) for p in parts] == [1, 1]
    assert [len(p[0]) for p in parts] == [2, 2]


def test_randomness_belongs_to_the_sample() -> None:
    ids = torch.arange(100)
    keys = draws(derive_seed(1, "epoch", 0), ids)
    whole = uniform(keys, 50)
    assert torch.equal(whole[40:60], uniform(keys[40:60], 50))
    assert torch.equal(whole.flip(0), uniform(keys.flip(0), 50))
    assert torch.equal(whole[:, :20], uniform(keys, 20))
    assert not torch.equal(whole, uniform(keys, 50, stream=1))
    assert not torch.equal(whole, uniform(draws(derive_seed(1, "epoch", 1), ids), 50))


def test_uniform_and_normal_have_their_moments_and_are_uncorrelated() -> None:
    keys = draws(derive_seed(0), torch.arange(2000))
    u = uniform(keys, 500).double()
    assert 0 <= float(u.min()) < 1e-4 < 1 - 1e-4 < float(u.max()) < 1
    assert float(u.mean()) == pytest.approx(0.5, abs=2e-3)
    assert float(u.var()) == pytest.approx(1 / 12, abs=2e-3)
    assert float(torch.corrcoef(u.T[:50]).fill_diagonal_(0).abs().max()) < 0.1
    assert float(torch.corrcoef(u[:50]).fill_diagonal_(0).abs().max()) < 0.2
    streams = torch.stack([uniform(keys, 1, stream=s).double().squeeze(1) for s in range(8)])
    assert float(torch.corrcoef(streams).fill_diagonal_(0).abs().max()) < 0.1
    z = normal(keys, 500).double()
    assert float(z.mean()) == pytest.approx(0, abs=5e-3)
    assert float(z.var()) == pytest.approx(1, abs=1e-2)
    assert bool(torch.isfinite(z).all())


def test_the_numbers_never_change() -> None:
    """Published results refer to them."""
    keys = draws(derive_seed(7, "pretrain", "draw", 2), torch.tensor([0, 1, 123456789]))
    assert derive_seed(7, "pretrain", "draw", 2) == 8790418372243134088
    assert uniform(keys, 2).flatten().tolist() == pytest.approx(FROZEN, abs=1e-7)


FROZEN = [0.889786839, 0.912403107, 0.441294551, 0.798317075, 0.623127759, 0.860563934]


def test_examples_are_gathered_as_a_batch_with_ids() -> None:
    batch = TensorExamples({"x": torch.arange(10.0)})[[3, 1]]
    assert batch["x"].tolist() == [3.0, 1.0]
    assert batch["id"].tolist() == [3, 1]
    with pytest.raises(ValueError, match="equal first dimension"):
        TensorExamples({"x": torch.zeros(3), "y": torch.zeros(4)})
