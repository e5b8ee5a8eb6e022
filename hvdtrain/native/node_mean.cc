// HvdtrainNodeMean: the mean of tensors over the ranks of one machine, through shared memory, inside a training step.
//
// All ranks map one file in /dev/shm. Two ranks hand their tensors over, block by block:
//
//     who comes first copies its tensors into the file;  who comes second adds its own to them there, and keeps the
//     result;  who came first copies the result out.
//
// The second one is the one that is waited for, and it touches nothing twice. More ranks share the work:
//
//     write your tensors into your part;  meet;  add up your share of the elements, in the order of the ranks, into a
//     part for the result;  meet;  copy the whole result out.
//
// All ranks get the same bits in every run: the order of the additions never changes, and a sum of two has none. Who
// comes early watches for a while, then sleeps (futex(2)) and leaves its core to those that still compute.
//
// Who adds also adds up the means it makes. Only where such a sum is infinite or not a number is a tensor read again:
// which means are not finite, and which of this rank's own tensors were not.

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::shape_inference::InferenceContext;

constexpr int kMaxRanks = 1024;
constexpr int64_t kBlock = 16384;       // elements between two words on how far a rank is; they stay in a core's cache
constexpr int64_t kSumBlock = 4096;     // elements summed at a time, so that sums stay in the nearest cache
constexpr size_t kAlignment = 64;       // bytes of a cache line
constexpr int kLooksPerClock = 32;      // at the others, between two looks at the clock
constexpr int kLanes = 16;              // partial sums side by side, so that compilers add several at once

// What the ranks share besides their data; a new file is all zeros, which is how it begins.
struct Header {
  alignas(kAlignment) std::atomic<uint64_t> arrivals;  // at all meetings so far
  alignas(kAlignment) std::atomic<uint32_t> news;      // how often something was announced; early ranks sleep on it
  alignas(kAlignment) std::atomic<uint32_t> sleepers;
  alignas(kAlignment) std::atomic<uint32_t> gone;      // 1 + a rank that has left for good
  // Of two ranks, in elements over all collectives: copied in by the first one, added to by the second one, copied out
  // by the first one again, and where the last block ends whose means must be looked at.
  alignas(kAlignment) std::atomic<uint64_t> given;
  alignas(kAlignment) std::atomic<uint64_t> added;
  alignas(kAlignment) std::atomic<uint64_t> taken;
  std::atomic<uint64_t> suspect;
};

// What one rank says of itself. A line of its own: who writes it does not disturb who reads another's.
struct alignas(kAlignment) Word {
  std::atomic<uint64_t> attended;  // meetings
  std::atomic<uint32_t> suspects;  // whether the sum of its means was not finite
};
static_assert(std::atomic<uint64_t>::is_always_lock_free, "processes share these counters");

int64_t Microseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1000000} + now.tv_nsec / 1000;
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void Futex(std::atomic<uint32_t>* word, int operation, uint32_t value, const timespec* patience) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), operation, value, patience, nullptr, 0);
}

// Who shares, and how this rank waits for the others.
struct Ranks {
  int rank = 0, size = 1;
  int spin_us = 0;      // look this long before sleeping
  int patience_s = 60;  // sleep this long before saying for whom
};

// The memory that the ranks share for tensors of one total size.
class Segment {
 public:
  Segment(const std::string& path, const Ranks& ranks, size_t bytes)
      : path_(path), ranks_(ranks), stride_((bytes + kAlignment - 1) / kAlignment * kAlignment) {}

