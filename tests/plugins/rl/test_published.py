from __future__ import annotations

from polycontrast_rl.taco.published import figures


def test_figures_say_whether_they_were_checked() -> None:
    assert figures("dmc:reacher_hard") == {
        "TACO at 1 M frames": {"return": 883}, "DrQ-v2 at 1 M frames": {"return": 572},
    }  # fmt: skip
    assert set(figures("dmc:walker_run")) == {"TACO at 1 M frames (unchecked)", "DrQ-v2 at 1 M frames (unchecked)"}
    assert figures("dmc:cartpole_swingup") == {}
