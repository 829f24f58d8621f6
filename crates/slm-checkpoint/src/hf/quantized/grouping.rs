//! The values of a weight that share a scale in a file.

use super::codes::Groups;

/// The split of the values of a weight into groups with a scale each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grouping {
    Tensor,
    Channel,
    /// Runs of `size` columns of a row, `count` in each.
    Columns {
        size: usize,
        count: usize,
    },
    /// Blocks of `height` rows and `width` columns; the last ones may be smaller.
    Blocks {
        height: usize,
        width: usize,
    },
}

impl Grouping {
    /// Returns the grouping with scales of the shape `scales`: blocks of the size `block`, and without a size, one scale for
    /// the tensor or each row. Returns `None` if the shapes do not fit.
    pub(super) fn of_blocks(block: Option<[usize; 2]>, shape: [usize; 2], scales: &[usize]) -> Option<Self> {
        let [rows, cols] = shape;
        match (block, scales) {
            (Some([height, width]), _) if height > 0 && width > 0 => {
                let fits = scales == [rows.div_ceil(height), cols.div_ceil(width)];
                fits.then_some(Self::Blocks { height, width })
            }
            (None, [] | [1] | [1, 1]) => Some(Self::Tensor),
            (None, [count] | [count, 1]) if *count == rows => Some(Self::Channel),
            _ => None,
        }
    }

    /// Returns the grouping of `count` runs of `size` columns in each row.
    pub(super) fn of_columns(size: usize, count: usize) -> Self {
        if count > 1 { Self::Columns { size, count } } else { Self::Channel }
    }

    /// Number of scales in a row of the file; `None` if they are not stored by row.
    pub(super) fn per_row(self) -> Option<usize> {
        match self {
            Self::Tensor | Self::Blocks { .. } => None,
            Self::Channel => Some(1),
            Self::Columns { count, .. } => Some(count),
        }
    }

    /// Number of scales in the file, for a weight of `shape`; `None` if it does not fit in memory.
    pub(super) fn count(self, [rows, cols]: [usize; 2]) -> Option<usize> {
        match self {
            Self::Tensor => Some(1),
            Self::Channel => Some(rows),
            Self::Columns { count, .. } => rows.checked_mul(count),
            Self::Blocks { height, width } => rows.div_ceil(height).checked_mul(cols.div_ceil(width)),
        }
    }

    /// Returns the groups of columns in each row. Rows of a block have the same scales, see [`Grouping::of_rows`].
    pub(super) fn groups(self) -> Groups {
        match self {
            Self::Tensor => Groups::Tensor,
            Self::Channel => Groups::Columns(usize::MAX),
            Self::Columns { size, .. } => Groups::Columns(size),
            Self::Blocks { width, .. } => Groups::Columns(width),
        }
    }

    /// Converts the values of the groups, in the order of the file, to those of each row.
    pub(super) fn of_rows<T: Copy>(self, values: Vec<T>, [rows, cols]: [usize; 2]) -> Vec<T> {
        let Self::Blocks { height, width } = self else { return values };
        let per_row = cols.div_ceil(width);
        (0..rows).flat_map(|row| &values[row / height * per_row..][..per_row]).copied().collect()
    }
}

impl std::fmt::Display for Grouping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tensor => f.write_str("per tensor"),
            Self::Channel => f.write_str("per channel"),
            Self::Columns { size, .. } => write!(f, "in groups of {size}"),
            Self::Blocks { height, width } => write!(f, "in blocks of {height} x {width}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_block_have_its_scales() {
        let blocks = Grouping::of_blocks(Some([2, 3]), [5, 4], &[3, 2]).unwrap();
        assert_eq!((blocks, blocks.count([5, 4])), (Grouping::Blocks { height: 2, width: 3 }, Some(6)));
        assert_eq!(blocks.groups(), Groups::Columns(3));
        assert_eq!(blocks.of_rows(vec![1, 2, 3, 4, 5, 6], [5, 4]), [1, 2, 1, 2, 3, 4, 3, 4, 5, 6]);
        assert_eq!(Grouping::Channel.of_rows(vec![1, 2], [2, 4]), [1, 2]);
        assert_eq!(blocks.to_string(), "in blocks of 2 x 3");
    }

    #[test]
    fn scales_of_another_shape_are_refused() {
        let of = |block, scales: &[usize]| Grouping::of_blocks(block, [5, 4], scales);
        assert_eq!(of(Some([2, 3]), &[2, 2]), None);
        assert_eq!(of(Some([0, 3]), &[2, 2]), None);
        assert_eq!(of(None, &[3, 2]), None);
        assert_eq!(of(None, &[4]), None);
        assert_eq!(of(None, &[]), Some(Grouping::Tensor));
        assert_eq!(of(None, &[1]), Some(Grouping::Tensor));
        assert_eq!(of(None, &[5]), Some(Grouping::Channel));
        assert_eq!(of(None, &[5, 1]), Some(Grouping::Channel));
    }
}