  absl::Status Open() {
    const size_t words = sizeof(Word) * ranks_.size;
    const size_t total = sizeof(Header) + words + stride_ * (ranks_.size == 2 ? 1 : ranks_.size + 1);
    const int file = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) return absl::InternalError(path_ + ": " + strerror(errno));
    // Reserve the memory now: a full /dev/shm would otherwise kill the process at some later write.
    const int problem = posix_fallocate(file, 0, total);
    void* memory = problem ? MAP_FAILED : mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    const int error = problem ? problem : errno;
    close(file);
    if (memory == MAP_FAILED) {
      return absl::ResourceExhaustedError(path_ + ": " + std::to_string(total) + " bytes of shared memory: " +
                                          strerror(error) + "; set horovod.reduction: horovod");
    }
    header_ = static_cast<Header*>(memory);
    words_ = reinterpret_cast<Word*>(header_ + 1);
    parts_ = reinterpret_cast<char*>(words_) + words;
    const absl::Status met = Meet();
    if (ranks_.rank == 0) unlink(path_.c_str());  // everybody has it; nothing is left behind, however the ranks end
    return met;
  }

  template <typename T>
  T* Part(int rank) const { return reinterpret_cast<T*>(parts_ + stride_ * rank); }

  template <typename T>
  T* Result() const { return Part<T>(ranks_.size == 2 ? 0 : ranks_.size); }

  // Begin a collective of two ranks; return whether this one came first.
  bool ComeFirst() { return header_->arrivals.fetch_add(1) % 2 == 0; }

  // The next collective begins where this one ends.
  void Advance(int64_t total) { base_ += total; }

  // Say how far this rank is with one of the three steps.
  void Say(std::atomic<uint64_t> Header::*step, int64_t begin, int64_t end, int64_t total) {
    if (begin / kBlock == end / kBlock && end < total) return;  // of many small tensors it is said together
    (header_->*step).store(base_ + end);
    // Who sleeps wakes up while this rank is still at it, unless it wants this rank's core.
    if (end == total || (begin < kBlock && ranks_.spin_us > 0)) Announce();
  }

  // Return when the other rank is so far.
  absl::Status WaitFor(std::atomic<uint64_t> Header::*step, int64_t count) {
    const uint64_t wanted = base_ + count;
    if ((header_->*step).load() >= wanted) return absl::OkStatus();
    return WaitUntil([&] { return (header_->*step).load() >= wanted; }, [&](int rank) { return rank == ranks_.rank; });
  }

  // Say, before the word that a block is added, that its means must be looked at; and whether one's must.
  void SuspectBlock(int64_t end) { header_->suspect.store(base_ + end); }
  bool IsSuspectBlock(int64_t begin) const { return header_->suspect.load() > base_ + begin; }

  // Say, between the two meetings of a collective, whether this rank's means must be looked at.
  void Suspect(bool is_suspect) { words_[ranks_.rank].suspects.store(is_suspect); }

  // Tell, after the second meeting, whether any rank said so: the same answer on all of them.
  bool IsSuspect() const {
    for (int rank = 0; rank < ranks_.size; ++rank) {
      if (words_[rank].suspects.load()) return true;
    }
    return false;
  }

  // Return when all ranks have come here.
  absl::Status Meet() {
    const uint64_t number = words_[ranks_.rank].attended.fetch_add(1) + 1, all = number * ranks_.size;
    if (header_->arrivals.fetch_add(1) + 1 == all) {
      Announce();
      return absl::OkStatus();
    }
    return WaitUntil([&] { return header_->arrivals.load() >= all; },
                     [&](int rank) { return words_[rank].attended.load() >= number; });
  }

  // Tell those who wait, now or later, that this rank does not come any more.
  void Leave() {
    header_->gone.store(ranks_.rank + 1);
    Announce();
  }

  std::mutex mutex;  // one collective at a time

 private:
  void Announce() {
    header_->news.fetch_add(1);
    if (header_->sleepers.load() != 0) Futex(&header_->news, FUTEX_WAKE, INT32_MAX, nullptr);
  }

  // Return when `is_over` says so; `has_come` tells it of one rank.
  template <typename IsOver, typename HasCome>
  absl::Status WaitUntil(const IsOver& is_over, const HasCome& has_come) {
    const int64_t began = Microseconds();
    do {
      for (int look = 0; look < kLooksPerClock; ++look) {
        if (is_over()) return absl::OkStatus();
        Pause();
      }
    } while (Microseconds() < began + ranks_.spin_us);
    int64_t told_s = 0;
    header_->sleepers.fetch_add(1);
    while (true) {
      const uint32_t news = header_->news.load();  // before the look: what is announced after it ends the sleep
      if (is_over() || header_->gone.load() != 0) break;
      const timespec second{1, 0};  // and back, to say for whom this rank waits
      Futex(&header_->news, FUTEX_WAIT, news, &second);
      const int64_t waited_s = (Microseconds() - began) / 1000000;
      if (waited_s - told_s >= ranks_.patience_s) {
        told_s = waited_s;
        fprintf(stderr, "hvdtrain: rank %d has waited %lld s for the gradients of rank%s\n", ranks_.rank,
                static_cast<long long>(waited_s), Missing(has_come).c_str());
      }
    }
    header_->sleepers.fetch_sub(1);
    if (is_over()) return absl::OkStatus();
    return absl::AbortedError("rank " + std::to_string(header_->gone.load() - 1) +
                              " has left, and the others wait for its gradients in vain");
  }

  // " 1", or "s 1, 3": who has not come.
  template <typename HasCome>
  std::string Missing(const HasCome& has_come) const {
    std::string names;
    int count = 0;
    for (int rank = 0; rank < ranks_.size; ++rank) {
      if (has_come(rank)) continue;
      names += (count++ ? ", " : " ") + std::to_string(rank);
    }
    return (count == 1 ? "" : "s") + names;
  }

  const std::string path_;
  const Ranks ranks_;
  const size_t stride_;
  uint64_t base_ = 0;  // elements in earlier collectives
  Header* header_ = nullptr;
  Word* words_ = nullptr;
  char* parts_ = nullptr;
};

