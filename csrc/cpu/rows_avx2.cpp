#define RHO_ROWS kRowsAvx2
#define RHO_ISA "avx2"
#include "cpu/rows.inc"
