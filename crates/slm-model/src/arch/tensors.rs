//! Derivation of each tensor of a model from those in a Hugging Face file.

use std::ops::Range;

use crate::config::ModelConfig;
use crate::names::{ExpectedTensor, LM_HEAD};

/// The names of an architecture's tensors.
#[derive(Debug)]
pub(super) struct TensorMap {
    /// Prefix of every name but the head's, with its dot. Some files leave it out.
    pub(super) prefix: &'static str,
    /// Prefix of a layer's number.
    pub(super) layers: &'static str,
    /// Canonical paths (in a layer without `layers.N.`), their paths in the file, and their derivation. Other paths are
    /// the same in both.
    pub(super) names: &'static [(&'static str, &'static str, Op)],
    /// Entries that take precedence over those of `names` in models with parallel residuals.
    pub(super) parallel: &'static [(&'static str, &'static str, Op)],
    /// Ends of the names of constants, which the program computes itself.
    pub(super) constants: &'static [&'static str],
}

/// Derivation of a tensor from one in the file. Weights of linear layers are `[outputs, inputs]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// The tensor itself.
    Copy,
    /// One is added to each value (norms of Gemma, which compute with `1 + weight`).
    PlusOne,
    /// Weights are stored as `[inputs, outputs]` (GPT-2's `Conv1D`).
    Transpose,
    /// The rows of a part of a fused tensor.
    Rows(FusedPart),
    /// The rows of a part of a fused tensor whose weights are stored as `[inputs, outputs]`.
    TransposeRows(FusedPart),
    /// The rows of a part of a fused tensor in which the parts are interleaved head by head (GPT-NeoX).
    HeadRows(FusedPart),
}

/// Part of a fused tensor: of q, k and v, or of gate and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FusedPart {
    Q,
    K,
    V,
    Gate,
    Up,
}

impl FusedPart {
    /// The rows of this part in the fused tensor, and the number of rows of all parts.
    fn rows(self, config: &ModelConfig) -> (Range<usize>, usize) {
        let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let inner = config.intermediate_size;
        match self {
            Self::Q => (0..q, q + 2 * kv),
            Self::K => (q..q + kv, q + 2 * kv),
            Self::V => (q + kv..q + 2 * kv, q + 2 * kv),
            Self::Gate => (0..inner, 2 * inner),
            Self::Up => (inner..2 * inner, 2 * inner),
        }
    }
}

/// A tensor of a file, and how a tensor of the model is derived from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSource {
    /// Name in the file.
    pub tensor: String,
    /// Shape that the tensor in the file should have.
    pub shape: Vec<usize>,
    transposed: bool,
    plus_one: bool,
    /// Ranges of rows that are taken, in order; empty for all rows.
    rows: Vec<Range<usize>>,
}

impl TensorSource {
    /// The values of the model's tensor, from those of the file's, row-major.
    pub fn apply(&self, mut values: Vec<f32>) -> Vec<f32> {
        if self.plus_one {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        let (width, height) = match self.shape[..] {
            [inputs, outputs] if self.transposed => (inputs, outputs),
            [rows, columns] => (columns, rows),
            _ => (1, values.len()),
        };
        if !self.transposed && self.rows.is_empty() {
            return values;
        }
        let count = if self.rows.is_empty() { height } else { self.rows.iter().map(|rows| rows.len()).sum() };
        let mut out = Vec::with_capacity(count * width);
        let mut take = |row: usize| match self.transposed {
            true => out.extend((0..width).map(|column| values[column * height + row])),
            false => out.extend_from_slice(&values[row * width..(row + 1) * width]),
        };
        match self.rows.is_empty() {
            true => (0..height).for_each(&mut take),
            false => self.rows.iter().cloned().flatten().for_each(&mut take),
        }
        out
    }
}

impl TensorSource {
    /// Writes the values of the model's tensor to their places in the file's, row-major: the inverse of
    /// [`TensorSource::apply`].
    ///
    /// Values of the file's tensor that belong to other tensors are left unchanged.
    pub fn restore(&self, values: &[f32], file: &mut [f32]) {
        let (width, height) = match self.shape[..] {
            [inputs, outputs] if self.transposed => (inputs, outputs),
            [rows, columns] => (columns, rows),
            _ => (1, file.len()),
        };
        let rows = self.file_rows().unwrap_or_else(|| (0..height).collect());
        for (&row, values) in rows.iter().zip(values.chunks(width.max(1))) {
            for (column, &value) in values.iter().enumerate() {
                let at = if self.transposed { column * height + row } else { row * width + column };
                if let Some(place) = file.get_mut(at) {
                    *place = if self.plus_one { value - 1.0 } else { value };
                }
            }
        }
    }

