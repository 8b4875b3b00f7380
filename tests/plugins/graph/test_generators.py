from __future__ import annotations

import numpy as np

from polycontrast_graph.config import GraphConfig
from polycontrast_graph.generators import catalogue, demo
from polycontrast_graph.metahgnie.config import MetaHGNIEConfig


def test_what_the_specification_says() -> None:
    kg = catalogue(seed=3)
    assert kg.num_nodes == 1500 + 60 + 300
    assert kg.node_type_names == ("item", "tag", "maker")
    assert kg.labelled.tolist() == [True] * 1500 + [False] * 360
    made, tagged = (kg.edge_index[:, kg.edge_type == r] for r in (0, 1))
    assert made.shape == (2, 1500)
    assert (np.bincount(made[0]) == 1).all()
    assert made[1].min() >= 1560
    number = np.bincount(tagged[0], minlength=1500)
    assert set(number) == {1, 2, 3, 4}
    assert len(np.unique(tagged, axis=1).T) == tagged.shape[1]
    # Long tail: the most productive maker has many items, the median few.
    sizes = np.sort(np.bincount(made[1], minlength=1860)[1560:])
    assert sizes[-1] > 8 * np.median(sizes)
    assert kg.x_text is not None
    assert (kg.x_text[1500:] == 0).all()
    assert kg.label(1500) == "tag 0"


def test_scores_have_the_parts_that_the_specification_says() -> None:
    kg = catalogue(seed=1)
    y = kg.y[:1500].astype(float)
    number = np.bincount(kg.edge_index[0, kg.edge_type == 1], minlength=1500)
    who = kg.edge_index[1, kg.edge_type == 0] - 1560
    assert kg.x_text is not None
    known = np.column_stack([number, kg.x_text[:1500], np.eye(300)[who]])
    tags = np.zeros((1500, 60))
    item, tag = kg.edge_index[:, kg.edge_type == 1]
    tags[item, tag - 1500] = 1 / number[item]
    x = np.column_stack([known, tags])
    weight = np.linalg.lstsq(x, y, rcond=None)[0]
    # All of it is linear in these but the noise of 0.3, of which 1500 rows leave 360 columns a part.
    left = y - x @ weight
    assert abs(np.sqrt((left**2).sum() / (1500 - 390)) - 0.3) < 0.03
    assert abs(weight[0] - 0.4) < 0.05
    assert abs(np.linalg.norm(weight[1:5]) - 0.5) < 0.08
    assert np.abs(weight[5:33]).max() < 0.1


def test_structure_is_blurred_for_one_and_clear_in_the_mean() -> None:
    kg = catalogue(seed=0)
    assert kg.x_struct is not None
    clean = catalogue(seed=0, structure_noise=0.0).x_struct
    assert clean is not None
    noise = kg.x_struct[:1500] - clean[:1500]
    assert abs(np.linalg.norm(noise) / np.linalg.norm(clean[:1500]) - 1.0) < 0.15


def test_the_seed_changes_everything() -> None:
    one, two, again = catalogue(seed=0), catalogue(seed=1), catalogue(seed=0)
    np.testing.assert_array_equal(one.y, again.y)
    assert not np.allclose(one.y[:1500], two.y[:1500])
    assert one.num_edges != two.num_edges


def test_the_dataset() -> None:
    data = demo(MetaHGNIEConfig(data=GraphConfig(fold=1)), 4, "train")
    assert data.name == "demo"
    assert data.kg.num_nodes == 1860
    assert list(data.splits) == ["train", "val", "test"]
