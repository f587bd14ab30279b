"""Blocks of the matrices that the kernels of attention read and write, and which keys a query sees.

B streams · T tgt_len · S n_keys · H heads · E d_head · Q, K queries and keys of a block ·
R, C rows and columns of any block · n keys of memory or segment.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

import triton
import triton.language as tl


@triton.jit
def aligned(offset, ALIGN: tl.constexpr):
    """Return `offset`, a multiple of `ALIGN`, in a form that tells the compiler that it is one."""
    return offset // ALIGN * ALIGN


@triton.jit
def one_head(
    kv_Bn2HE, stride_b, stride_n, stride_2, stride_h, stream, head, ALIGN: tl.constexpr
):  # fmt: skip
    """Return a stream's keys of a head, the stride from key to key, and that to its values."""
    first = kv_Bn2HE + aligned(stream * stride_b + head * stride_h, ALIGN)
    return first, aligned(stride_n, ALIGN), aligned(stride_2, ALIGN)


@triton.jit
def first_visible(visible_from_BT, stream_at, visible_t, query_Q, tgt_len):
    """Return the first key that each query sees; past the segment a number after every key."""
    from_Q = tl.where(query_Q < tgt_len, 0, 1 << 30)
    if visible_from_BT is not None:
        place_Q = stream_at + query_Q.to(tl.int64) * visible_t
        from_Q += tl.load(visible_from_BT + place_Q, query_Q < tgt_len, other=0).to(tl.int32)
    return from_Q


@triton.jit
def last_seeing(
    visible_from_BT, stream_at, visible_t, first, tgt_len, end_key, BLOCK_Q: tl.constexpr
):  # fmt: skip
    """Return the end of the queries from `first` on that see some key before `end_key`."""
    end = tgt_len
    if visible_from_BT is not None:
        end = first
        for start in range(first, tgt_len, BLOCK_Q):
            query_Q = start + tl.arange(0, BLOCK_Q)
            from_Q = first_visible(visible_from_BT, stream_at, visible_t, query_Q, tgt_len)
            end = tl.maximum(end, tl.max(tl.where(from_Q < end_key, query_Q + 1, 0), axis=0))
    return end


@triton.jit
def shifted(matrix_TS, query_Q, stride, tgt_len):
    """Return offsets, `[Q, 1]`: a key's score for a query lies at offset plus key (rel_shift)."""
    query_Q1 = query_Q[:, None].to(tl.int64)
    return matrix_TS + query_Q1 * stride + (tgt_len - 1 - query_Q1)


@triton.jit
def zero_columns(matrix, row_R, stride, n_rows, first, end, BLOCK: tl.constexpr):
    """Store zeros in the columns from `first` to `end` of some rows: in the pads of rows."""
    for column in range(first, end, BLOCK):
        column_1C = column + tl.arange(0, BLOCK)[None, :]
        place_RC = row_R[:, None].to(tl.int64) * stride + column_1C
        tl.store(matrix + place_RC, 0.0, (row_R[:, None] < n_rows) & (column_1C < end))


@triton.jit
def scores(query_QE, key_KE, position_Q1, key_K, from_Q, until_Q, PRECISION: tl.constexpr):
    """Return content plus position scores, `[Q, K]`; -inf where a query does not see a key."""
    sees_QK = (key_K[None, :] >= from_Q[:, None]) & (key_K[None, :] < until_Q[:, None])
    position_QK = tl.load(position_Q1 + key_K[None, :], sees_QK, other=float("-inf"))
    return tl.dot(query_QE, tl.trans(key_KE), input_precision=PRECISION) + position_QK


@triton.jit
def rows_of_two(old, old_stride, new, new_stride, key_K, mem_len):
    """Return where each key's row begins: in memory's matrix, or in the segment's."""
    key_K = key_K.to(tl.int64)
    return tl.where(
        key_K < mem_len, old + key_K * old_stride, new + (key_K - mem_len) * new_stride
    )  # fmt: skip


@triton.jit
def load_rows(first, row_R, stride, n_rows, width, BLOCK_E: tl.constexpr):
    """Load rows of the matrix at `first`, `[R, BLOCK_E]`, with zeros beyond its borders."""
    return load_at(first + row_R.to(tl.int64) * stride, row_R < n_rows, width, BLOCK_E)


@triton.jit
def load_at(row_R, is_row_R, width, BLOCK_E: tl.constexpr):
    """Load rows that begin anywhere, `[R, BLOCK_E]`, with zeros where there is none."""
    column_1E = tl.arange(0, BLOCK_E)[None, :]
    inside_RE = is_row_R[:, None] & (column_1E < width)
    return tl.load(row_R[:, None] + column_1E, inside_RE, other=0.0)


@triton.jit
def store_rows(first, value_RE, row_R, stride, n_rows, width, BLOCK_E: tl.constexpr):
    """Store rows in the matrix at `first`, in its dtype; nothing beyond its borders."""
    store_at(first + row_R.to(tl.int64) * stride, value_RE, row_R < n_rows, width, BLOCK_E)


@triton.jit
def store_at(row_R, value_RE, is_row_R, width, BLOCK_E: tl.constexpr):
    """Store rows that begin anywhere, in the dtype that is there, where there is one."""
    column_1E = tl.arange(0, BLOCK_E)[None, :]
    inside_RE = is_row_R[:, None] & (column_1E < width)
    tl.store(row_R[:, None] + column_1E, value_RE.to(row_R.dtype.element_ty), inside_RE)
