#include "engine/pages.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

namespace emulator {
namespace {

void require(bool done, const char* what) {
  if (!done) {
    std::perror(what);
    std::abort();
  }
}

}  // namespace

void* map_pages(size_t bytes) {
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(pages != MAP_FAILED, "emulator: mmap");
  return pages;
}

void unmap_pages(void* pages, size_t bytes) {
  require(munmap(pages, bytes) == 0, "emulator: munmap");
}

void protect_pages(void* pages, size_t bytes) {
  require(mprotect(pages, bytes, PROT_NONE) == 0, "emulator: mprotect");
}

}  // namespace emulator
