"""The command for a GPU: a part that fails, or never ends, takes nothing of the others with it."""

import argparse
import sys

import gpu
import pytest


def test_how_a_part_went_is_said_and_what_it_wrote_is_kept(tmp_path, monkeypatch):
    (tmp_path / "a_part.py").write_text("import sys, time; print('begun'); time.sleep(float(sys.argv[2])); sys.exit(3)")
    (tmp_path / "ends_well.py").write_text("import sys; print('begun'); print(len(sys.argv), file=sys.stderr)")
    monkeypatch.syspath_prepend(tmp_path)
    log = tmp_path / "log.txt"
    assert gpu.limited(["ends_well", 1, "two"], 60, log) == "done"
    assert log.read_text() == "begun\n3\n"
    assert gpu.limited(["a_part", "for", 0], 60, log) == "ended with exit status 3: log.txt"
    assert log.read_text() == "begun\n"
    assert gpu.limited(["a_part", "for", 60], 3, log).startswith("stopped after its 3 s")
    assert log.read_text() == "begun\n"
    assert gpu.limited(["no_such_part"], 60, log) == "ended with exit status 1: log.txt"
    assert "No module named no_such_part" in log.read_text()
    assert gpu.limited(["ends_well"], -26, log).startswith("not begun: no time was left")
    assert log.read_text() == ""


def test_an_earlier_page_is_not_written_over(tmp_path, monkeypatch):
    (tmp_path / "report.md").write_text("of yesterday")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--data", str(tmp_path), "--out", str(tmp_path), "--device", "cpu"])
    with pytest.raises(SystemExit, match="of an earlier run: give another --out"):
        gpu.main()
    assert (tmp_path / "report.md").read_text() == "of yesterday"


@pytest.mark.parametrize("lost", range(1, 4))
def test_a_gpu_that_is_lost_leaves_what_was_measured(tmp_path, monkeypatch, lost):
    asked = []

    def limited(command, seconds, log):
        """The first ``lost`` parts are measured; from then on there is no device."""
        asked.append(command)
        log.write_text(f"figure {len(asked)}\n" if len(asked) <= lost else "CUDA error: device lost\n")
        return "done" if len(asked) <= lost else f"ended with exit status 1: {log.name}"

    monkeypatch.setattr(gpu, "limited", limited)
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *options])
    gpu.main()
    page = (tmp_path / "out" / "report.md").read_text()
    assert [f"figure {k}" in page for k in range(1, 5)] == [k <= lost for k in range(1, 5)]
    assert page.count("ended with exit status 1") == 4 - lost
    assert len(asked) == 4  # no training where no step was timed, and no judgement without a model


def test_a_step_that_was_not_measured_is_no_number(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "limited", lambda *_: "ended with exit status 1: steps.txt")
    options = argparse.Namespace(out=tmp_path, recipe="mnist", device="cuda")
    assert gpu.measured_step(options, gpu.WHOLE, 60) == ("ended with exit status 1: steps.txt", None)