    /// Returns `true` if the values are those of the file, in any order.
    pub fn keeps_values(&self) -> bool {
        !self.plus_one
    }

    /// Rows of the file's tensor that make up the model's, in order; `None` if they are the same.
    pub fn file_rows(&self) -> Option<Vec<usize>> {
        (!self.rows.is_empty()).then(|| self.rows.iter().cloned().flatten().collect())
    }

    /// Returns `true` if the file's tensor is the transpose.
    pub fn is_transposed(&self) -> bool {
        self.transposed
    }
}

impl TensorMap {
    /// Source of `tensor` of a model of `config`. Without `prefixed` the file leaves the prefix out.
    pub(super) fn tensor_source(
        &self,
        config: &ModelConfig,
        tensor: &ExpectedTensor,
        prefixed: bool,
    ) -> TensorSource {
        let (path, kind) = tensor.name.rsplit_once('.').unwrap_or((&tensor.name, ""));
        let in_layer = path.strip_prefix("layers.").and_then(|rest| rest.split_once('.'));
        let part = in_layer.map_or(path, |(_, part)| part);
        let parallel = if config.parallel_residual { self.parallel } else { &[] };
        let known = parallel.iter().chain(self.names).find(|(canonical, ..)| *canonical == part);
        let (name, op) = known.map_or((part, Op::Copy), |(_, name, op)| (*name, *op));
        let prefix = if prefixed && path != LM_HEAD { self.prefix } else { "" };
        let name = match in_layer {
            Some((index, _)) => format!("{prefix}{}.{index}.{name}.{kind}", self.layers),
            None => format!("{prefix}{name}.{kind}"),
        };
        let mut shape = tensor.shape.clone();
        let rows = match op {
            Op::Copy | Op::PlusOne | Op::Transpose => Vec::new(),
            Op::Rows(part) | Op::TransposeRows(part) => {
                let (rows, total) = part.rows(config);
                shape[0] = total;
                vec![rows]
            }
            Op::HeadRows(part) => {
                let (rows, total) = part.rows(config);
                shape[0] = total;
                let (dim, heads) = (config.head_dim, config.num_heads);
                let nth = rows.start / rows.len().max(1);
                (0..heads).map(|head| (3 * head + nth) * dim..(3 * head + nth + 1) * dim).collect()
            }
        };
        let transposed = matches!(op, Op::Transpose | Op::TransposeRows(_)) && shape.len() == 2;
        if transposed {
            shape.reverse();
        }
        TensorSource { tensor: name, shape, transposed, plus_one: op == Op::PlusOne, rows }
    }

    /// Name of the head in a file.
    pub(super) fn head(&self) -> String {
        let known = self.names.iter().find(|(canonical, ..)| *canonical == LM_HEAD);
        format!("{}.weight", known.map_or(LM_HEAD, |(_, name, _)| *name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(shape: &[usize], transposed: bool, plus_one: bool, rows: &[(usize, usize)]) -> TensorSource {
        let rows = rows.iter().map(|&(start, end)| start..end).collect();
        TensorSource { tensor: "t".into(), shape: shape.to_vec(), transposed, plus_one, rows }
    }

    #[test]
    fn what_came_apart_goes_together() {
        let file: Vec<f32> = (0..12).map(|value| value as f32).collect();
        for sources in [
            vec![source(&[2, 6], true, false, &[(0, 2)]), source(&[2, 6], true, false, &[(2, 6)])],
            vec![
                source(&[6, 2], false, false, &[(1, 2), (4, 6)]),
                source(&[6, 2], false, false, &[(0, 1), (2, 4)]),
            ],
            vec![source(&[12], false, true, &[])],
            vec![source(&[3, 4], true, false, &[])],
        ] {
            let mut found = vec![f32::NAN; 12];
            sources.iter().for_each(|source| source.restore(&source.apply(file.clone()), &mut found));
            assert_eq!(found, file);
        }
    }

    #[test]
    fn fused_and_transposed_weights_come_apart() {
        // inputs x [q q k k v v], two inputs.
        let file = vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
        let keys = source(&[2, 6], true, false, &[(2, 4)]);
        assert_eq!(keys.apply(file.clone()), [2.0, 12.0, 3.0, 13.0]);
        assert_eq!(source(&[12], false, false, &[(4, 6)]).apply(file.clone()), [4.0, 5.0]);
        assert_eq!(source(&[12], false, false, &[]).apply(file.clone()), file);
        assert_eq!(source(&[2], false, true, &[]).apply(vec![0.5, -1.0]), [1.5, 0.0]);
        // Two heads of one value: q k v q k v.
        assert_eq!(source(&[6, 2], false, false, &[(1, 2), (4, 5)]).apply(file), [2.0, 3.0, 12.0, 13.0]);
    }
}
