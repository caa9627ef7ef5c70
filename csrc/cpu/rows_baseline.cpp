#define RHO_ROWS kRowsBaseline
#define RHO_ISA "baseline"
#include "cpu/rows.inc"
