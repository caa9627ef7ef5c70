#include "engine/shared_memory.h"

#include <link.h>

#include <cstdint>
#include <cstring>

#include "engine/pages.h"
#include "engine/sanitizers.h"

// The dynamic linker's own, which no header declares.
struct TlsIndex {
  size_t module;
  size_t offset;
};
extern "C" void* __tls_get_addr(TlsIndex* index);

namespace emulator {
namespace {

constexpr int kGarbage = 0xff;

struct Search {
  uintptr_t address;
  StaticShared found;
};

int visit_module(dl_phdr_info* module, size_t, void* argument) {
  auto& search = *static_cast<Search*>(argument);
  bool holds_address = false;
  size_t tls_bytes = 0;
  for (int i = 0; i < module->dlpi_phnum; ++i) {
    const auto& segment = module->dlpi_phdr[i];
    if (segment.p_type == PT_LOAD) {
      holds_address |= search.address - (module->dlpi_addr + segment.p_vaddr) < segment.p_memsz;
    } else if (segment.p_type == PT_TLS) {
      tls_bytes = segment.p_memsz;
    }
  }
  if (!holds_address) {
    return 0;
  }
  search.found = {module->dlpi_tls_modid, tls_bytes};
  return 1;
}

}  // namespace

StaticShared static_shared_of(const void* kernel) {
  Search search{reinterpret_cast<uintptr_t>(kernel), {}};
  dl_iterate_phdr(visit_module, &search);
  return search.found;
}

// This also overwrites the engine's thread-local variables if they are in the same module. A block
// sets them afterwards.
void fill_static_shared(const StaticShared& shared) {
  if (shared.bytes > 0) {
    TlsIndex start{shared.module, 0};
    std::memset(__tls_get_addr(&start), kGarbage, shared.bytes);
  }
}

// Separate pages: TSan forgets them when they are unmapped.
DynamicShared::DynamicShared() : data_(static_cast<unsigned char*>(map_pages(kBytes))) {}

DynamicShared::~DynamicShared() { unmap_pages(data_, kBytes); }

void DynamicShared::open(size_t bytes) {
  std::memset(data_, kGarbage, bytes);
  if (under_asan()) {
    __asan_poison_memory_region(data_ + bytes, kBytes - bytes);
  }
}

void DynamicShared::close() {
  if (under_asan()) {
    __asan_unpoison_memory_region(data_, kBytes);
  }
}

}  // namespace emulator
