// RegisterCustomOps, which ONNX Runtime calls when a session loads the library.
#include <exception>
#include <vector>

#include "operators.h"

namespace dit {

namespace {

constexpr const char* kDomain = "dit_deploy";

struct Input {
  int type;
  int characteristic = kRequired;
};

// An operator: what ONNX Runtime asks of it. Kernel is made by Make(api, info).
template <class Kernel, class Make>
struct Operator : CustomOp {
  const char* name;
  std::vector<Input> inputs;
  int output;
  Make make;

  Operator(const char* name, std::vector<Input> inputs, int output, Make make)
      : CustomOp{}, name(name), inputs(std::move(inputs)), output(output), make(make) {
    version = kApiVersion;
    get_name = [](const CustomOp* op) { return self(op).name; };
    get_execution_provider = [](const CustomOp*) -> const char* { return nullptr; };
    get_input_count = [](const CustomOp* op) { return self(op).inputs.size(); };
    get_input_type = [](const CustomOp* op, std::size_t i) { return self(op).inputs[i].type; };
    get_input_characteristic = [](const CustomOp* op, std::size_t i) { return self(op).inputs[i].characteristic; };
    get_input_memory_type = [](const CustomOp*, std::size_t) { return 0; };
    get_output_count = [](const CustomOp*) -> std::size_t { return 1; };
    get_output_type = [](const CustomOp* op, std::size_t) { return self(op).output; };
    get_output_characteristic = [](const CustomOp*, std::size_t) { return kRequired; };
    create_kernel_v2 = [](const CustomOp* op, const void* const* table, const void* info, void** kernel) -> void* {
      const Api api(table);
      return guarded(api, self(op).name, [&] { *kernel = new Held{api, self(op).name, self(op).make(api, info)}; });
    };
    compute_v2 = [](void* kernel, void* context) -> void* {
      const Held& held = *static_cast<Held*>(kernel);
      return guarded(held.api, held.name, [&] { held.kernel->compute(context); });
    };
    destroy = [](void* kernel) { delete static_cast<Held*>(kernel); };
  }

 private:
  struct Held {
    Api api;
    const char* name;
    std::unique_ptr<Kernel> kernel;
  };

  static const Operator& self(const CustomOp* op) { return *static_cast<const Operator*>(op); }

  template <class Body>
  static void* guarded(const Api& api, const char* name, const Body& body) {
    try {
      body();
      return nullptr;
    } catch (const std::exception& error) {
      return api.status(std::string(kDomain) + "." + name + ": " + error.what());
    }
  }
};

template <class Kernel, class Make>
const CustomOp* make_operator(const char* name, std::vector<Input> inputs, int output, Make make) {
  static const Operator<Kernel, Make> instance(name, std::move(inputs), output, make);  // one for each Make
  return &instance;
}

std::vector<const CustomOp*> operators() {
  const std::vector<Input> linear = {{kUint8}, {kInt8}, {kFloat}, {kFloat}};
  const auto quantized = [&](auto output, auto gated) {
    return [output, gated](const Api& api, const void* info) {
      return std::make_unique<QuantizedLinear>(api, info, static_cast<Output>(output()), gated());
    };
  };
  using std::integral_constant;
  using Float = integral_constant<int, static_cast<int>(Output::kFloat)>;
  using Bfloat16 = integral_constant<int, static_cast<int>(Output::kBfloat16)>;
  using Uint8 = integral_constant<int, static_cast<int>(Output::kUint8)>;
  std::vector<Input> gated = linear;
  gated.insert(gated.end(), {{kFloat}, {kFloat}});
  const std::vector<Input> attention = {{kBfloat16}, {kBfloat16}, {kBfloat16}};
  return {
      make_operator<QuantizedLinear>("QuantizedLinear", linear, kFloat, quantized(Float{}, std::false_type{})),
      make_operator<QuantizedLinear>("QuantizedLinearBfloat16", linear, kBfloat16,
                                     quantized(Bfloat16{}, std::false_type{})),
      make_operator<QuantizedLinear>("QuantizedLinearQuantize", linear, kUint8, quantized(Uint8{}, std::false_type{})),
      make_operator<QuantizedLinear>("QuantizedLinearGated", gated, kFloat, quantized(Float{}, std::true_type{})),
      make_operator<WeightOnlyLinear>(
          "WeightOnlyLinear", {{kFloat}, {kInt8}, {kFloat}, {kFloat}}, kFloat,
          [](const Api& api, const void* info) { return std::make_unique<WeightOnlyLinear>(api, info); }),
      make_operator<LayerNormQuantize>(
          "LayerNormQuantize",
          {{kFloat}, {kFloat, kOptional}, {kFloat, kOptional}, {kFloat, kOptional}, {kFloat, kOptional}}, kUint8,
          [](const Api& api, const void* info) { return std::make_unique<LayerNormQuantize>(api, info); }),
      make_operator<FlashAttention>(
          "FlashAttention", attention, kFloat,
          [](const Api& api, const void* info) { return std::make_unique<FlashAttention>(api, info, false); }),
      make_operator<FlashAttention>(
          "FlashAttentionQuantize", attention, kUint8,
          [](const Api& api, const void* info) { return std::make_unique<FlashAttention>(api, info, true); }),
  };
}

}  // namespace

// Returns a status of ONNX Runtime, null where all went well.
void* register_operators(void* options, const ApiBase* base) {
  const void* const* table = base->get_api(kApiVersion);
  if (table == nullptr) {
    const void* const* first = base->get_api(1);
    return first == nullptr ? nullptr : Api(first).status("dit_deploy's operators need ONNX Runtime 1.17 or newer");
  }
  const Api api(table);
  try {
    kernels();                         // says now what an environment variable asks for in vain
    static void* const domain = [&] {  // for as long as the library is loaded: sessions read it
      void* made = nullptr;
      api.check(api.call<void*, const char*, void**>(kCreateCustomOpDomain, kDomain, &made));
      for (const CustomOp* op : operators())
        api.check(api.call<void*, void*, const CustomOp*>(kCustomOpDomainAdd, made, op));
      return made;
    }();
    api.check(api.call<void*, void*, void*>(kAddCustomOpDomain, options, domain));
    return nullptr;
  } catch (const std::exception& error) {
    return api.status(error.what());
  }
}

}  // namespace dit

#if !defined(DIT_CPU_OPS_BUILT_IN)  // the C++ runtime calls it by its own name
extern "C" __attribute__((visibility("default"))) void* RegisterCustomOps(void* options, const dit::ApiBase* base) {
  return dit::register_operators(options, base);
}
#endif
