// Runs one test by name, or lists all. Ends with status 1 when a check failed.
#include <cstdio>

#include "selftest/check.h"

int main(int count, char** arguments) {
  for (const auto& [name, run] : selftest::tests()) {
    if (count == 2 && arguments[1] == name) {
      run();
      return selftest::failures == 0 ? 0 : 1;
    }
    std::printf("%s\n", name.c_str());
  }
  return 2;
}
