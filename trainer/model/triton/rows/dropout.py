"""The random numbers of dropout in a kernel, which depend on seed and place alone, in Triton."""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

import triton
import triton.language as tl


@triton.jit
def dropout_scale(
    seed, dropout, row_R1, first_column, n_columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Return 0 for the elements of a tile to drop, 1/(1-p) for others, `[ROWS, COLUMNS]` in fp32.

    The result depends on seed, row and column, not on how rows are cut into tiles. One draw of
    Philox decides on four neighbours, so `first_column` and `COLUMNS` are multiples of 4. With
    7 rounds (Salmon et al. 2011: the fewest that pass every test of BigCrush) a draw is cheaper
    than the loads around it.
    """
    group_1G = first_column // 4 + tl.arange(0, COLUMNS // 4)[None, :]
    counter_RG = row_R1 * tl.cdiv(n_columns, 4) + group_1G
    a_RG, b_RG, c_RG, d_RG = tl.randint4x(tl.load(seed), counter_RG, n_rounds=7)
    n_dropped = tl.cast(dropout * 4294967296.0, tl.uint32)  # of the 2^32 numbers that a draw may be
    # Compared before the reshape, which may move what it is given from thread to thread.
    keep_RG22 = tl.join(tl.join(a_RG, b_RG), tl.join(c_RG, d_RG)) >= n_dropped
    return tl.where(tl.reshape(keep_RG22, (ROWS, COLUMNS)), 1.0 / (1.0 - dropout), 0.0)
