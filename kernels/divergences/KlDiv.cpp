#include "bitloom/kernels/divergences/Divergence.h"

namespace bitloom::kernels {

// Kullback and Leibler, "On Information and Sufficiency" (1951). As torch.nn.functional.kl_div has it: the input holds
// log-probabilities, the target probabilities, or log-probabilities with log_target; or both hold logits.
template <class T> struct KlDiv {
  static constexpr auto name = "kl_div";
  static constexpr auto summary =
      "loss = sum(p * (log p - log q)) of each row, q the input and p the target; dinput = scale * its gradient";
  static constexpr auto tests =
      "rows=1 cols=1; rows=3 cols=17 with_gradient=1; rows=17 cols=199 with_gradient=1 scaled=1 log_target=1; rows=3 "
      "cols=4097 with_gradient=1 scaled=1; rows=3 cols=4097 logits=1 with_gradient=1 temperature=2.5; rows=17 cols=33 "
      "logits=1 with_gradient=1 scaled=1; rows=2 cols=20000 log_target=1 with_gradient=1; rows=5 cols=192 logits=1";
  static constexpr auto benchmarks = "rows=2048 cols=128256 with_gradient=1 scaled=1";
  static constexpr auto inputs = "target=0..1";

  View<const T, 2> input{"rows, cols"}, target{"rows, cols"};
  View<const f32, 1> scale{"rows * scaled"};
  View<f32, 1> loss{"rows"};
  View<T, 2> dinput{"rows * with_gradient, cols"};
  Param<f32> temperature = 1.0f; // of logits
  Meta<bool> log_target = false, logits = false;
  Meta<bool> scaled = "scale.given", with_gradient = "dinput.given";
  Meta<int> block = divergenceBlock;
  BITLOOM_PARAMS(input, target, scale, loss, dinput, temperature, log_target, logits, scaled, with_gradient, block)

  Grid grid() const { return {input.extent(0)}; }

  void operator()() const {
    auto terms = [](const Elements &logQ, const Elements &logP, const Elements &, const Elements &p) {
      return std::pair(product(p * ln2, logP - logQ), -p);
    };
    diverge(input, target, scale, dinput, loss, temperature, logits ? Logits : LogProbs,
            logits       ? Logits
            : log_target ? LogProbs
                         : Probs,
            scaled, with_gradient, block, terms);
  }
};

BITLOOM_REGISTER(KlDiv<f32>, KlDiv<f16>, KlDiv<bf16>)

} // namespace bitloom::kernels
