// Pages straight from the system, which cost nothing until they are touched.
#pragma once

#include <cstddef>

namespace emulator {

// Ends the process when there are none.
void* map_pages(size_t bytes);
void unmap_pages(void* pages, size_t bytes);
// Touching them ends the process.
void protect_pages(void* pages, size_t bytes);

}  // namespace emulator
