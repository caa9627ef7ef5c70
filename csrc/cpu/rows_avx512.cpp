#define RHO_ROWS kRowsAvx512
#define RHO_ISA "avx512"
#include "cpu/rows.inc"
