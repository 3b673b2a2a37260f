"""The table of the kernels beside messages: every result is checked, every row has a ratio."""

import pytest

from sparsefl.bench import codec_kernels
from sparsefl.bench.rows import OURS
from sparsefl.timing import Effort

SMALL = {
    "signs": codec_kernels.signs,
    "largest": codec_kernels.largest,
    "votes": codec_kernels.votes,
}


@pytest.mark.parametrize("topic", SMALL)
def test_rows_of_small_sizes(topic):
    for comparison in SMALL[topic](4096):
        found = codec_kernels.rows_of(comparison, {"commit": "x"}, Effort(warmup=0, timed=1))

        assert {row["provider"] for row in found} == set(comparison.calls)
        assert [row["provider"] for row in found if "floor" in row] == [comparison.peer]
        assert all(row["median_us"] > 0 and row["times_faster"] > 0 for row in found)
        assert found[0]["provider"] == OURS
        assert found[0]["times_faster"] == 1


def test_a_wrong_result_is_not_timed():
    with pytest.raises(ValueError, match="differs"):
        codec_kernels.agree([1, 2], [1, 3])
