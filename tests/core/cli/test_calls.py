"""Wrong calls: one line that says what to do, exit code 2, and no torch."""

from __future__ import annotations

import pytest


def complaint(done) -> str:
    """The line that says what is wrong; the only other one may be the usage."""
    first, *rest = done.stderr.splitlines()
    assert first.startswith("polycontrast: error: ")
    assert [line.split()[0] for line in rest] in ([], ["usage:"])
    assert done.stdout == ""
    return first.removeprefix("polycontrast: error: ")


COMMANDS = "list, info, train, ablate, compare, evaluate, embed, predict, report, plugin, doctor"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], f"no command 'trian'; it is one of {COMMANDS}. Did you mean 'train'?"),
        (["--debug"], f"which command? one of {COMMANDS}"),
        (["list", "--jsn"], "unknown flag '--jsn'. Did you mean '--json'?"),
        (["list", "--jso"], "unknown flag '--jso'. Did you mean '--json'?"),
        (["train"], "METHOD missing"),
        (["train", "pair", "more"], "unexpected argument 'more'"),
        (["train", "pair", "--engine.epochs", "3"], "unknown flag '--engine.epochs'. Settings are given as "
                                                     "--set engine.epochs=VALUE"),
        (["train", "pair", "--seed", "x"], "--seed: 'x' is not a whole number"),
        (["train", "pair", "--seed", "-1"], "--seed: must be at least 0, got -1"),
        (["train", "pair", "--seeds", "0"], "--seeds: must be at least 1, got 0"),
        (["train", "pair", "--max-steps", "0"], "--max-steps: must be at least 1, got 0"),
        (["train", "pair", "--seed", "1", "--seeds", "2"], "--seeds: not allowed with argument --seed"),
        (["train", "pair", "--device", "gpu"], "--device: 'gpu' is no device; try cpu, cuda, cuda:1 or mps"),
        (["train", "pair", "--precision", "int8"], "--precision: invalid choice: 'int8' (choose from 'no', 'bf16', "
                                                   "'fp16')"),
        (["train", "pair", "--resume"], "--resume needs --out DIR, the run to continue"),
        (["train", "pair", "--dry-run", "--seeds", "2"], "--dry-run shows one new run; leave out --resume and --seeds"),
        (["train", "pair", "--config", "qick"], "'toy/pair' has no preset 'qick'; it has demo, quick (a file must end "
                                                "in .yaml or hold a slash). Did you mean 'quick'?"),
        (["train", "pair", "--config", "my.yaml"], "--config: no file 'my.yaml'."),
        (["train", "pair", "--data", "dem"], "--data 'dem' is neither a dataset of 'toy/pair' (its datasets: demo, "
                                             "plain) nor an existing path. Did you mean 'demo'?"),
        (["train", "pair", "--data", "gone.csv"], "--data 'gone.csv' is neither a dataset of 'toy/pair' (its datasets: "
                                                  "demo, plain) nor an existing path."),
        (["train", "closed"], "'toy/closed' brings no demo data; name some with --data (its datasets: none)"),
        (["train", "needy/dive"], "'needy/dive' needs surely-absent>=2, which is not installed: "
                                  'pip install "acme-needy[deep]"'),
        (["evaluate", "runs/none"], "no model 'runs/none': it is no existing directory, nor an id like 'owner/name' on "
                                    "the hub."),
        (["report", "nowhere"], "no run directory 'nowhere'."),
        (["embed", "m", "--data", "demo"], "--out missing"),
        (["plugin", "new", "acme-x"], "plugin new needs a directory: polycontrast plugin new NAME DIR"),
        (["plugin", "new", "Acme", "d"], "'Acme' is no name for a plugin; write lower-case words and hyphens, as in "
                                         "acme-lidar"),
        (["plugin", "check", "toi"], "no domain 'toi' is installed; there are core, graph, needy, rl, speech, "
                                         "timeseries, toy, vision-language, wreck. Did you mean 'toy'?"),
        (["plugin", "check", "needy"], "'needy/dive' needs surely-absent>=2, which is not installed: "
                                       'pip install "acme-needy[deep]"'),
        (["plugin", "check", "wreck"], "the domain 'wreck' has no method to check: acme-broken 2.3.0 "
                                           "did not load: No module named 'acme_not_there'"),
        (["embed", "m", "--data", "demo", "--out", "x.parqet"], "--out 'x.parqet' must end in .parquet. Did you mean "
                                                                "'.parquet'?"),
        (["predict", "m", "--data", "demo", "--out", "no/x.parquet"], "--out 'no/x.parquet': there is no directory "
                                                                      "'no'; make it first"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_wrong_call(run, tmp_path, words, message):
    (tmp_path / "runs").mkdir()
    done = run(*words, code=2)
    assert complaint(done) == message
    assert "torch" not in done.heavy
    assert [p.name for p in tmp_path.rglob("*")] == ["runs"]


def test_an_unknown_method_names_the_near_one_and_what_did_not_load(run):
    done = run("info", "toy/pear", code=2)
    text = complaint(done)
    assert text.startswith("no method 'toy/pear'. Did you mean 'toy/pair'?")
    assert "acme-broken 2.3.0 did not load: No module named 'acme_not_there'" in text
    assert "torch" not in done.heavy


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("temperatur=1", ["--set", "temperatur", "Did you mean 'temperature'?"]),
        ("engine.batchsize=1", ["engine.batchsize", "Did you mean 'engine.batch_size'?"]),
        ("dim=wide", ["--set", "'dim'", "wide"]),
        ("engine.epochs=-1", ["epochs", "positive"]),
        ("dim", ["--set", "dim"]),
    ],
)
def test_a_wrong_setting(run, assignment, parts):
    done = run("train", "pair", "--set", assignment, code=2)
    text = complaint(done)
    assert all(part in text for part in parts), text
    assert "torch" not in done.heavy


