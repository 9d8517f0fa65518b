#include "bitloom/dsl/Kernel.h"

#include <numbers>
#include <optional>

namespace bitloom::kernels {

// With x a row of logits (softcap · tanh(logits / softcap) under a softcap: "Gemma 2", 2024), y its target, V the
// columns, w the class weights (1 without), s = label_smoothing (Szegedy et al., "Rethinking the Inception
// Architecture", 2016), z = lse_square_scale (the z-loss of Chowdhery et al., "PaLM", 2022) and lse = log Σ exp(x), a
// row of
//   loss    = (1 − s) · w[y] · (lse − x[y]) + s / V · Σ w[j] · (lse − x[j]) + z · lse²
//   dlogits = scale · ∂loss / ∂logits
// as torch.nn.functional.cross_entropy has it under reduction="none", and the gradient times one number a row: whatever
// a reduction divides by comes in `scale`, from the device. Rows whose target is ignore_index give 0 and 0. A target
// that is neither that nor a column gives a NaN for its loss and no gradient, and 1 + its row in `error`, at the
// largest.
//
// dlogits may be logits. A row of up to 32768 columns (of f32 on a GPU: 16384) is one tile, read once; where a cluster
// of blocks holds it, of up to 131072. A longer one is read twice, a running maximum and sum in each lane first
// (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018); once, where its lse is known, and
// neither smoothing nor a prediction needs more of it.
template <class T> struct CrossEntropy {
  static constexpr auto name = "cross_entropy";
  static constexpr auto summary =
      "the loss of each row of logits, and on request its gradient times scale, lse, z-loss, "
      "predicted class and whether that is right";
  static constexpr auto tests =
      "rows=1 cols=1; rows=3 cols=17 with_gradient=1; rows=17 cols=199 with_gradient=1 scaled=1 with_lse=1 "
      "with_correct=1; rows=199 cols=33 with_gradient=1 weighted=1 label_smoothing=0.125 scaled=1 checked=1; rows=3 "
      "cols=4097 with_gradient=1 scaled=1 lse_square_scale=0.25 with_z_loss=1 softcap=2.5 with_predicted=1; rows=3 "
      "cols=40000 with_gradient=1 scaled=1 with_lse=1 with_correct=1 with_predicted=1 checked=1; rows=2 cols=40000 "
      "with_gradient=1 scaled=1 weighted=1 label_smoothing=0.25 lse_square_scale=0.125 with_z_loss=1 softcap=3.0; "
      "rows=2 cols=40000; rows=5 cols=192 with_gradient=1 label_smoothing=0.1; rows=17 cols=300 block=64 "
      "lanes=32 with_gradient=1 with_predicted=1 label_smoothing=0.5; rows=3 cols=40000 known=1 with_gradient=1 "
      "scaled=1 weighted=1 lse_square_scale=0.125 softcap=3.0 with_lse=1; rows=17 cols=199 known=1 checked=1";
  static constexpr auto benchmarks = "rows=4096 cols=32000 with_gradient=1 scaled=1; rows=8192 cols=128256 "
                                     "with_gradient=1 scaled=1; rows=8192 cols=262144 with_gradient=1 scaled=1";
  static constexpr auto inputs = "target=0..cols-1";

  View<const T, 2> logits{"rows, cols"};
  View<const i64, 1> target{"rows"};
  View<const f32, 1> weight{"cols * weighted"}, scale{"rows * scaled"};
  View<const f32, 1> known_lse{"rows * known"};
  View<T, 2> dlogits{"rows * with_gradient, cols"};
  View<f32, 1> loss{"rows"}, lse{"rows * with_lse"}, z_loss{"rows * with_z_loss"}; // z_loss: z · lse², in loss too
  View<i64, 1> predicted{"rows * with_predicted"};                                 // the first of the largest logits
  View<bool, 1> correct{"rows * with_correct"}; // predicted == target; not where the target is ignored
  View<i32, 1> error{"1 * checked"};            // read too: the caller sets it to 0
  Param<i64> ignore_index = -100;
  Param<f32> label_smoothing = 0.0f, lse_square_scale = 0.0f, softcap = 0.0f; // softcap, where given: above 0
  Meta<bool> weighted = "weight.given", scaled = "scale.given", known = "known_lse.given",
             with_gradient = "dlogits.given";
  Meta<bool> with_lse = "lse.given", with_z_loss = "z_loss.given", with_predicted = "predicted.given";
  Meta<bool> with_correct = "correct.given", checked = "error.given";
  Meta<bool> smoothed = "label_smoothing.given", capped = "softcap.given";
  // Blocks that hold a row together; one where the lse is known, and no element needs the others'. The second half of
  // what eight blocks have room for takes all of their registers.
  Meta<int> cluster = "max(1, (known == 0) * (compute_capability >= 90) * (cols <= 131072 - 65536 * max(smoothed, "
                      "capped)) * min(8, next_pow2(cols) / 8192))";
  // A whole row where that fits the registers of a GPU, else a fourth of what would: the lanes' sums take more.
  Meta<int> block =
      sizeof(T) == 4
          ? "min(round_up(cols, 128), (compute_capability > 0) * (8192 + 8192 * (cols <= 16384)) * (cluster == 1) + "
            "(cluster > 1) * 131072 + (compute_capability == 0) * (16384 + 16384 * (cols <= 32768)))"
          : "min(round_up(cols, 128), (compute_capability > 0) * (8192 + (8192 + 16384 * max(known, compute_capability "
            ">= 90)) * (cols <= 16384 + 16384 * max(known, compute_capability >= 90))) * (cluster == 1) + "
            "(cluster > 1) * 131072 + (compute_capability == 0) * (16384 + 16384 * (cols <= 32768)))";
  Meta<int> block_rows = "max(1, 1024 / next_pow2(block))";
  Meta<int> lanes =
      "min(block, 2048)"; // of the running maximum; a divisor of block where the row is more than one tile
  Meta<bool> resident = "cols <= block";
  Meta<bool> whole = "cols % block == 0"; // no tile reaches past the row
  Meta<int> warps = "8 * (cluster > 1) * (block > 8192 * cluster)";
  BITLOOM_PARAMS(logits, target, weight, scale, dlogits, loss, lse, z_loss, predicted, correct, error, ignore_index,
                 label_smoothing, lse_square_scale, softcap, known_lse, weighted, scaled, known, with_gradient,
                 with_lse, with_z_loss, with_predicted, with_correct, checked, smoothed, capped, cluster, block,
                 block_rows, lanes, resident, whole, warps)

  Grid grid() const { return {ceil_div(logits.extent(0), block_rows)}; }

  using Rows = Tile<f32, 1>;
  using Elements = Tile<f32, 2>;

  void operator()() const {
    // A larger share of a row in 8 warps, not 16: twice the elements a thread, and still two blocks a multiprocessor.
    hints({.warps = warps, .cluster = cluster});
    auto rows = block_at(program_id(0), block_rows);
    auto cols = logits.extent(1);
    auto classes = target(rows);
    auto inside = (classes >= 0) & (classes < cols);
    auto counts = (classes != ignore_index) & inside;

    auto cap = [&](const auto &x) { return capped ? softcap * tanh(x / softcap) : x; };
    auto load = [&](const Span &here) { // −infinity past the row
      auto x = cap(cast<f32>(logits(rows, here).or_else(-infinity)));
      return capped ? inRow(here, x, -infinity) : x;
    };
    // Before threads wait for each other: a row that is one tile, and what is read beside it.
    std::optional<Elements> all, powers;
    if (resident)
      all = load(span(0, block));
    auto own = cap(cast<f32>(logits.gather(rows.indices(), classes))); // before the gradient takes its place
    Rows scales = with_gradient && scaled ? Rows(scale(rows)) : full<f32>({block_rows}, 1.0f);
    auto classWeight = [&](const Span &here) { return expand(weight(here), 0); };

    // What a row's sums are, and, where it is one tile, its exponentials.
    Rows top = full<f32>({block_rows}, 0.0f), total = top, spread = top, weights = top;
    Tile<i64, 1> best = zeros<i64>({block_rows});
    auto here = span(0, block);
    if (known) {
      if (smoothed || with_predicted || with_correct)
        throw UserError("argument known_lse: expected no label_smoothing, predicted or correct beside it");
      top = known_lse(rows); // the sum of the exponentials less that is 1
      total = full<f32>({block_rows}, 1.0f);
    } else if (resident) {
      const Elements &x = *all;
      top = max(x, 1);
      powers = power(x, top);
      total = sum(*powers, 1);
      if (smoothed)
        spread = sum(inRow(here, weighted ? x * classWeight(here) : x), 1);
      if (smoothed && weighted)
        weights = sum(broadcast(classWeight(here), {block_rows, block}), 1);
      if (with_predicted || with_correct)
        best = min(where(x == expand(top, 1), indices(here), nowhere), 1);
    } else {
      // Of a tile, the elements whose columns are equal modulo `lanes` are one lane's.
      auto laned = [&](const auto &tile) { return reshape<3>(tile, {block_rows, block / lanes, lanes}); };
      constexpr float lowest = std::numeric_limits<float>::lowest(); // finite: no infinities are subtracted
      auto largest = full<f32>({block_rows, lanes}, lowest), sums = zeros<f32>({block_rows, lanes});
      auto spreads = zeros<f32>({block_rows, lanes}), weightSums = zeros<f32>({block_rows, lanes});
      auto places = full<i64>({block_rows, lanes}, nowhere);
      for (auto c : range(0, cols, block)) {
        auto part = span(c, block);
        auto x = load(part);
        auto next = maximum(largest, max(laned(x), 1));
        sums = sums * exp(largest - next) + sum(exp(laned(x) - expand(next, 1)), 1);
        if (smoothed)
          spreads = spreads + sum(laned(inRow(part, weighted ? x * classWeight(part) : x)), 1);
        if (smoothed && weighted)
          weightSums = weightSums + sum(laned(broadcast(classWeight(part), {block_rows, block})), 1);
        if (with_predicted || with_correct) {
          auto first = min(where(laned(x) == expand(next, 1), laned(indices(part)), nowhere), 1);
          places = where(next > largest, first, places);
        }
        largest = next;
      }
      top = max(largest, 1);
      total = sum(sums * exp(largest - expand(top, 1)), 1);
      spread = sum(spreads, 1);
      weights = sum(weightSums, 1);
      best = min(where(largest == expand(top, 1), places, nowhere), 1);
    }

    auto sumLog = top + log(total);
    auto factor = weighted ? weight.gather(classes) : full<f32>({block_rows}, 1.0f); // of the row's own class
    auto classesInAll = cast<f32>(cols);
    Rows ownLoss = factor * (sumLog - own), share = factor;
    if (smoothed) {
      auto even = label_smoothing / classesInAll;
      auto all = weighted ? weights : full<f32>({block_rows}, 0.0f) + classesInAll;
      ownLoss = (1.0f - label_smoothing) * ownLoss + even * (sumLog * all - spread);
      share = (1.0f - label_smoothing) * share + even * all;
    }
    auto zLoss = lse_square_scale * sumLog * sumLog;
    auto zero = zeros<f32>({block_rows});
    loss(rows) =
        where(counts, ownLoss + zLoss, where(classes == ignore_index, zero, std::numeric_limits<float>::quiet_NaN()));
    if (with_lse)
      lse(rows) = sumLog;
    if (with_z_loss)
      z_loss(rows) = where(counts, zLoss, 0.0f);
    if (with_predicted)
      predicted(rows) = best;
    if (with_correct)
      correct(rows) = (best == classes) & counts;
    if (checked) { // past the rows there are zeros, which are columns
      auto wrong =
          (classes != ignore_index) & ((classes < 0) | (classes >= cols)) & (rows.indices() < logits.extent(0));
      error.atomic(trace::Atomic::Max, cast<i32>(rows.indices() + 1),
                   where(wrong, zeros<i64>({block_rows}), int64_t(-1)));
    }
    if (!with_gradient)
      return;

    // scale · (exp(x − lse) · (share + 2 · z · lse) − (1 − s) · w[y] · [j = y] − s / V · w[j]) · (1 − (x / softcap)²)
    auto multiplier = where(counts, scales, 0.0f);
    // 1 / total in registers, where a division is a call; a step of Newton's method makes up for its last bits.
    auto near = approx_reciprocal(total), inverse = fma(fma(-near, total, 1.0f), near, near);
    auto slope = expand(multiplier * (share + 2.0f * lse_square_scale * sumLog) * inverse, 1);
    auto least = expand(multiplier * (smoothed ? (1.0f - label_smoothing) * factor : factor), 1);
    auto write = [&](const Span &part, const Elements &x) {
      auto gradient = (powers ? *powers : power(x, top)) * slope;
      // Of 32 bits: a class that these make a column of is none, and has nothing taken away.
      auto place = broadcast(expand(cast<i32>(classes - part.start), 1), {block_rows, block});
      auto isClass = broadcast(expand(arange<i32>(block), 0), {block_rows, block}) == place;
      gradient = gradient - where(isClass, broadcast(least, {block_rows, block}), 0.0f);
      if (smoothed) {
        auto even = expand(multiplier * (label_smoothing / classesInAll), 1);
        gradient = gradient - (weighted ? even * classWeight(part) : broadcast(even, {block_rows, block}));
      }
      if (capped) {
        auto ratio = x * (1.0f / softcap);
        gradient = gradient * (1.0f - ratio * ratio);
      }
      dlogits(rows, part) = cast<T>(gradient);
    };
    if (resident) {
      write(here, *all);
      return;
    }
    for (auto c : range(0, cols, block)) {
      auto part = span(c, block);
      write(part, load(part));
    }
  }

private:
  static constexpr int64_t nowhere = std::numeric_limits<int64_t>::max();

  // e^(x − top) as 2^(x · log2(e) − top · log2(e)), two instructions of a GPU.
  Elements power(const Elements &x, const Rows &top) const {
    constexpr float log2e = std::numbers::log2e_v<float>;
    return exp2(fma(x, log2e, broadcast(expand(top * -log2e, 1), {block_rows, block})));
  }

  Tile<i64, 2> indices(const Span &here) const { return broadcast(expand(here.indices(), 0), {block_rows, block}); }
  Elements inRow(const Span &here, const Elements &x, float past = 0.0f) const {
    return whole ? x : where(indices(here) < logits.extent(1), x, past);
  }
};

BITLOOM_REGISTER(CrossEntropy<f32>, CrossEntropy<f16>, CrossEntropy<bf16>)

} // namespace bitloom::kernels
