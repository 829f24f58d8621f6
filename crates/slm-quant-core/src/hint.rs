//! Suggestions for unknown names, such as names from other programs.

/// The name of kind `what` that `found` was probably meant to be.
pub(crate) fn meant(what: &str, found: &str) -> Option<String> {
    let found = found.trim().to_ascii_lowercase().replace(['_', ' '], "-");
    let found = found.strip_prefix("per-").unwrap_or(&found);
    let name = match what {
        "granularity" => return granularity(found),
        "mapping" => match found {
            "asymmetric" | "asym" | "zero-point" => "affine",
            "sym" | "absmax" => "symmetric",
            _ => return None,
        },
        "scale dtype" => match found {
            "float16" | "fp16" | "half" | "bf16" | "16" => "f16",
            "float32" | "fp32" | "float" | "full" | "32" => "f32",
            _ => return None,
        },
        "activation granularity" => match found {
            "token" | "row" | "tokenwise" => "token",
            "tensor" | "layer" | "tensorwise" => "tensor",
            _ => return None,
        },
        "observer" => match found {
            "minmax" | "absmax" | "max" => "min-max",
            "hist" | "entropy" | "kl" => "histogram",
            "ema" | "moving" | "moving-average-min-max" => "moving-average",
            "perc" | "quantile" => "percentile",
            "mean-squared-error" | "l2" => "mse",
            _ => return None,
        },
        "quantization type" => match found {
            "w8a8" | "w4a8" | "static-int8" | "full" => "static",
            "dyn" | "dynamic-int8" => "dynamic",
            "w8a16" | "w4a16" | "w8" | "w4" | "weight" | "weights" | "weightonly" | "weight-only"
            | "weights-only" => "weight-only",
            _ => return None,
        },
        _ => return None,
    };
    Some(name.to_owned())
}

fn granularity(found: &str) -> Option<String> {
    let digits = found.trim_start_matches(|c: char| !c.is_ascii_digit());
    let prefix = &found[..found.len() - digits.len()];
    let prefix = prefix.trim_end_matches([':', '-', '=']);
    if ["", "g", "group", "groups", "block", "group-size", "groupsize"].contains(&prefix)
        && !digits.is_empty()
    {
        return digits.parse().ok().filter(|&size: &usize| size > 0).map(|size| format!("group:{size}"));
    }
    let name = match found {
        "group" | "block" | "groups" | "groupwise" => "group:32",
        "channel" | "row" | "rows" | "axis" | "channels" | "channelwise" => "channel",
        "tensor" | "layer" | "tensors" | "tensorwise" => "tensor",
        _ => return None,
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_programs_are_understood() {
        for (what, found, expected) in [
            ("granularity", "32", "group:32"),
            ("granularity", "group-128", "group:128"),
            ("granularity", "g64", "group:64"),
            ("granularity", "per_channel", "channel"),
            ("granularity", "per-tensor", "tensor"),
            ("granularity", "per-row", "channel"),
            ("granularity", "Block", "group:32"),
            ("granularity", "group:0", ""),
            ("granularity", "fine", ""),
            ("mapping", "asymmetric", "affine"),
            ("scale dtype", "FP16", "f16"),
            ("observer", "minmax", "min-max"),
            ("activation granularity", "per_row", "token"),
            ("quantization type", "w4a16", "weight-only"),
            ("quantization type", "per", ""),
        ] {
            assert_eq!(meant(what, found).unwrap_or_default(), expected, "{what} {found}");
        }
    }
}