def test_a_wrong_key_in_a_file_is_told_with_the_file(run, tmp_path):
    (tmp_path / "my.yaml").write_text("engine:\n  epoch: 3\n")
    text = complaint(run("train", "pair", "--config", "my.yaml", code=2))
    assert "my.yaml" in text
    assert "'engine.epochs'" in text


def test_a_method_that_reads_no_files_says_so(run, tmp_path):
    (tmp_path / "my.csv").write_text("a\n1\n")
    done = run("train", "closed", "--data", "my.csv", code=2)
    assert complaint(done) == "'toy/closed' reads no files; use one of its datasets: none"
    assert "torch" not in done.heavy


def test_an_existing_directory_is_left_alone(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    done = run("train", "pair", "--out", "out", code=2)
    assert complaint(done) == "out exists and is not empty; choose another --out"
    done = run("train", "pair", "--out", "out", "--resume", code=2)
    assert complaint(done) == "out is no run directory (config.yaml is missing), so it cannot be resumed"
    (out / "config.yaml").write_text("method: toy/pair\n")
    done = run("train", "pair", "--out", "out", code=2)
    assert complaint(done) == "out holds a run already; continue it with --resume or choose another --out"
    done = run("train", "pair", "--out", "out/thesis.tex", code=2)
    assert "is not a directory" in complaint(done)
    assert "torch" not in done.heavy
    assert sorted(p.name for p in out.iterdir()) == ["config.yaml", "thesis.tex"]


def test_a_directory_that_is_no_model(run, tmp_path):
    (tmp_path / "m").mkdir()
    done = run("evaluate", "m", code=2)
    assert complaint(done) == "m is neither a run directory (config.yaml) nor a saved model (config.json)"
    (tmp_path / "m" / "config.json").write_text("{ half")
    assert complaint(run("evaluate", "m", code=2)).startswith("m/config.json is damaged")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "bert"}')
    assert "was not written by polycontrast" in complaint(run("evaluate", "m", code=2))
    (tmp_path / "m" / "config.json").write_text('{"method": "toy/pair"}')
    done = run("embed", "m", "--data", "gone", "--out", "x.parquet", code=2)
    assert complaint(done).startswith("--data 'gone' is neither a dataset of 'toy/pair'")
    assert "torch" not in done.heavy
    (tmp_path / "m" / "config.yaml").write_text("method: toy/pair\n")
    assert "has no model yet" in complaint(run("evaluate", "m", code=2))


def test_debug_shows_the_traceback(run):
    for words in (["--debug", "info", "toy/pear"], ["info", "toy/pear", "--debug"]):
        done = run(*words, code=2)
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("polycontrast: error: no method 'toy/pear'")


@pytest.mark.parametrize("command", ["list", "info", "train", "evaluate", "embed", "predict", "report", "doctor"])
def test_help_has_an_example(run, command):
    done = run(command, "--help")
    assert f"  polycontrast {command}" in done.stdout.partition("examples:")[2]
    assert done.stderr == ""
    assert "torch" not in done.heavy


def test_help_and_version(run):
    from importlib.metadata import version

    done = run("--help")
    assert all(f"\n    {name}" in done.stdout for name in ("list", "train", "doctor"))
    assert done.heavy == []
    done = run("--version")
    assert done.stdout == f"polycontrast {version('polycontrast')}\n"
    assert done.heavy == []
    done = run(code=2)
    assert done.stdout == ""
    assert "commands:" in done.stderr
