#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018); Dao, "FlashAttention-2" (2023): one
// program has a tile of queries and goes over the keys once, with a running maximum and sum. Exponentials are of base
// 2, the scale folded into them. Only blocks of keys that some query does not see in full are masked.
//
// Queries and keys end together: when causal, query i sees the keys up to i + t_kv - t. A query that sees none gives
// zeros, and its lse is -infinity. `heads` is a multiple of kv_heads; heads / kv_heads of them share keys and values.
template <class T> struct Attention {
  static constexpr auto name = "attention";
  static constexpr auto summary = "out = softmax(scale · q · k^T) · v, and lse = log Σ exp(scale · q · k^T) on request";
  static constexpr auto tests =
      "batch=1 heads=1 kv_heads=1 t=1 t_kv=1 d=16; batch=2 heads=3 kv_heads=3 t=17 t_kv=33 d=64; "
      "batch=1 heads=4 kv_heads=2 t=65 t_kv=65 d=40 causal=1; batch=1 heads=2 kv_heads=1 t=199 t_kv=199 d=64 causal=1 "
      "with_lse=1; batch=1 heads=1 kv_heads=1 t=3 t_kv=130 d=128 causal=1; batch=1 heads=1 kv_heads=1 t=40 t_kv=17 "
      "d=32 "
      "causal=1 with_lse=1; batch=2 heads=2 kv_heads=1 t=70 t_kv=150 d=17 with_lse=1 block_m=32 block_n=16";
  static constexpr auto benchmarks = "batch=4 heads=32 kv_heads=32 t=4096 t_kv=4096 d=128; "
                                     "batch=4 heads=32 kv_heads=32 t=4096 t_kv=4096 d=128 causal=1";
  static constexpr auto conditions = "heads % kv_heads == 0";

  View<const T, 4> q{"batch, heads, t, d"}, k{"batch, kv_heads, t_kv, d"}, v{"batch, kv_heads, t_kv, d"};
  View<T, 4> out{"batch, heads, t, d"};
  View<f32, 3> lse{"batch * with_lse, heads, t"};
  Param<f32> scale = 0.0f; // above 0; 0: 1 / sqrt(d)
  Meta<bool> causal = false;
  Meta<bool> with_lse = "lse.given";
  // Products of full f32 are computed outside the tensor cores, from registers that larger tiles would not leave; and
  // where there is no wgmma, keys and values pass through registers as well.
  Meta<int> block_m = sizeof(T) == 4 ? "max(16, min(next_pow2(t), 64))" : "max(16, min(next_pow2(t), 128))";
  Meta<int> block_n = sizeof(T) == 4 ? "max(16, min(next_pow2(t_kv), 64))"
                                     : "max(16, min(next_pow2(t_kv), min(16384 / max(128, next_pow2(d)), "
                                       "128 - 64 * (compute_capability > 0) * (compute_capability != 90))))";
  Meta<int> block_d = "max(16, next_pow2(d))";
  BITLOOM_PARAMS(q, k, v, out, lse, scale, causal, with_lse, block_m, block_n, block_d)

  // Heads first: programs that run together share keys and values where heads do, and are as long when causal.
  Grid grid() const { return {q.extent(1), ceil_div(q.extent(2), block_m), q.extent(0)}; }

  void operator()() const {
    auto head = program_id(0), batch = program_id(2);
    auto kvHead = head / (q.extent(1) / k.extent(1));
    // The last queries see the most keys: their programs come first, so that none of them is left over at the end.
    auto tile = causal ? num_programs(1) - 1 - program_id(1) : program_id(1);
    auto rows = block_at(tile, block_m), dims = span(0, block_d);
    auto keys = k.extent(2), ahead = keys - q.extent(2);

    constexpr float log2e = 1.44269504088896341f, ln2 = 0.69314718055994531f;
    auto factor = where(scale == 0.0f, rsqrt(cast<f32>(q.extent(3))), scale) * log2e;
    auto queries = q(batch, head, rows, dims);
    auto acc = zeros<f32>({block_m, block_d});
    auto total = zeros<f32>({block_m});
    auto top = full<f32>({block_m}, -1e30f); // finite, so that no infinities are subtracted where nothing is seen

    // Every query of the tile sees the keys before `full`, none those from `last` on.
    auto full = keys, last = keys;
    if (causal) {
      full = minimum(keys, maximum(rows.start + ahead + 1, 0));
      last = minimum(keys, maximum(rows.start + block_m + ahead, 0));
    }
    for (auto start : range(0, last, block_n)) {
      auto cols = span(start, block_n);
      auto scores = dot(queries, trans(k(batch, kvHead, cols, dims)), zeros<f32>({block_m, block_n}));
      when(start + block_n > full, [&] {
        auto seen = broadcast(expand(cols.indices() < keys, 0), {block_m, block_n});
        if (causal) // the last query sees the last key, and those beyond it are nobody's
          seen = expand(cols.indices(), 0) <= expand(rows.indices() + ahead, 1);
        scores = where(seen, scores, -infinity);
      });
      auto next = maximum(top, max(scores, 1));
      auto p = exp2(scores * factor - expand(next * factor, 1));
      auto shrink = exp2((top - next) * factor);
      total = total * shrink + sum(p, 1);
      acc = dot(cast<T>(p), v(batch, kvHead, cols, dims), acc * expand(shrink, 1));
      top = next;
    }

    out(batch, head, rows, dims) = cast<T>(acc * expand(where(total > 0.0f, 1.0f / total, 0.0f), 1));
    if (with_lse)
      lse(batch, head, rows) = where(total > 0.0f, (top * factor + log2(total)) * ln2, -infinity);
  }
};

BITLOOM_REGISTER(Attention<f32>, Attention<f16>, Attention<bf16>)

} // namespace bitloom::kernels
