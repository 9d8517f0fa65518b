#include "Body.h"

namespace bitloom::test {

std::vector<float> interpreted(std::function<void(const Body &)> body, std::vector<float> x) {
  Body::run = std::move(body);
  std::vector<float> out(x.size());
  Call call(bodyRow());
  call.set("x", TensorRef(x.data(), DType::f32, {int64_t(x.size())}));
  call.set("out", TensorRef(out.data(), DType::f32, {int64_t(out.size())}));
  call.set("block", int64_t(x.size())); // one program
  call.resolve();
  call.interpret();
  return out;
}

} // namespace bitloom::test
