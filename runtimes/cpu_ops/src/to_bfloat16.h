// Nearest bfloat16, ties to even; NaN stays NaN.
INLINE vu16 to_bfloat16(vf value) {
  vu raw;
  std::memcpy(&raw, &value, sizeof(raw));
  vu rounded = (raw + (((raw >> 16) & 1) + 0x7fff)) >> 16;
  return __builtin_convertvector(value == value ? rounded : (raw >> 16 | 0x40), vu16);
}
