"""Two runs compared, against the plainest way to count."""

from decimal import Decimal

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from scipy.stats import spearmanr

from curate.errors import ConfigurationError
from curate.manifest.compare import RATIOS, compare
from curate.manifest.order import best_first, rows_at
from curate.manifest.record import MANIFEST, read_record
from curate.manifest.rows import ScoredRow, scored_table
from curate.manifest.select import SelectJob, select
from curate.manifest.verify import read_table
from tests.report.html.runs import METRICS, write_rows

# A run: of each row which sample it is, and its scores.
ROWS = st.lists(st.tuples(st.integers(0, 12), st.integers(-3, 3), st.integers(-3, 3)), max_size=25)


def run_of(folder, rows):
    table = scored_table(
        [
            ScoredRow(f"{sample:032x}", row, {"cosine": cosine, "l0": l0}, 10, 20, False, 0, None, [])
            for row, (sample, cosine, l0) in enumerate(rows)
        ],
        METRICS,
    )
    return write_rows(folder, table)


def ordered(rows, by: int) -> list[str]:
    """Ids, best first; of a sample with copies only the best."""
    keyed = sorted((-scores[by], f"{sample:032x}", row) for row, (sample, *scores) in enumerate(rows))
    return list(dict.fromkeys(name for _, name, _ in keyed))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=ROWS, second=ROWS, by=st.sampled_from([None, "cosine", "l0"]))
def test_a_comparison_counts_what_the_plainest_way_counts(first, second, by, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    found = compare(run_of(folder / "a", first), run_of(folder / "b", second), by, moves=3)
    column = METRICS.index(by or "cosine")
    a, b = ordered(first, column), ordered(second, column)
    shared = [name for name in a if name in b]
    there = [name for name in b if name in a]
    assert found.by == (METRICS[column],) * 2
    assert (found.shared, found.only_first, found.only_second) == (
        len(shared),
        len(a) - len(shared),
        len(b) - len(shared),
    )
    assert found.copies == (len(first) - len(a), len(second) - len(b))
    assert found.second.tolist() == [there.index(name) for name in shared]
    if len(shared) < 2:
        assert found.spearman is None
    else:
        expected = spearmanr(range(len(shared)), found.second).statistic
        assert found.spearman == pytest.approx(expected, abs=1e-12)
    for each in found.overlaps:
        keep = max(1, int(each.ratio * len(shared) + Decimal("0.5")))
        assert (each.keep, each.same) == (keep, len(set(shared[:keep]) & set(there[:keep])))
        assert each.share == each.same / keep
        assert each.chance == keep / len(shared)
    assert len(found.overlaps) == (len(RATIOS) if shared else 0)
    moves = sorted((shared.index(name) - there.index(name) for name in shared), reverse=True)
    assert [each.places for each in found.up] == [move for move in moves[:3] if move > 0]
    assert [each.places for each in found.down] == [move for move in moves[::-1][:3] if move < 0]
    for each in (*found.up, *found.down):
        assert (shared[each.first - 1], there[each.second - 1]) == (each.sample_id, each.sample_id)


def test_a_run_is_as_itself_and_opposite_to_itself_upside_down(tmp_path):
    rows = [(sample, sample, -sample) for sample in range(30)]
    run = run_of(tmp_path / "a", rows)
    same = compare(run, run)
    assert same.spearman == 1
    assert {each.share for each in same.overlaps} == {1.0}
    assert (same.up, same.down) == ((), ())
    turned = compare(run, run_of(tmp_path / "b", [(sample, l0, cosine) for sample, cosine, l0 in rows]))
    assert turned.spearman == -1
    assert turned.up[0].places == 29
    assert turned.overlaps[0].same == 0


def test_what_overlaps_is_what_selections_have_in_common(tmp_path):
    rng = np.random.default_rng(0)
    rows = [[(sample, rng.integers(9), 0) for sample in range(37)] for _ in range(2)]
    runs = [run_of(tmp_path / name, each) for name, each in zip("ab", rows, strict=True)]
    for each in compare(*runs).overlaps:
        kept = [select(SelectJob(run=str(run), ratio=each.ratio))[0] for run in runs]
        ids = [set(read_table(folder, "selection.parquet")["sample_id"].to_pylist()) for folder in kept]
        assert (each.keep, each.same) == (len(ids[0]), len(ids[0] & ids[1]))


def test_a_metric_that_one_of_them_lacks_is_refused(tmp_path):
    run = run_of(tmp_path / "a", [(0, 0, 0)])
    with pytest.raises(ConfigurationError, match=r"--by ifd: .* has cosine, l0"):
        compare(run, run, "ifd")


@pytest.mark.parametrize("batch", [3, 1 << 16])
def test_the_order_by_another_metric_is_that_of_a_selection(tmp_path, monkeypatch, batch):
    monkeypatch.setattr("curate.manifest.verify.READ_ROWS", batch)
    rng = np.random.default_rng(1)
    run = run_of(
        tmp_path / "a", [(int(rng.integers(9)), int(rng.integers(5)), int(rng.integers(3))) for _ in range(80)]
    )
    record = read_record(run)
    for metric in METRICS:
        folder, _ = select(SelectJob(run=str(run), ratio=Decimal(1), by=metric))
        expected = read_table(folder, "selection.parquet")["source_row"].to_pylist()
        order = best_first(run, record, metric)
        assert [row["source_row"] for row in rows_at(run, order.tolist())] == expected
    assert rows_at(run, [4, 2, 4], ["rank"]) == [{"rank": 5}, {"rank": 3}, {"rank": 5}]
    assert read_table(run, MANIFEST).num_rows == 80
