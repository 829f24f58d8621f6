//! Layers with a sliding window among layers without.

use serde_json::Value;

use super::fields::Fields;
use crate::config::ModelConfig;
use crate::error::Result;

/// The type of layers that see all positions, as Hugging Face calls it.
pub(super) const FULL: &str = "full_attention";
/// The type of layers with a window.
pub(super) const SLIDING: &str = "sliding_attention";

/// Layers with a window: by `layer_types` if a config has them, or else as `default` says for each.
pub(super) fn sliding_layers(
    fields: &Fields<'_>,
    num_layers: usize,
    default: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let Some(types) = fields.list("layer_types")? else { return Ok((0..num_layers).map(default).collect()) };
    let sliding = types.iter().map(|kind| match kind.as_str() {
        Some(FULL) => Some(false),
        Some(SLIDING) => Some(true),
        _ => None,
    });
    match sliding.collect::<Option<Vec<bool>>>() {
        Some(sliding) if sliding.len() == num_layers => Ok(sliding),
        _ => {
            let supported = format!("\"{FULL}\" or \"{SLIDING}\" for each of {num_layers} layers");
            Err(fields.unsupported("layer_types", Value::from(types.to_vec()), supported))
        }
    }
}

/// Gives the layers that are `sliding` the window.
pub(super) fn set_windows(
    fields: &Fields<'_>,
    model: &mut ModelConfig,
    sliding: &[bool],
    window: Option<usize>,
) -> Result<()> {
    if window.is_none() && sliding.contains(&true) {
        if fields.usize("sliding_window")?.is_some() {
            return Err(fields.wrong(
                "use_sliding_window",
                "true, for sliding_attention in layer_types",
                "false",
            ));
        }
        return Err(fields.wrong(
            "sliding_window",
            "a width, for sliding_attention in layer_types",
            "nothing",
        ));
    }
    let mut layers = model.layers();
    for (layer, sliding) in layers.iter_mut().zip(sliding) {
        layer.sliding_window = window.filter(|_| *sliding);
    }
    model.set_layers(&layers);
    Ok(())
}

/// The width in `sliding_window`, or `default` if the field is absent. Null means no window.
pub(super) fn window(fields: &Fields<'_>, default: Option<usize>) -> Result<Option<usize>> {
    match fields.usize("sliding_window")? {
        None if !fields.has("sliding_window") => Ok(default),
        window => Ok(window),
    }
}

/// Reads the `layer_types` of an architecture whose layers all attend to every earlier position, whatever the types
/// say.
pub(super) fn ignore_layer_types(fields: &Fields<'_>) -> Result<()> {
    let types = fields.list("layer_types")?.unwrap_or_default();
    if types.iter().any(|kind| kind.as_str() != Some(FULL)) {
        fields.note(
            "layer_types",
            "was ignored, as in transformers: no layer of this architecture has a window",
        );
    }
    Ok(())
}
