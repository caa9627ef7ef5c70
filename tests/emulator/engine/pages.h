// Memory pages from the system. They cost nothing until they are touched.
#pragma once

#include <cstddef>

namespace emulator {

// Ends the process if there are no pages left.
void* map_pages(size_t bytes);
void unmap_pages(void* pages, size_t bytes);
// Protect pages: touching them ends the process.
void protect_pages(void* pages, size_t bytes);

}  // namespace emulator
