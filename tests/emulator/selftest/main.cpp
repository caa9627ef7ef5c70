// Runs one test by name, or lists all. Ends with status 1 when a check failed.
#include <cstdio>
#include <cstring>

#include "selftest/check.h"
#include "selftest/tests.h"

int main(int count, char** arguments) {
  for (const selftest::Test& test : selftest::kTests) {
    if (count == 2 && std::strcmp(arguments[1], test.name) == 0) {
      test.run();
      return selftest::failures == 0 ? 0 : 1;
    }
  }
  for (const selftest::Test& test : selftest::kTests) {
    std::printf("%s\n", test.name);
  }
  return 2;
}
