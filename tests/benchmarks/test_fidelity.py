"""The fidelity benchmark: exact scores approach the data, a finished cell is not run again."""

import fidelity
import fidelity_tables


def test_deterministic_steps_of_the_exact_score_approach_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr(fidelity, "STEPS", (1, 4, 16))
    row = fidelity.run_cell(fidelity.Cell("mixture3", "DDIM, exact score", 0, 1.0, 2048), tmp_path)
    ratios = [row["distance"][str(n)]["value"] / row["distance"][str(n)]["floor"] for n in (1, 4, 16)]
    assert ratios[0] > 10 * ratios[2] > 10
    assert ratios[0] > ratios[1] > ratios[2]


def test_a_cell_that_is_done_is_read_back_and_another_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(fidelity, "STEPS", (1, 2))
    cell = fidelity.Cell("mixture3", "Mean Flow", 0, 0.0005, 1000)
    row = fidelity.run_cell(cell, tmp_path)
    (saved,) = tmp_path.glob("*.json")
    written = saved.stat().st_mtime_ns
    assert fidelity.run_cell(cell, tmp_path) == row
    assert saved.stat().st_mtime_ns == written
    longer = fidelity.run_cell(fidelity.Cell("mixture3", "Mean Flow", 0, 0.001, 1000), tmp_path)
    assert longer["steps"] == 2 * row["steps"]
    assert saved.stat().st_mtime_ns > written


def test_the_table_has_the_mean_and_the_deviation_over_seeds():
    def row(seed: int, ratio: float) -> fidelity_tables.Row:
        kernel = {"variance ratio": {"0.5": ratio}, "mode mass": {"0.5": 0.01}, "TARP": {"0.5": 0.02}}
        distance = {str(n): {"value": ratio, "floor": 0.5} for n in fidelity_tables.STEPS}
        facts = {"problem": "mixture2d", "method": "paper", "seed": seed, "cpu_seconds": 3.0}
        return facts | {"kernel M=1": kernel, "kernel M=2": kernel, "distance": distance}

    table = fidelity_tables.markdown([row(0, 0.9), row(1, 1.1)])
    assert "| paper | 1.00 ±0.14 | 0.010 ±0.000 | 0.020 ±0.000 | 1.00 ±0.14 | 2.0 ±0.3, " in table
    assert table.count("| paper |") == 1
    assert "±" not in fidelity_tables.markdown([row(0, 0.9)])
