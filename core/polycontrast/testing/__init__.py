"""What an author of a plugin runs: the Method contract as checks, for pytest and for ``polycontrast plugin check``.

In the tests of a plugin::

    from polycontrast.testing import Case, conformance

    @conformance([Case("lidar/scan-clr", set={"engine.batch_size": 16})])
    def test_conformance(case, check, tmp_path):
        check(case, tmp_path)

Our own methods pass through the same door.
"""

from polycontrast.testing.checks import CHECKS, Case, Check, Outcome, conformance, run_checks

__all__ = ["CHECKS", "Case", "Check", "Outcome", "conformance", "run_checks"]
