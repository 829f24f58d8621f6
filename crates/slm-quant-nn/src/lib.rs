//! A Burn Linear layer that is float, fake-quantized or packed-integer, and hooks to look inside it
