"""The kernels of `fused_attention`: one program per block of queries, or of keys, of one head.

rel_shift moves nothing: the position score of key j for query i is read from column j - i + T - 1
of row i. The backward pass computes the weights again, P = exp(score - log_sum). With dP the
gradient of P, the gradient of the scores is dS = P·(dP - delta), where delta is the sum of a
query's out·d_out.

B streams · T tgt_len · M mem_len · S n_keys, M+T · H heads · E d_head ·
Q, K queries and keys of a block.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

import triton
import triton.language as tl

from trainer.model.triton.attention_blocks import (
    aligned,
    first_visible,
    last_seeing,
    load_at,
    load_rows,
    one_head,
    rows_of_two,
    scores,
    shifted,
    store_at,
    store_rows,
    zero_columns,
)
from trainer.model.triton.rows.dropout import dropout_scale


@triton.jit
def forward(
    query_BTHE, query_b, query_t, query_h,
    old_BM2HE, old_b, old_s, old_2, old_h, new_BT2HE, new_b, new_s, new_2, new_h,
    position_BHTS, position_b, position_h, position_t, visible_from_BT, visible_b, visible_t,
    seed, dropout, tgt_len, n_keys, d_head, log_sum_BHT, out_BTHE,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr, ALIGN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Write `out` and the logarithm of the softmax's sum, for a block of queries."""
    head, stream = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    n_head = tl.num_programs(1)
    row = stream * n_head + head
    wide = log_sum_BHT.dtype.element_ty
    query_Q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    row_Q = row * tgt_len + query_Q
    from_Q = first_visible(visible_from_BT, stream * visible_b, visible_t, query_Q, tgt_len)
    query_t = aligned(query_t, ALIGN)
    query_BTHE += aligned(stream * query_b + head * query_h, ALIGN)
    old, old_s, old_2 = one_head(old_BM2HE, old_b, old_s, old_2, old_h, stream, head, ALIGN)
    new, new_s, new_2 = one_head(new_BT2HE, new_b, new_s, new_2, new_h, stream, head, ALIGN)
    mem_len = n_keys - tgt_len
    d_head = aligned(d_head, ALIGN)
    position_TS = position_BHTS + stream * position_b + head * position_h
    position_Q1 = shifted(position_TS, query_Q, position_t, tgt_len)
    until_Q = query_Q + mem_len + 1
    query_QE = load_rows(query_BTHE, query_Q, query_t, tgt_len, d_head, BLOCK_E)
    # Finite, since exp(-inf - -inf) would be NaN for a query that sees no key of the first block.
    best_Q = tl.full([BLOCK_Q], -3e38, wide)
    sum_Q = tl.zeros([BLOCK_Q], wide)
    out_QE = tl.zeros([BLOCK_Q, BLOCK_E], wide)
    first = tl.min(from_Q, axis=0) // BLOCK_K * BLOCK_K
    end = tl.minimum((tl.program_id(0) + 1) * BLOCK_Q, tgt_len) + n_keys - tgt_len
    for start in range(first, end, BLOCK_K):
        key_K = start + tl.arange(0, BLOCK_K)
        row_K = rows_of_two(old, old_s, new, new_s, key_K, mem_len)
        key_KE = load_at(row_K, key_K < n_keys, d_head, BLOCK_E)
        row_K = rows_of_two(old + old_2, old_s, new + new_2, new_s, key_K, mem_len)
        value_KE = load_at(row_K, key_K < n_keys, d_head, BLOCK_E)
        score_QK = scores(query_QE, key_KE, position_Q1, key_K, from_Q, until_Q, PRECISION)
        better_Q = tl.maximum(best_Q, tl.max(score_QK, axis=1))
        weight_QK = tl.exp(score_QK - better_Q[:, None])
        shrink_Q = tl.exp(best_Q - better_Q)
        sum_Q = sum_Q * shrink_Q + tl.sum(weight_QK, axis=1)
        if seed is not None:
            weight_QK *= dropout_scale(
                seed, dropout, row_Q[:, None], start, n_keys, BLOCK_Q, BLOCK_K
            )
        out_QE = out_QE * shrink_Q[:, None]
        out_QE += tl.dot(weight_QK.to(value_KE.dtype), value_KE, input_precision=PRECISION)
        best_Q = better_Q
    # The best key alone adds 1: only rows past the segment have less, and they are not stored.
    sum_Q = tl.maximum(sum_Q, 1.0)
    tl.store(log_sum_BHT + row_Q, best_Q + tl.log(sum_Q), query_Q < tgt_len)
    out_BTHE += (stream * tgt_len * n_head + head) * d_head
    out_QE = out_QE / sum_Q[:, None]
    store_rows(out_BTHE, out_QE, query_Q, n_head * d_head, tgt_len, d_head, BLOCK_E)