// The segments of this process. They live as long as it does, so a function that is traced again finds its own.
std::mutex segments_mutex;
std::map<std::string, std::unique_ptr<Segment>>& Segments() {
  static auto* segments = new std::map<std::string, std::unique_ptr<Segment>>;
  return *segments;
}

// Small types are added in float.
template <typename T> struct Sum { using Type = float; };
template <> struct Sum<double> { using Type = double; };

template <typename T>
bool IsFinite(const T* values, int64_t count) {
  using S = typename Sum<T>::Type;
  for (int64_t k = 0; k < count; ++k) {
    if (!std::isfinite(static_cast<S>(values[k]))) return false;
  }
  return true;
}

template <typename T>
class NodeMeanOp : public OpKernel {
 public:
  explicit NodeMeanOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("segment", &path_));
    OP_REQUIRES_OK(context, context->GetAttr("rank", &ranks_.rank));
    OP_REQUIRES_OK(context, context->GetAttr("size", &ranks_.size));
    OP_REQUIRES_OK(context, context->GetAttr("spin_us", &ranks_.spin_us));
    OP_REQUIRES_OK(context, context->GetAttr("patience_s", &ranks_.patience_s));
    OP_REQUIRES(context, 0 <= ranks_.rank && ranks_.rank < ranks_.size && ranks_.size <= kMaxRanks,
                absl::InvalidArgumentError("rank and size do not fit"));
  }

  void Compute(OpKernelContext* context) override {
    OpInputList tensors;
    OP_REQUIRES_OK(context, context->input_list("tensors", &tensors));
    int64_t total = 0;
    for (const Tensor& tensor : tensors) total += tensor.NumElements();
    Segment* segment = nullptr;
    OP_REQUIRES_OK(context, Find(total, &segment));
    std::lock_guard<std::mutex> lock(segment->mutex);
    Tensor* nonfinite = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(tensors.size(), {2, tensors.size()}, &nonfinite));
    nonfinite->matrix<bool>().setConstant(false);
    OP_REQUIRES_OK(context, ranks_.size == 2 ? HandOver(context, tensors, total, segment, nonfinite)
                                             : ShareWork(context, tensors, total, segment, nonfinite));
  }

 private:
  absl::Status Find(int64_t total, Segment** found) {
    std::lock_guard<std::mutex> lock(segments_mutex);
    auto& place = Segments()[path_];
    if (!place) {
      auto segment = std::make_unique<Segment>(path_, ranks_, total * sizeof(T));
      TF_RETURN_IF_ERROR(segment->Open());
      place = std::move(segment);
    }
    *found = place.get();
    return absl::OkStatus();
  }

  absl::Status Mean(OpKernelContext* context, const OpInputList& tensors, int i, T** mean) const {
    Tensor* output = nullptr;
    TF_RETURN_IF_ERROR(context->forward_input_or_allocate_output({i}, i, tensors[i].shape(), &output));
    *mean = static_cast<T*>(output->data());
    return absl::OkStatus();
  }

  absl::Status ShareWork(OpKernelContext* context, const OpInputList& tensors, int64_t total, Segment* segment,
                         Tensor* nonfinite) const {
    T* mine = segment->Part<T>(ranks_.rank);
    for (const Tensor& tensor : tensors) {
      memcpy(mine, tensor.data(), tensor.NumElements() * sizeof(T));
      mine += tensor.NumElements();
    }
    TF_RETURN_IF_ERROR(segment->Meet());
    const int64_t begin = total * ranks_.rank / ranks_.size, end = total * (ranks_.rank + 1) / ranks_.size;
    segment->Suspect(AddUp(*segment, begin, end, segment->Result<T>() + begin));
    TF_RETURN_IF_ERROR(segment->Meet());
    const T* result = segment->Result<T>();
    for (int i = 0; i < tensors.size(); ++i) {
      T* mean = nullptr;
      TF_RETURN_IF_ERROR(Mean(context, tensors, i, &mean));
      memcpy(mean, result, tensors[i].NumElements() * sizeof(T));
      result += tensors[i].NumElements();
    }
    if (!segment->IsSuspect()) return absl::OkStatus();
    const T* own = segment->Part<T>(ranks_.rank);
    for (int i = 0; i < tensors.size(); ++i) {
      const int64_t count = tensors[i].NumElements();
      LookAt(i, static_cast<const T*>(context->mutable_output(i)->data()), own, count, nonfinite);
      own += count;
    }
    return absl::OkStatus();
  }

  // Some elements of one tensor: where they come from, where they go (often the same place), their place in the file.
  struct Piece {
    int tensor;
    const T* own;
    T* mean;
    int64_t begin, end;

    int64_t Count() const { return end - begin; }
  };

  absl::Status HandOver(OpKernelContext* context, const OpInputList& tensors, int64_t total, Segment* segment,
                        Tensor* nonfinite) const {
    std::vector<Piece> pieces;
    TF_RETURN_IF_ERROR(Cut(context, tensors, &pieces));
    T* shared = segment->Result<T>();
    if (segment->ComeFirst()) {
      TF_RETURN_IF_ERROR(segment->WaitFor(&Header::taken, 0));
      for (const Piece& piece : pieces) {
        memcpy(shared + piece.begin, piece.own, piece.Count() * sizeof(T));
        segment->Say(&Header::given, piece.begin, piece.end, total);
      }
      for (const Piece& piece : pieces) {
        TF_RETURN_IF_ERROR(segment->WaitFor(&Header::added, piece.end));
        if (segment->IsSuspectBlock(piece.begin)) {
          LookAt(piece.tensor, shared + piece.begin, piece.own, piece.Count(), nonfinite);
        }
        memcpy(piece.mean, shared + piece.begin, piece.Count() * sizeof(T));
      }
      segment->Say(&Header::taken, 0, total, total);
    } else {
      for (const Piece& piece : pieces) {
        TF_RETURN_IF_ERROR(segment->WaitFor(&Header::given, piece.end));
        if (AddOwn(piece, shared + piece.begin, nonfinite)) segment->SuspectBlock(piece.end);
        segment->Say(&Header::added, piece.begin, piece.end, total);
      }
    }
    segment->Advance(total);
    return absl::OkStatus();
  }

  // Allocate the outputs, and cut all tensors into blocks.
  absl::Status Cut(OpKernelContext* context, const OpInputList& tensors, std::vector<Piece>* pieces) const {
    int64_t place = 0;
    for (int i = 0; i < tensors.size(); ++i) {
      T* mean = nullptr;
      TF_RETURN_IF_ERROR(Mean(context, tensors, i, &mean));
      const T* own = static_cast<const T*>(tensors[i].data());
      for (int64_t at = 0, count = tensors[i].NumElements(); at < count; at += kBlock) {
        pieces->push_back({i, own + at, mean + at, place + at, place + std::min(count, at + kBlock)});
      }
      place += tensors[i].NumElements();
    }
    return absl::OkStatus();
  }

  // Add this rank's elements to the other's, and keep the means; return true if they must be looked at.
  bool AddOwn(const Piece& piece, T* __restrict shared, Tensor* nonfinite) const {
    using S = typename Sum<T>::Type;
    const T* __restrict own = piece.own;
    T* means = piece.mean;
    bool is_suspect = false;
    for (int64_t at = 0; at < piece.Count(); at += kSumBlock) {
      const int64_t count = std::min(kSumBlock, piece.Count() - at);
      S lanes[kLanes] = {};
      int64_t k = 0;
      for (; k + kLanes <= count; k += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
          const T mean = static_cast<T>((static_cast<S>(own[k + lane]) + static_cast<S>(shared[k + lane])) * S(0.5));
          shared[k + lane] = mean;
          lanes[lane] += static_cast<S>(mean);
        }
      }
      for (; k < count; ++k) {
        shared[k] = static_cast<T>((static_cast<S>(own[k]) + static_cast<S>(shared[k])) * S(0.5));
        lanes[0] += static_cast<S>(shared[k]);
      }
      if (!IsFinite(lanes, kLanes)) {
        LookAt(piece.tensor, shared, own, count, nonfinite);
        is_suspect = true;
      }
      memcpy(means, shared, count * sizeof(T));
      own += count, shared += count, means += count;
    }
    return is_suspect;
  }

  // Add up some elements over all ranks; return true if their means must be looked at.
  bool AddUp(const Segment& segment, int64_t begin, int64_t end, T* result) const {
    using S = typename Sum<T>::Type;
    const S scale = S(1) / S(ranks_.size);
    S sum[kSumBlock];
    S lanes[kLanes] = {};
    for (int64_t at = begin; at < end; at += kSumBlock) {
      const int64_t count = std::min(kSumBlock, end - at);
      const T* first = segment.Part<T>(0) + at;
      for (int64_t k = 0; k < count; ++k) sum[k] = static_cast<S>(first[k]);
      for (int rank = 1; rank < ranks_.size; ++rank) {
        const T* part = segment.Part<T>(rank) + at;
        for (int64_t k = 0; k < count; ++k) sum[k] += static_cast<S>(part[k]);
      }
      int64_t k = 0;
      for (; k + kLanes <= count; k += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
          const T mean = static_cast<T>(sum[k + lane] * scale);
          result[k + lane] = mean;
          lanes[lane] += static_cast<S>(mean);
        }
      }
      for (; k < count; ++k) {
        result[k] = static_cast<T>(sum[k] * scale);
        lanes[0] += static_cast<S>(result[k]);
      }
      result += count;
    }
    S all = 0;
    for (int lane = 0; lane < kLanes; ++lane) all += lanes[lane];
    return !std::isfinite(all);
  }

  // Keep of a tensor's block whether its mean is not finite, then whether this rank's own is not.
  void LookAt(int tensor, const T* mean, const T* own, int64_t count, Tensor* nonfinite) const {
    nonfinite->matrix<bool>()(0, tensor) |= !IsFinite(mean, count);
    nonfinite->matrix<bool>()(1, tensor) |= !IsFinite(own, count);
  }

  std::string path_;
  Ranks ranks_;
};

REGISTER_OP("HvdtrainNodeMean")
    .Input("tensors: N * T")
    .Output("means: N * T")
    .Output("nonfinite: bool")
    .Attr("N: int >= 1")
    .Attr("T: {float, double, half, bfloat16}")
    .Attr("segment: string")
    .Attr("rank: int")
    .Attr("size: int")
    .Attr("spin_us: int")
    .Attr("patience_s: int = 60")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* context) {
      const int count = context->num_inputs();
      for (int i = 0; i < count; ++i) context->set_output(i, context->input(i));
      context->set_output(count, context->Matrix(2, count));
      return absl::OkStatus();
    });

#define REGISTER(T) \
  REGISTER_KERNEL_BUILDER(Name("HvdtrainNodeMean").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), NodeMeanOp<T>)
REGISTER(float);
REGISTER(double);
REGISTER(Eigen::half);
REGISTER(Eigen::bfloat16);

}  // namespace

// Called from Python when this process ends.
extern "C" void hvdtrain_node_leave() {
  std::lock_guard<std::mutex> lock(segments_mutex);
  for (auto& [path, segment] : Segments()) {
    if (segment) segment->Leave();
  }
}
