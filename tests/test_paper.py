"""The published numbers are there, and every row can be trained."""

from __future__ import annotations

import pytest

from gia_cli.paper import PUBLISHED_MEASURES, paper_costs, paper_table


def test_the_rows_are_the_papers() -> None:
    by_name = {row.name: row for row in paper_table("1")}
    assert by_name["GIA-Net"].published["sony"] == (29.72, 0.795, 1.425, 0.404)
    assert by_name["GIA-Net"].published["fuji"] == (28.15, 0.722, 1.739, 0.519)
    assert by_name["SID-Net"].published["sony"] == (28.52, 0.786, 1.532, 0.420)
    assert [row.name for row in paper_table("2")] == ["SID-Net", "SID-dilated", "SW-Net", "GIA-l1"]
    assert [row.name[0] for row in paper_table("3")] == list("123456789")
    assert paper_costs()["gia-net"] == {"parameters_ratio": 1.07, "flops_ratio": 1.008}


@pytest.mark.parametrize("table", ["1", "2", "3"])
def test_every_row_says_how_it_is_trained(table: str) -> None:
    rows = paper_table(table)  # type: ignore[arg-type]
    assert len({row.slug for row in rows}) == len(rows)
    for row in rows:
        assert (row.network is None) == (row.loss is None)
        assert row.loss in {None, "l1", "joint", "zamir"}
        assert all(len(values) == len(PUBLISHED_MEASURES) for values in row.published.values())


def test_the_tables_agree_with_each_other() -> None:
    """GIA-Net's last row is Table 1's, its sixth Table 2's."""
    one, two, three = ({r.name: r for r in paper_table(t)} for t in ("1", "2", "3"))
    assert three["9 GIA-Net, MS-SSIM, multi-size crop"].published == one["GIA-Net"].published
    assert three["6 GIA-Net"].published == two["GIA-l1"].published
    assert three["1 SID-Net"].published == one["SID-Net"].published
