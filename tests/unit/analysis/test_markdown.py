"""Our Markdown tables are tabulate's, letter by letter."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st
from tabulate import tabulate

from tests.growth import MOST, growth
from tpsweep.analysis.markdown import pipe_table

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12).map(
    lambda text: " ".join(text.split())
)


@given(
    st.integers(0, 4).flatmap(
        lambda lines: st.dictionaries(
            WORDS.filter(bool), st.lists(WORDS, min_size=lines, max_size=lines), max_size=4
        )
    )
)
@example({"漢字": ["a"], "b": ["\x1b[31mred\x1b[0m"]})
@example({"Batch": ["1", "1000000000"], "TP": ["", ""]})
@example({"only a heading": []})
def test_it_is_what_tabulate_makes(columns: dict[str, list[str]]) -> None:
    theirs = tabulate(columns, headers="keys", tablefmt="pipe", disable_numparse=True)
    assert pipe_table(columns) == theirs


def test_a_table_takes_no_search_per_row() -> None:
    def table(rows: int) -> Callable[[], object]:
        columns = {f"column {k}": [f"{k * n:.3f}" for n in range(rows)] for k in range(20)}
        assert pipe_table(columns).count("\n") == rows + 1
        return lambda: pipe_table(columns)

    assert growth(table, 2_500) < MOST
