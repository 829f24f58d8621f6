//! Packed weights in Burn's records.
//!
//! A record holds parameters, which are tensors. Packed weights are not tensors, but appear to visitors and mappers as
//! integer tensors that are created when they are read:
//!
//! | parameter | type | shape | holds |
//! |---|---|---|---|
//! | `format` | I32 | `[10]` | scheme, width, and how the input is quantized |
//! | `codes` | U8 | `[rows, row_bytes]` | codes as they are stored: INT4 has two to a byte |
//! | `scales` | I32 | `[count]` | bits of the scales: of an F32, or of an F16 in the low half |
//! | `zero_points` | I32 | `[count]` | zero points; affine mappings only |
//!
//! All are integers, so that casting a module to another float type or training it does not change them.

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param,
    ParamId,
};
use burn::tensor::{Bytes, DType, Device, Int, Shape, Tensor, TensorData};
use half::f16;
use slm_kernels::PackedMatrix;
use slm_quant_core::{
    ActivationGranularity, ActivationQuant, Bits, Granularity, Mapping, QParams, QuantRange, QuantScheme,
    QuantizedMatrix, ScaleDtype, Scales,
};
use std::sync::Arc;

use super::PackedWeight;

/// The first value of `format`.
const VERSION: i32 = 1;
/// Number of values in `format`.
const FORMAT_LEN: usize = 10;
/// Burn's name of the type that holds the parameters.
const CONTAINER: &str = "Struct:PackedWeight";

/// Ids of the parameters, which stay the same from visit to visit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ids {
    format: ParamId,
    codes: ParamId,
    scales: ParamId,
    zero_points: ParamId,
}

impl Default for Ids {
    fn default() -> Self {
        let new = ParamId::new;
        Self { format: new(), codes: new(), scales: new(), zero_points: new() }
    }
}

impl PackedWeight {
    fn format(&self) -> Param<Tensor<1, Int>> {
        let numbers = format_of(&self.matrix, self.activation);
        integers(self.ids.format, FORMAT_LEN, move || numbers.to_vec())
    }

    fn codes(&self) -> Param<Tensor<2, Int>> {
        let rows = self.matrix.rows();
        let shape = [rows, self.matrix.scheme().bits.row_bytes(self.matrix.cols())];
        let matrix = Arc::clone(&self.matrix);
        lazy(self.ids.codes, shape, DType::U8, move || matrix.unpack().into_parts().0)
    }

    fn scales(&self) -> Param<Tensor<1, Int>> {
        let matrix = Arc::clone(&self.matrix);
        integers(self.ids.scales, self.scale_count(), move || match matrix.unpack().scales() {
            Scales::F32(scales) => scales.iter().map(|scale| scale.to_bits().cast_signed()).collect(),
            Scales::F16(scales) => scales.iter().map(|scale| i32::from(scale.to_bits())).collect(),
        })
    }

    /// `None` for a symmetric mapping.
    fn zero_points(&self) -> Option<Param<Tensor<1, Int>>> {
        let matrix = Arc::clone(&self.matrix);
        (!self.matrix.scheme().mapping.is_symmetric()).then(|| {
            integers(self.ids.zero_points, self.scale_count(), move || {
                matrix.unpack().zero_points().unwrap_or(&[]).iter().map(|&zero| i32::from(zero)).collect()
            })
        })
    }

    fn scale_count(&self) -> usize {
        match self.matrix.scheme().granularity {
            Granularity::PerTensor => 1,
            Granularity::PerChannel | Granularity::PerGroup { .. } => {
                self.matrix.rows() * self.matrix.groups_per_row()
            }
        }
    }