@triton.jit
def backward_by_query(
    query_BTHE, query_b, query_t, query_h,
    old_BM2HE, old_b, old_s, old_2, old_h, new_BT2HE, new_b, new_s, new_2, new_h,
    position_BHTS, position_b, position_h, position_t, visible_from_BT, visible_b, visible_t,
    seed, dropout, tgt_len, n_keys, d_head, log_sum_BHT, out_BTHE, d_out_BTHE,
    delta_BHT, d_query_BTHE, d_position_BHTS, d_position_b, d_position_h, d_position_t, n_columns,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr, ALIGN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Write `delta`, `d_query` and all of `d_position`'s rows, for a block of queries."""
    head, stream = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    n_head = tl.num_programs(1)
    row = stream * n_head + head
    wide = log_sum_BHT.dtype.element_ty
    query_Q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    row_Q = row * tgt_len + query_Q
    real_Q = query_Q < tgt_len
    from_Q = first_visible(visible_from_BT, stream * visible_b, visible_t, query_Q, tgt_len)
    query_t = aligned(query_t, ALIGN)
    query_BTHE += aligned(stream * query_b + head * query_h, ALIGN)
    old, old_s, old_2 = one_head(old_BM2HE, old_b, old_s, old_2, old_h, stream, head, ALIGN)
    new, new_s, new_2 = one_head(new_BT2HE, new_b, new_s, new_2, new_h, stream, head, ALIGN)
    mem_len = n_keys - tgt_len
    d_head = aligned(d_head, ALIGN)
    position_TS = position_BHTS + stream * position_b + head * position_h
    position_Q1 = shifted(position_TS, query_Q, position_t, tgt_len)
    until_Q = query_Q + mem_len + 1
    query_QE = load_rows(query_BTHE, query_Q, query_t, tgt_len, d_head, BLOCK_E)
    place, stride = (stream * tgt_len * n_head + head) * d_head, n_head * d_head
    out_QE = load_rows(out_BTHE + place, query_Q, stride, tgt_len, d_head, BLOCK_E)
    d_out_QE = load_rows(d_out_BTHE + place, query_Q, stride, tgt_len, d_head, BLOCK_E)
    delta_Q = tl.sum(out_QE.to(wide) * d_out_QE.to(wide), axis=1)
    tl.store(delta_BHT + row_Q, delta_Q, real_Q)
    log_sum_Q = tl.load(log_sum_BHT + row_Q, real_Q, other=0.0)
    d_query_QE = tl.zeros([BLOCK_Q, BLOCK_E], wide)
    d_position_TS = d_position_BHTS + stream * d_position_b + head * d_position_h
    d_position_Q1 = shifted(d_position_TS, query_Q, d_position_t, tgt_len)
    zero_columns(d_position_TS, query_Q, d_position_t, tgt_len, n_keys, n_columns, BLOCK_K)
    first = tl.min(from_Q, axis=0) // BLOCK_K * BLOCK_K
    end = tl.minimum((tl.program_id(0) + 1) * BLOCK_Q, tgt_len) + n_keys - tgt_len
    # The gradients of keys that none of these queries sees, and of columns that belong to no key
    # (counted as keys -1, -2 …), are zero.
    for start in range(tl.program_id(0) * BLOCK_Q + 1 - tgt_len, first, BLOCK_K):
        key_1K = start + tl.arange(0, BLOCK_K)[None, :]
        inside_QK = (key_1K > query_Q[:, None] - tgt_len) & (key_1K < until_Q[:, None])
        tl.store(d_position_Q1 + key_1K, 0.0, real_Q[:, None] & inside_QK & (key_1K < first))
    for start in range(first, end, BLOCK_K):
        key_K = start + tl.arange(0, BLOCK_K)
        row_K = rows_of_two(old, old_s, new, new_s, key_K, mem_len)
        key_KE = load_at(row_K, key_K < n_keys, d_head, BLOCK_E)
        row_K = rows_of_two(old + old_2, old_s, new + new_2, new_s, key_K, mem_len)
        value_KE = load_at(row_K, key_K < n_keys, d_head, BLOCK_E)
        score_QK = scores(query_QE, key_KE, position_Q1, key_K, from_Q, until_Q, PRECISION)
        d_weight_QK = tl.dot(d_out_QE, tl.trans(value_KE), input_precision=PRECISION)
        if seed is not None:
            d_weight_QK *= dropout_scale(
                seed, dropout, row_Q[:, None], start, n_keys, BLOCK_Q, BLOCK_K
            )
        d_score_QK = tl.exp(score_QK - log_sum_Q[:, None]) * (d_weight_QK - delta_Q[:, None])
        d_score_QK = d_score_QK.to(key_KE.dtype)
        inside_QK = real_Q[:, None] & (key_K[None, :] < until_Q[:, None])
        tl.store(d_position_Q1 + key_K[None, :], d_score_QK, inside_QK)
        d_query_QE += tl.dot(d_score_QK, key_KE, input_precision=PRECISION)
    store_rows(d_query_BTHE + place, d_query_QE, query_Q, stride, tgt_len, d_head, BLOCK_E)


@triton.jit
def backward_by_key(
    query_BTHE, query_b, query_t, query_h,
    old_BM2HE, old_b, old_s, old_2, old_h, new_BT2HE, new_b, new_s, new_2, new_h,
    position_BHTS, position_b, position_h, position_t, visible_from_BT, visible_b, visible_t,
    seed, dropout, tgt_len, n_keys, d_head, log_sum_BHT, d_out_BTHE, delta_BHT,
    d_old_BM2HE, d_new_BT2HE,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_E: tl.constexpr, ALIGN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradients of keys and values for a block of keys, zero where no query sees one."""
    head, stream = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    n_head = tl.num_programs(1)
    row = stream * n_head + head
    wide = log_sum_BHT.dtype.element_ty
    first_key = tl.program_id(0) * BLOCK_K
    key_K = first_key + tl.arange(0, BLOCK_K)
    query_t = aligned(query_t, ALIGN)
    query_BTHE += aligned(stream * query_b + head * query_h, ALIGN)
    old, old_s, old_2 = one_head(old_BM2HE, old_b, old_s, old_2, old_h, stream, head, ALIGN)
    new, new_s, new_2 = one_head(new_BT2HE, new_b, new_s, new_2, new_h, stream, head, ALIGN)
    mem_len = n_keys - tgt_len
    d_head = aligned(d_head, ALIGN)
    position_TS = position_BHTS + stream * position_b + head * position_h
    d_out_BTHE += (stream * tgt_len * n_head + head) * d_head
    row_K = rows_of_two(old, old_s, new, new_s, key_K, mem_len)
    key_KE = load_at(row_K, key_K < n_keys, d_head, BLOCK_E)
    row_K = rows_of_two(old + old_2, old_s, new + new_2, new_s, key_K, mem_len)
    value_KE = load_at(row_K, key_K < n_keys, d_head, BLOCK_E)
    d_key_KE = tl.zeros([BLOCK_K, BLOCK_E], wide)
    d_value_KE = tl.zeros([BLOCK_K, BLOCK_E], wide)
    first = tl.maximum(first_key + tgt_len - n_keys, 0) // BLOCK_Q * BLOCK_Q
    end = last_seeing(
        visible_from_BT, stream * visible_b, visible_t, first, tgt_len,
        first_key + BLOCK_K, BLOCK_Q,
    )  # fmt: skip
    for start in range(first, end, BLOCK_Q):
        query_Q = start + tl.arange(0, BLOCK_Q)
        row_Q = row * tgt_len + query_Q
        from_Q = first_visible(visible_from_BT, stream * visible_b, visible_t, query_Q, tgt_len)
        query_QE = load_rows(query_BTHE, query_Q, query_t, tgt_len, d_head, BLOCK_E)
        d_out_QE = load_rows(d_out_BTHE, query_Q, n_head * d_head, tgt_len, d_head, BLOCK_E)
        position_Q1 = shifted(position_TS, query_Q, position_t, tgt_len)
        until_Q = query_Q + mem_len + 1
        log_sum_Q = tl.load(log_sum_BHT + row_Q, query_Q < tgt_len, other=0.0)
        delta_Q = tl.load(delta_BHT + row_Q, query_Q < tgt_len, other=0.0)
        score_QK = scores(query_QE, key_KE, position_Q1, key_K, from_Q, until_Q, PRECISION)
        weight_QK = tl.exp(score_QK - log_sum_Q[:, None])
        left_QK = weight_QK
        if seed is not None:
            kept_QK = dropout_scale(
                seed, dropout, row_Q[:, None], first_key, n_keys, BLOCK_Q, BLOCK_K
            )
            left_QK = weight_QK * kept_QK
        left_KQ = tl.trans(left_QK.to(d_out_QE.dtype))
        d_value_KE += tl.dot(left_KQ, d_out_QE, input_precision=PRECISION)
        d_weight_QK = tl.dot(d_out_QE, tl.trans(value_KE), input_precision=PRECISION)
        if seed is None:
            d_score_QK = weight_QK * (d_weight_QK - delta_Q[:, None])
        else:
            d_score_QK = left_QK * d_weight_QK - weight_QK * delta_Q[:, None]
        d_score_KQ = tl.trans(d_score_QK.to(query_QE.dtype))
        d_key_KE += tl.dot(d_score_KQ, query_QE, input_precision=PRECISION)
    stride = 2 * n_head * d_head
    d_old_BM2HE += stream * mem_len * stride + head * d_head
    d_new_BT2HE += stream * tgt_len * stride + head * d_head
    row_K = rows_of_two(d_old_BM2HE, stride, d_new_BT2HE, stride, key_K, mem_len)
    store_at(row_K, d_key_KE, key_K < n_keys, d_head, BLOCK_E)
    store_at(row_K + n_head * d_head, d_value_KE, key_K < n_keys, d_head, BLOCK_E)
