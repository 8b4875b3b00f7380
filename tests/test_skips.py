from __future__ import annotations

from pathlib import Path

import pytest

import skips

pytest_plugins = ["pytester"]


@pytest.fixture
def run(pytester, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    pytester.makeconftest(Path(skips.__file__).read_text(encoding="utf-8"))

    def run(body: str, *args: str):
        pytester.makepyfile(f"import pytest\n{body}")
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *args)

    return run


def skip_each(*reasons: str) -> str:
    return f"@pytest.mark.parametrize('reason', {reasons!r})\ndef test_one(reason):\n    pytest.skip(reason)\n"


def test_good_reasons_are_counted(run):
    body = skip_each("no GPU", "no GPU: two are needed", "no GL library: libEGL", "no compiler", "extra missing: graph")
    result = run(body + "def test_two(): pass\n@pytest.mark.xfail(reason='issue 7')\ndef test_three(): assert False\n")
    result.assert_outcomes(passed=1, skipped=5, xfailed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["skips: 5 (extra missing 1, no GL library 1, no GPU 2, no compiler 1)"])


def test_none_is_said_too(run):
    run("def test_two(): pass").stdout.fnmatch_lines(["skips: 0"])


def test_any_other_reason_fails(run):
    body = skip_each("flaky", "no GPUs today", "not now: no GPU", "")
    result = run(body + "@pytest.mark.skip\ndef test_two(): pass\n")
    result.assert_outcomes(failed=4, errors=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*a test may be skipped for no GPU, no GL library, no compiler or extra missing, not for: *flaky"]
    )


def test_a_whole_file_skipped_for_another_reason_is_an_error(run):
    result = run("pytest.skip('later', allow_module_level=True)")
    result.assert_outcomes(errors=1)
    assert result.ret != 0


def test_a_missing_extra_is_no_excuse_where_all_are_installed(run, monkeypatch):
    body = skip_each("extra missing: graph") + "def test_two(): pytest.importorskip('polycontrast_nowhere')\n"
    run(body).assert_outcomes(skipped=2)
    run(body, "--no-missing-extras").assert_outcomes(failed=2)
    monkeypatch.setenv("CI", "true")
    result = run(body)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*every extra must be installed here, yet: *extra missing: graph"])


def test_a_domain_that_is_not_installed_skips_its_whole_file(run):
    result = run("pytest.importorskip('polycontrast_nowhere')")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["skips: 1 (extra missing 1)"])
