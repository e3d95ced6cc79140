// SPDX-License-Identifier: Apache-2.0
//
// Signals between processes through eventfds: watching one that a peer signals, signalling one that
// a peer watches.
//
// Threading: the loop's thread. A watch may be destroyed at any time but inside its own callback;
// the loop outlives it.
#pragma once

#include <functional>
#include <memory>

#include "base/result.h"
#include "io/descriptor.h"
#include "io/loop.h"

namespace holdfast {

class EventWatch {
 public:
  using Callback = void (*)(void* context);
  virtual ~EventWatch() = default;
};

// How a frontend gets its watches: from a loop, or in tests from something simpler.
using WatchEvent = std::function<std::unique_ptr<EventWatch>(
    Descriptor event, EventWatch::Callback callback, void* context)>;

// False for anything but an eventfd. Makes it non-blocking: whoever else has it could otherwise
// keep us waiting.
bool prepare_event(const Descriptor& descriptor);

// Calls back once per burst of signals, until it is destroyed. `event` is prepared.
std::unique_ptr<EventWatch> watch_event(Loop& loop, Descriptor event, EventWatch::Callback callback,
                                        void* context);

// Never waits. `event` is prepared.
void signal_event(const Descriptor& event);
// Takes the signals that are there. For watches.
bool take_event(const Descriptor& event);

}  // namespace holdfast
