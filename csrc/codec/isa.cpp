// The one choice of instruction set, for this module too.
#include "cpu/isa.cpp"
