//! The one error type of this crate.

/// Result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error from building, converting or reading a layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The numerics crate rejected the values.
    #[error(transparent)]
    Core(#[from] slm_quant_core::Error),
    /// A tensor has another shape than the layer needs.
    #[error("{what}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// Name of the measured value.
        what: &'static str,
        /// The shape that the layer requires.
        expected: Vec<usize>,
        /// The shape found.
        found: Vec<usize>,
    },
    /// A tensor's values could not be read as 32-bit floats.
    #[error("{what}: cannot read values as f32: {detail}")]
    Data {
        /// Name of the tensor that was read.
        what: &'static str,
        /// Burn's message.
        detail: String,
    },
    /// A conversion that needs float weights met a layer that has none.
    #[error("layer holds packed integer weights; only a float or fake-quantized layer can be converted")]
    AlreadyPacked,
    /// A conversion to a plain float layer met one that is fake-quantized.
    #[error("layer is in quantization-aware training; end that by converting it to packed integers")]
    NotFloat,
    /// Learned scales need a mapping without zero points.
    #[error("scales cannot be learned with the {mapping} mapping; use symmetric or symmetric-torch")]
    NotLearnable {
        /// The mapping.
        mapping: slm_quant_core::Mapping,
    },
    /// An option that needs weights on the host, for a device with its own memory.
    #[error(
        "{found} would need the weights back on the host in every step of this device; use the min-max observer \
         or learned scales, with f32 scales, or train on a CPU device"
    )]
    DeviceObserver {
        /// The requested value.
        found: String,
    },
    /// This build cannot train quantized weights on the device.
    #[error(
        "this build trains quantized weights on the CPU devices only; use one of them, or build with the feature `wgpu`"
    )]
    TuningDevice,
    /// The saved state of a layer in training does not fit the layer.
    #[error("state {name} of a quantized layer: expected {expected} values, found {found}")]
    State {
        /// Name of the values.
        name: String,
        /// Number of values that the layer has.
        expected: usize,
        /// Number of values found.
        found: usize,
    },
}
