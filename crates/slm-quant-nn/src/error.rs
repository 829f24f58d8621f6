//! The one error type of this crate.

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a layer could not be built, converted or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The numerics refused the values.
    #[error(transparent)]
    Core(#[from] slm_quant_core::Error),
    /// A tensor has another shape than the layer needs.
    #[error("{what}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// What was measured.
        what: &'static str,
        /// The shape that the layer requires.
        expected: Vec<usize>,
        /// The shape found.
        found: Vec<usize>,
    },
    /// A tensor's values could not be read as 32-bit floats.
    #[error("{what}: cannot read values as f32: {detail}")]
    Data {
        /// What was read.
        what: &'static str,
        /// Burn's account of it.
        detail: String,
    },
    /// A conversion that needs float weights met a layer that has none.
    #[error("layer holds packed integer weights; only a float or fake-quantized layer can be converted")]
    AlreadyPacked,
}