    /// The weight made of the parameters that a mapper has changed; `None` if it has changed nothing.
    fn mapped(&self, shown: Shown) -> Result<Option<Self>, String> {
        let Shown { format, codes, scales, zero_points } = shown;
        let touched = [&format, &scales].map(Param::is_initialized);
        let touched = [touched[0], touched[1], codes.is_initialized()]
            .into_iter()
            .chain(zero_points.as_ref().map(Param::is_initialized));
        let touched: Vec<bool> = touched.collect();
        if touched.iter().all(|&touched| !touched) {
            return Ok(None);
        }
        if touched.iter().any(|&touched| !touched) {
            return Err("some of format, codes, scales and zero_points are missing".to_owned());
        }
        let mut ids = Ids { format: format.id, codes: codes.id, scales: scales.id, ..self.ids };
        let zero_points = match zero_points {
            Some(param) => {
                ids.zero_points = param.id;
                Some(to_i32("zero_points", param.val().into_data())?)
            }
            None => None,
        };
        let [rows, cols] = [self.matrix.rows(), self.matrix.cols()];
        let (scheme, activation) = parse_format(&to_i32("format", format.val().into_data())?, cols)?;
        let codes = codes.val().into_data();
        let codes = codes.try_into_vec::<u8>().map_err(|_| "codes are not unsigned bytes".to_owned())?;
        let scales = to_i32("scales", scales.val().into_data())?;
        let scales = match scheme.scale_dtype {
            ScaleDtype::F32 => {
                Scales::F32(scales.into_iter().map(|bits| f32::from_bits(bits.cast_unsigned())).collect())
            }
            ScaleDtype::F16 => {
                let bits = scales.into_iter().map(|bits| u16::try_from(bits).map(f16::from_bits));
                let scales = bits.collect::<Result<_, _>>();
                Scales::F16(scales.map_err(|_| "scales are not bits of 16-bit floats".to_owned())?)
            }
        };
        let zero_points = zero_points
            .map(|values| values.into_iter().map(i8::try_from).collect::<Result<Vec<_>, _>>())
            .transpose()
            .map_err(|_| "zero points are not 8-bit numbers".to_owned())?;
        let matrix = QuantizedMatrix::from_parts(rows, cols, scheme, codes, scales, zero_points);
        let packed = matrix.and_then(|matrix| PackedMatrix::new(matrix, self.matrix.kernel()));
        let packed = packed.map_err(|error| error.to_string())?;
        Ok(Some(Self { ids, errors: self.errors.clone(), ..Self::new(Arc::new(packed), activation) }))
    }
}

/// The parameters while they pass through a mapper.
struct Shown {
    format: Param<Tensor<1, Int>>,
    codes: Param<Tensor<2, Int>>,
    scales: Param<Tensor<1, Int>>,
    zero_points: Option<Param<Tensor<1, Int>>>,
}

impl Module for PackedWeight {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visit(visitor, "format", &self.format());
        visit(visitor, "codes", &self.codes());
        visit(visitor, "scales", &self.scales());
        if let Some(zero_points) = self.zero_points() {
            visit(visitor, "zero_points", &zero_points);
        }
    }

    /// A mapper that replaces the parameters, such as one that loads a record, must replace all of them by valid ones.
    /// Otherwise it gets one more parameter whose name describes the error, which the loading of a record reports as
    /// missing.
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let shown = Shown {
            format: map(mapper, "format", self.format()),
            codes: map(mapper, "codes", self.codes()),
            scales: map(mapper, "scales", self.scales()),
            zero_points: self.zero_points().map(|param| map(mapper, "zero_points", param)),
        };
        match self.mapped(shown) {
            Ok(None) => self,
            Ok(Some(mapped)) => mapped,
            Err(reason) => {
                let problem = format!("valid packed weights ({reason})");
                map(mapper, &problem, integers(ParamId::new(), 1, || vec![0]));
                self
            }
        }
    }

    // Packed weights are in host memory; other devices get a copy when they first multiply by them.
    fn collect_devices(&self, devices: Devices) -> Devices {
        devices
    }

    fn to_device(self, _: &Device) -> Self {
        self
    }

    fn fork(self, _: &Device) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn train(self) -> Self {
        self
    }

    fn materialize(self) -> Self {
        self
    }
}

impl ModuleDisplayDefault for PackedWeight {
    fn content(&self, content: Content) -> Option<Content> {
        let [rows, cols] = [self.matrix.rows(), self.matrix.cols()];
        content.add_formatted(&format!("PackedWeight {{{rows}x{cols}, {}}}", self.matrix.scheme())).optional()
    }
}

impl ModuleDisplay for PackedWeight {}

fn visit<V: ModuleVisitor, const D: usize>(visitor: &mut V, name: &str, param: &Param<Tensor<D, Int>>) {
    visitor.enter_module(name, CONTAINER);
    visitor.visit_int(param);
    visitor.exit_module(name, CONTAINER);
}

fn map<M: ModuleMapper, const D: usize>(
    mapper: &mut M,
    name: &str,
    param: Param<Tensor<D, Int>>,
) -> Param<Tensor<D, Int>> {
    mapper.enter_module(name, CONTAINER);
    let param = mapper.map_int(param);
    mapper.exit_module(name, CONTAINER);
    param
}

fn integers(
    id: ParamId,
    len: usize,
    values: impl FnOnce() -> Vec<i32> + Send + Sync + 'static,
) -> Param<Tensor<1, Int>> {
    lazy(id, [len], DType::I32, move || values().into_iter().flat_map(i32::to_ne_bytes).collect())
}

