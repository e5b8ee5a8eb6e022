// HvdtrainAdam: Adam's update of many variables in one pass over memory, with the bits of Keras's own update.
//
// Keras writes the update as some ten operations on whole tensors, each of which goes through memory again. Here every
// element goes through the same roundings in the same order, while it is in a register. What this file is compiled
// with must not fuse a product and a sum (-ffp-contract=off), and may take a square root without setting errno.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace {

using tensorflow::DataType;
using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;
using tensorflow::core::RefCountPtr;

constexpr int64_t kCyclesPerElement = 8;  // for the thread pool, which shares out what is worth it

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

struct Rates {
  float alpha, one_minus_beta_1, one_minus_beta_2, epsilon;
};

FOR_EACH_CPU void Step(float* __restrict variable, float* __restrict momentum, float* __restrict velocity,
                       const float* __restrict gradient, int64_t count, const Rates& rates) {
  const float alpha = rates.alpha, epsilon = rates.epsilon;
  const float rate_1 = rates.one_minus_beta_1, rate_2 = rates.one_minus_beta_2;
  for (int64_t k = 0; k < count; ++k) {
    momentum[k] = momentum[k] + (gradient[k] - momentum[k]) * rate_1;
    velocity[k] = velocity[k] + (gradient[k] * gradient[k] - velocity[k]) * rate_2;
    variable[k] = variable[k] - (momentum[k] * alpha) / (std::sqrt(velocity[k]) + epsilon);
  }
}

class AdamOp : public OpKernel {
 public:
  explicit AdamOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("one_minus_beta_1", &rates_.one_minus_beta_1));
    OP_REQUIRES_OK(context, context->GetAttr("one_minus_beta_2", &rates_.one_minus_beta_2));
    OP_REQUIRES_OK(context, context->GetAttr("epsilon", &rates_.epsilon));
  }

  void Compute(OpKernelContext* context) override {
    OpInputList gradients;
    OP_REQUIRES_OK(context, context->input_list("gradients", &gradients));
    const int count = gradients.size();
    Rates rates = rates_;
    rates.alpha = context->input(context->num_inputs() - 1).scalar<float>()();
    for (int i = 0; i < count; ++i) {
      RefCountPtr<Var> variables[3];  // the inputs are all variables, then all momentums, then all velocities
      for (int kind = 0; kind < 3; ++kind) {
        OP_REQUIRES_OK(context, LookupResource(context, HandleFromInput(context, kind * count + i), &variables[kind]));
      }
      OP_REQUIRES_OK(context, Update(context, variables, gradients[i], rates));
    }
  }

 private:
  absl::Status Update(OpKernelContext* context, RefCountPtr<Var>* variables, const Tensor& gradient,
                      const Rates& rates) const {
    std::vector<tensorflow::mutex*> mutexes{variables[0]->mu(), variables[1]->mu(), variables[2]->mu()};
    std::sort(mutexes.begin(), mutexes.end());  // TensorFlow's own order
    tensorflow::mutex_lock first(*mutexes[0]), second(*mutexes[1]), third(*mutexes[2]);
    float* values[3];
    for (int kind = 0; kind < 3; ++kind) {
      Tensor* tensor = variables[kind]->tensor();
      if (tensor->dtype() != DataType::DT_FLOAT || tensor->shape() != gradient.shape()) {
        return absl::InvalidArgumentError("variable, slots and gradient are float and of one shape");
      }
      TF_RETURN_IF_ERROR(Own(context, tensor));
      values[kind] = tensor->flat<float>().data();
    }
    const float* slope = gradient.flat<float>().data();
    auto step = [&](int64_t begin, int64_t end) {
      Step(values[0] + begin, values[1] + begin, values[2] + begin, slope + begin, end - begin, rates);
    };
    const auto* threads = context->device()->tensorflow_cpu_worker_threads();
    if (threads->num_threads > 1) {
      threads->workers->ParallelFor(gradient.NumElements(), kCyclesPerElement, step);
    } else {
      step(0, gradient.NumElements());
    }
    return absl::OkStatus();
  }

  // Leave to others, who have read the variable and still use what they read, the memory they look at.
  static absl::Status Own(OpKernelContext* context, Tensor* tensor) {
    if (tensor->RefCountIsOne()) return absl::OkStatus();
    Tensor copy;
    TF_RETURN_IF_ERROR(context->allocate_temp(tensor->dtype(), tensor->shape(), &copy));
    std::copy_n(tensor->flat<float>().data(), tensor->NumElements(), copy.flat<float>().data());
    *tensor = copy;
    return absl::OkStatus();
  }

  Rates rates_ = {};
};

REGISTER_OP("HvdtrainAdam")
    .Input("variables: N * resource")
    .Input("momentums: N * resource")
    .Input("velocities: N * resource")
    .Input("gradients: N * float")
    .Input("alpha: float")
    .Attr("N: int >= 1")
    .Attr("one_minus_beta_1: float")
    .Attr("one_minus_beta_2: float")
    .Attr("epsilon: float")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::NoOutputs);

REGISTER_KERNEL_BUILDER(Name("HvdtrainAdam").Device(tensorflow::DEVICE_CPU), AdamOp);

}  // namespace
