// SPDX-License-Identifier: Apache-2.0
//
// Intrusive doubly linked list: no allocation, O(1) removal from the middle. An element is in at
// most one list per link; it must be unlinked before it dies (asserted).
#pragma once

#include <cstddef>

#include "base/assert.h"

namespace holdfast {

struct ListLink {
  ListLink* previous = nullptr;
  ListLink* next = nullptr;

  ListLink() = default;
  ListLink(const ListLink&) : ListLink() {}             // a copy is in no list
  ListLink& operator=(const ListLink&) { return *this; }
  bool is_linked() const { return next != nullptr; }
  void unlink() {
    if (!is_linked()) return;
    previous->next = next;
    next->previous = previous;
    previous = next = nullptr;
  }
};

// `Link` is the member that carries the link: List<Page, &Page::lru_link>.
template <typename T, ListLink T::*Link>
class List {
 public:
  List() { head_.previous = head_.next = &head_; }
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  ~List() { clear(); }

  bool empty() const { return head_.next == &head_; }
  void push_back(T& element) { insert_before(&head_, &(element.*Link)); }
  void push_front(T& element) { insert_before(head_.next, &(element.*Link)); }
  T* front() { return empty() ? nullptr : owner(head_.next); }
  T* back() { return empty() ? nullptr : owner(head_.previous); }
  T* next(T& element) {
    ListLink* link = (element.*Link).next;
    return link == &head_ ? nullptr : owner(link);
  }
  T* pop_front() {
    T* element = front();
    if (element != nullptr) (element->*Link).unlink();
    return element;
  }
  static void remove(T& element) { (element.*Link).unlink(); }
  void clear() {
    while (pop_front() != nullptr) {
    }
  }

 private:
  static void insert_before(ListLink* position, ListLink* link) {
    HOLDFAST_ASSERT(!link->is_linked());
    link->previous = position->previous;
    link->next = position;
    position->previous->next = link;
    position->previous = link;
  }
  static T* owner(ListLink* link) {
    // The offset of a member pointer, computed without a live object.
    alignas(T) static char storage[sizeof(T)];
    const T* probe = reinterpret_cast<const T*>(storage);
    const auto offset = reinterpret_cast<const char*>(&(probe->*Link)) - storage;
    return reinterpret_cast<T*>(reinterpret_cast<char*>(link) - offset);
  }

  ListLink head_;
};

}  // namespace holdfast
