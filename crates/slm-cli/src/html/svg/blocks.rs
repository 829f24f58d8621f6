//! The horizontal axis of a plot over the depth of a model.

use super::axes::{Axis, Frame};

/// Maximum number of blocks that are named.
const NAMED: usize = 8;

/// Creates the axis of `count` layers in forward order.
pub(super) fn index_axis(count: usize) -> Axis {
    Axis { low: -0.5, high: count.max(1) as f64 - 0.5, ticks: Vec::new() }
}

/// Draws the numbers of some blocks below their first layers, or only the ends of an axis without blocks.
pub(super) fn draw_blocks(frame: &Frame, names: &[&str]) -> String {
    let mut starts: Vec<(usize, usize)> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        if let Some(block) = block_of(name).filter(|block| starts.last().is_none_or(|last| last.0 != *block))
        {
            starts.push((block, index));
        }
    }
    if starts.len() < 2 {
        return frame.ends("first layer", "last layer");
    }
    let every = starts.len().div_ceil(NAMED);
    let mut content = String::new();
    for (place, (block, index)) in starts.into_iter().step_by(every).enumerate() {
        let name = if place == 0 { format!("block {block}") } else { block.to_string() };
        content += &frame.below(index as f64, &name);
    }
    content
}

/// The number of a layer's block, such as 3 for `layers.3.mlp.up_proj`.
fn block_of(layer: &str) -> Option<usize> {
    layer.strip_prefix("layers.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_named_at_their_first_layers() {
        let names: Vec<String> = (0..30)
            .flat_map(|block| ["q_proj", "up_proj"].map(|kind| format!("layers.{block}.{kind}")))
            .chain(["lm_head".to_owned()])
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let frame =
            Frame { x: index_axis(names.len()), y: Axis::of([0.0, 1.0].into_iter(), 4), height: 200.0 };
        let drawn = draw_blocks(&frame, &names);
        for name in [">block 0<", ">4<", ">28<"] {
            assert!(drawn.contains(name), "{name} is not in {drawn}");
        }
        assert_eq!(drawn.matches("<text").count(), NAMED);
        assert!(draw_blocks(&frame, &["up", "down"]).contains("last layer"));
    }
}
