"""The fidelity benchmark: exact scores approach the data, a finished cell is not run again."""

import fidelity


def test_deterministic_steps_of_the_exact_score_approach_the_data(tmp_path):
    row = fidelity.run_cell(fidelity.Cell("mixture3", "DDIM, exact score", 0, 1.0, 2048), tmp_path)
    ratios = [row["distance"][str(n)]["value"] / row["distance"][str(n)]["floor"] for n in (1, 4, 16)]
    assert ratios[0] > 10 * ratios[2] > 10
    assert ratios[0] > ratios[1] > ratios[2]


def test_a_cell_that_is_done_is_read_back_and_another_is_not(tmp_path):
    cell = fidelity.Cell("mixture3", "Mean Flow", 0, 0.0005, 1000)
    row = fidelity.run_cell(cell, tmp_path)
    (saved,) = tmp_path.glob("*.json")
    written = saved.stat().st_mtime_ns
    assert fidelity.run_cell(cell, tmp_path) == row
    assert saved.stat().st_mtime_ns == written
    longer = fidelity.run_cell(fidelity.Cell("mixture3", "Mean Flow", 0, 0.001, 1000), tmp_path)
    assert longer["steps"] == 2 * row["steps"]
    assert saved.stat().st_mtime_ns > written
