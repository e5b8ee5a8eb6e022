// Added to Horovod by hvdtrain's builder: the background thread sleeps while its rank has nothing for it to do.
//
// As released, it meets the other ranks' threads every cycle, whether or not there is work, and spins in MPI until they
// have come: 1 to 2 % of a core, taken from the step that is computed. A rank with nothing pending has nothing to tell
// the others, and they cannot finish anything without it, so it may as well come when it has something.
//
// HOROVOD_IDLE_WAIT: seconds after which it meets the others all the same (stalls, shutdown); 0 never sleeps.

#ifndef HVDTRAIN_HOROVOD_IDLE_H
#define HVDTRAIN_HOROVOD_IDLE_H

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>

namespace horovod {
namespace common {

class Idle {
public:
  // Wake the background thread: work has been added, or a shutdown asked for.
  static void Announce() {
    {
      std::lock_guard<std::mutex> guard(State().mutex);
      ++State().num_announced;
    }
    State().announced.notify_one();
  }

  // Return when there is work. `has_work` is called with no lock of ours held.
  template <typename HasWork> static void Wait(HasWork has_work) {
    static const double seconds = Seconds();
    if (seconds <= 0.0) {
      return;
    }
    std::unique_lock<std::mutex> lock(State().mutex);
    const unsigned long long seen = State().num_announced;
    lock.unlock();
    if (has_work()) {
      return;
    }
    lock.lock();
    State().announced.wait_for(lock, std::chrono::duration<double>(seconds),
                               [seen] { return State().num_announced != seen; });
  }

private:
  struct Shared {
    std::mutex mutex;
    std::condition_variable announced;
    unsigned long long num_announced = 0;
  };

  // Never destroyed: at the end of the process the thread may still be waiting.
  static Shared& State() {
    static Shared* const shared = new Shared;
    return *shared;
  }

  static double Seconds() {
    const char* text = std::getenv("HOROVOD_IDLE_WAIT");
    return text == nullptr ? 1.0 : std::atof(text);
  }
};

} // namespace common
} // namespace horovod

#endif // HVDTRAIN_HOROVOD_IDLE_H
