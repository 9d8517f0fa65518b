#include "bitloom/kernels/divergences/Divergence.h"

namespace bitloom::kernels {

// The generalised Jensen-Shannon divergence (Lin, "Divergence Measures Based on the Shannon Entropy", 1991) with
// m = beta · p + (1 − beta) · q: beta · KL(p, m) + (1 − beta) · KL(q, m). What distillation calls beta = 0 and 1, KL(p,
// q) and KL(q, p) (Agarwal et al., "On-Policy Distillation of Language Models", 2024), are forms of their own.
template <class T> struct Jsd {
  static constexpr auto name = "jsd";
  static constexpr auto summary =
      "the Jensen-Shannon divergence of each row, q the input and p the target, or KL(p, q) "
      "or KL(q, p); dinput = scale * its gradient";
  static constexpr auto tests =
      "rows=1 cols=1; rows=3 cols=17 with_gradient=1; rows=17 cols=199 with_gradient=1 scaled=1 beta=0.1; rows=3 "
      "cols=4097 "
      "with_gradient=1 scaled=1 form=1; rows=3 cols=4097 logits=1 with_gradient=1 temperature=2.5; rows=17 cols=33 "
      "logits=1 with_gradient=1 scaled=1 form=2; rows=2 cols=20000 form=2 with_gradient=1; rows=5 cols=192 logits=1 "
      "form=1 with_gradient=1; rows=3 cols=199 beta=0.75";
  static constexpr auto benchmarks = "rows=2048 cols=128256 with_gradient=1 scaled=1";

  View<const T, 2> input{"rows, cols"}, target{"rows, cols"}; // of log-probabilities, or of logits
  View<const f32, 1> scale{"rows * scaled"};
  View<const f32, 1> input_lse{"rows * known"}, target_lse{"rows * known"}; // log Σ exp(logits / temperature)
  View<f32, 1> loss{"rows"};
  View<T, 2> dinput{"rows * with_gradient, cols"};
  Param<f32> beta = 0.5f;        // between 0 and 1
  Param<f32> temperature = 1.0f; // of logits
  Meta<bool> known = "input_lse.given";
  Meta<int> form = Meta<int>::oneOf("between, forward_kl, reverse_kl");
  Meta<bool> logits = false;
  Meta<bool> scaled = "scale.given", with_gradient = "dinput.given";
  Meta<int> block = divergenceBlock;
  BITLOOM_PARAMS(input, target, scale, loss, dinput, beta, temperature, input_lse, target_lse, known, form, logits,
                 scaled, with_gradient, block)

  Grid grid() const { return {input.extent(0)}; }

  void operator()() const {
    auto terms = [&](const Elements &logQ, const Elements &logP, const Elements &q, const Elements &p) {
      if (form == 1)
        return std::pair(product(p * ln2, logP - logQ), -p);
      if (form == 2) {
        auto own = product(q * ln2, logQ - logP);
        return std::pair(own, own + q);
      }
      constexpr float least = -1e4f; // finite: so that 0 times its logarithm is 0
      auto logM = logOf(beta * p + (1.0f - beta) * q);
      auto ofQ = (1.0f - beta) * ln2 * q * (maximum(logQ, least) - logM);
      return std::pair(beta * ln2 * p * (maximum(logP, least) - logM) + ofQ, ofQ);
    };
    int space = logits ? Logits : LogProbs;
    diverge(input, target, scale, dinput, loss, temperature, space, space, scaled, with_gradient, block, terms,
            known ? &input_lse : nullptr, known ? &target_lse : nullptr);
  }
};

BITLOOM_REGISTER(Jsd<f32>, Jsd<f16>, Jsd<bf16>)

} // namespace bitloom::kernels
