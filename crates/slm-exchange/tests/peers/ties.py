"""Codes of inputs as this project makes them, and ties between two codes.

Two programs add in different orders, and floats that differ in their last bit may fall on two sides of a tie between two codes.
All that follows differs by what one code is worth. A code that differs is accepted only if it is shown to be such a tie.
"""
import numpy as np

# How near to the middle between two codes a value is that may become either of them, in steps.
TIE = 2e-3


def own_codes(x, static, sequences=None):
    """Codes 0 to 255 of the rows of `x`, how far each is from a tie, in steps, and the values that they stand for.

    Dynamic codes have a range for each row, or for each of so many `sequences`.
    """
    if static:
        scale, zero = np.float32(static["scale"]), np.full((len(x), 1), static["zero_point"])
        zero_tie = np.full((len(x), 1), 0.5)
    else:
        parts = x.reshape(sequences or len(x), -1)
        of_rows = lambda bounds: np.repeat(bounds, len(x) // len(parts))[:, None].astype(np.float64)
        lo, hi = of_rows(np.minimum(parts.min(axis=1), 0)), of_rows(np.maximum(parts.max(axis=1), 0))
        scale = (hi - lo) / 255
        scale = np.where(scale <= 2.0**-128, 0.1, scale)
        zero = np.rint(-lo / scale)
        zero_tie = np.abs(-lo / scale - np.floor(-lo / scale) - 0.5)
        scale = np.maximum(scale, np.float64(np.float32(6.1e-5))).astype(np.float32)
    steps = x * (np.float32(1) / scale)
    codes = np.clip(np.rint(steps) + zero, 0, 255).astype(np.int32)
    to_tie = np.minimum(np.abs(steps - np.floor(steps) - 0.5), zero_tie)
    return codes, to_tie, (codes - zero).astype(np.float32) * scale


def rows_with_ties(where, found, codes, to_tie):
    """Which rows have codes of another program, `found`, that are not ours; all of these must be ties."""
    difference = found - codes
    if ((np.abs(difference) > 1) | ((difference != 0) & (to_tie > TIE))).any():
        raise SystemExit(f"{where}: a code differs, and is no tie")
    return difference.any(axis=1)


def first_ties(label, codes_of_layers, inputs, checkpoint, shape, per_tensor=False):
    """For each sequence the first position that follows a tie; its length where there is none.

    `codes_of_layers` has the codes 0 to 255 that another program made of the input of a layer, `inputs` the floats that this
    project computed, in the order of the layers; `shape` is the number of sequences and their length.
    """
    first = np.full(shape[0], shape[1])
    for layer, x in inputs.items():
        if layer not in codes_of_layers:
            continue
        static = checkpoint.layers[layer].get("activation")
        codes, to_tie, _ = own_codes(x, static, shape[0] if per_tensor else None)
        for sequence in range(shape[0]):
            rows = slice(sequence * shape[1], sequence * shape[1] + first[sequence])
            found = codes_of_layers[layer][sequence, : first[sequence]]
            ties = rows_with_ties(f"{label}: {layer}: sequence {sequence}", found, codes[rows], to_tie[rows])
            if ties.any():
                # A range over all tokens carries a tie to those before it too.
                first[sequence] = 0 if per_tensor else np.argmax(ties)
    return first
