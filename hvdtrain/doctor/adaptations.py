"""What is changed in Horovod 0.28.1's source before it is built: it compiles, and its thread sleeps when idle. Pure.

The thread in which Horovod works meets those of the other ranks every cycle, whether or not there is anything to do,
and spins in MPI until they have come. On a rank with one core that is 1 to 2 % of its steps. Here a rank with nothing
pending waits until it has something, or for HOROVOD_IDLE_WAIT seconds (1; 0 is Horovod as released).
"""

from __future__ import annotations

from dataclasses import dataclass

from hvdtrain.native import HOROVOD_IDLE

ADDED = {"horovod/common/hvdtrain_idle.h": HOROVOD_IDLE}


@dataclass(frozen=True)
class Change:
    """One piece of text of Horovod's source and what stands there afterwards.

    Args:
        path: Of the file, from the root of the source.
        old: What stands there.
        new: What replaces it.
        count: How often it stands there.
    """

    path: str
    old: str
    new: str
    count: int = 1

    def apply(self, text: str) -> str:
        """Return the file's text, changed.

        Raises:
            ValueError: If the old text is not there as often as it should be: this is not the source we know.
        """
        found = text.count(self.old)
        if found != self.count:
            raise ValueError(f"{self.path} has {self.old!r} {found} times, not {self.count}, as Horovod 0.28.1 has")
        return text.replace(self.old, self.new)


# Its source includes XLA headers at places that TensorFlow left in 2.13 and highwayhash headers it no longer ships.
# It serves XLA-compiled collectives on GPUs only; everything else is in mpi_ops.cc.
WITHOUT_XLA = Change(
    "horovod/tensorflow/CMakeLists.txt",
    'list(APPEND TF_SOURCES "${PROJECT_SOURCE_DIR}/horovod/tensorflow/xla_mpi_ops.cc")\n',
    "",
)

# Its longest file goes first: at the end, all other compilers would wait for it.
LONGEST_FIRST = Change(
    "horovod/tensorflow/CMakeLists.txt",
    "SHARED ${SOURCES} ${TF_SOURCES})",
    "SHARED ${TF_SOURCES} ${SOURCES})",
)

# What a debugger would need takes a fifth of the time, and most of the library's size.
NO_DEBUG_INFORMATION = Change(
    "CMakeLists.txt",
    'string(REPLACE "-O2" "-O3" CMAKE_CXX_FLAGS_RELWITHDEBINFO',
    'string(REPLACE "-O2 -g" "-O3" CMAKE_CXX_FLAGS_RELWITHDEBINFO',
)

# It compiles Gloo as C++11 and, for TensorFlow from 2.10 on, again as C++17, which it uses: compile what is used.
ONE_GLOO = Change(
    "CMakeLists.txt",
    "    add_subdirectory(third_party/gloo)\n",
    "    add_subdirectory(third_party/gloo EXCLUDE_FROM_ALL)\n",
)

SLEEP_WHEN_IDLE = (
    Change(
        "horovod/common/tensor_queue.h",
        "  bool IsTensorPresentInTable (",
        "  bool IsIdle() const;\n\n  bool IsTensorPresentInTable (",
    ),
    Change(
        "horovod/common/tensor_queue.cc",
        '#include "logging.h"\n',
        '#include "hvdtrain_idle.h"\n#include "logging.h"\n',
    ),
    Change(
        "horovod/common/tensor_queue.cc",
        "  return Status::OK();\n}",
        "  Idle::Announce();\n  return Status::OK();\n}",
        count=2,
    ),
    Change(
        "horovod/common/tensor_queue.cc",
        "// Get tensor entry given a tensor name\n",
        """\
bool TensorQueue::IsIdle() const {
  std::lock_guard<std::mutex> guard(mutex_);
  return tensor_table_.empty() && message_queue_.empty();
}

// Get tensor entry given a tensor name
""",
    ),
    Change(
        "horovod/common/operations.cc",
        '#include "operations.h"\n',
        '#include "operations.h"\n\n#include "hvdtrain_idle.h"\n',
    ),
    Change(
        "horovod/common/operations.cc",
        "    horovod_global.shut_down = true;\n",
        "    horovod_global.shut_down = true;\n    Idle::Announce();\n",
    ),
    # Autotuning and process sets that come and go are agreed on in cycles without work, so there it never sleeps.
    Change(
        "horovod/common/operations.cc",
        "  state.last_cycle_start = std::chrono::steady_clock::now();\n\n  if (state.mark",
        """\
  Idle::Wait([&state] {
    if (state.shut_down || state.dynamic_process_sets ||
        state.parameter_manager.IsAutoTuning()) {
      return true;
    }
    for (auto id : state.process_set_table.Ids()) {
      if (!state.process_set_table.Get(id).tensor_queue.IsIdle()) {
        return true;
      }
    }
    return false;
  });
  state.last_cycle_start = std::chrono::steady_clock::now();

  if (state.mark""",
    ),
)

CHANGES = (WITHOUT_XLA, LONGEST_FIRST, NO_DEBUG_INFORMATION, ONE_GLOO, *SLEEP_WHEN_IDLE)