/// A parameter in host memory whose bytes are created when it is read.
fn lazy<const D: usize>(
    id: ParamId,
    shape: [usize; D],
    dtype: DType,
    bytes: impl FnOnce() -> Vec<u8> + Send + Sync + 'static,
) -> Param<Tensor<D, Int>> {
    let init = move |device: &Device, _: bool| {
        let data = TensorData::from_bytes(Bytes::from_bytes_vec(bytes()), shape, dtype);
        Tensor::from_data(data, (device, dtype))
    };
    Param::uninitialized(id, init, Device::flex(), false, Shape::from(shape))
}

fn to_i32(what: &str, data: TensorData) -> Result<Vec<i32>, String> {
    data.try_into_vec::<i32>().map_err(|_| format!("{what} are not 32-bit integers"))
}

fn format_of(matrix: &PackedMatrix, activation: ActivationQuant) -> [i32; FORMAT_LEN] {
    let scheme = matrix.scheme();
    let (granularity, group_size) = match scheme.granularity {
        Granularity::PerTensor => (0, 0),
        Granularity::PerChannel => (1, 0),
        // A size wider than the row, which has fewer than 2^31 columns, means the whole row.
        Granularity::PerGroup { group_size } => (2, i32::try_from(group_size).unwrap_or(i32::MAX)),
    };
    let mapping = match scheme.mapping {
        Mapping::Symmetric => 0,
        Mapping::SymmetricTorch => 1,
        Mapping::Affine => 2,
    };
    let scale_dtype = match scheme.scale_dtype {
        ScaleDtype::F32 => 0,
        ScaleDtype::F16 => 1,
    };
    let (input, scale, zero_point) = match activation {
        ActivationQuant::Float => (0, 0, 0),
        ActivationQuant::Dynamic(ActivationGranularity::PerToken) => (1, 0, 0),
        ActivationQuant::Dynamic(ActivationGranularity::PerTensor) => (2, 0, 0),
        ActivationQuant::Static(QParams { scale, zero_point }) => {
            (3, scale.to_bits().cast_signed(), zero_point)
        }
    };
    let cols = i32::try_from(matrix.cols()).unwrap_or(i32::MAX);
    let bits = i32::from(scheme.bits.count());
    [VERSION, cols, bits, granularity, group_size, mapping, scale_dtype, input, scale, zero_point]
}

fn parse_format(numbers: &[i32], expected_cols: usize) -> Result<(QuantScheme, ActivationQuant), String> {
    let &[version, cols, bits, granularity, group_size, mapping, scale_dtype, input, scale, zero_point] =
        numbers
    else {
        return Err(format!("format has {} numbers, not {FORMAT_LEN}", numbers.len()));
    };
    if version != VERSION {
        return Err(format!("format is of version {version}, not {VERSION}"));
    }
    if usize::try_from(cols) != Ok(expected_cols) {
        return Err(format!("it is for {cols} inputs, the layer has {expected_cols}"));
    }
    let unknown = |what: &str, value: i32| format!("{what} has the unknown number {value}");
    let scheme = QuantScheme {
        bits: match bits {
            8 => Bits::Int8,
            4 => Bits::Int4,
            other => return Err(unknown("bits", other)),
        },
        granularity: match (granularity, usize::try_from(group_size)) {
            (0, _) => Granularity::PerTensor,
            (1, _) => Granularity::PerChannel,
            (2, Ok(group_size)) => Granularity::PerGroup { group_size },
            (other, _) => return Err(unknown("granularity", other)),
        },
        mapping: match mapping {
            0 => Mapping::Symmetric,
            1 => Mapping::SymmetricTorch,
            2 => Mapping::Affine,
            other => return Err(unknown("mapping", other)),
        },
        scale_dtype: match scale_dtype {
            0 => ScaleDtype::F32,
            1 => ScaleDtype::F16,
            other => return Err(unknown("scale type", other)),
        },
    };
    let activation = match input {
        0 => ActivationQuant::Float,
        1 => ActivationQuant::Dynamic(ActivationGranularity::PerToken),
        2 => ActivationQuant::Dynamic(ActivationGranularity::PerTensor),
        3 => {
            let params = QParams { scale: f32::from_bits(scale.cast_unsigned()), zero_point };
            params.check(QuantRange::UINT8).map_err(|error| format!("input: {error}"))?;
            ActivationQuant::Static(params)
        }
        other => return Err(unknown("input", other)),
    };
    Ok((scheme, activation))
}
