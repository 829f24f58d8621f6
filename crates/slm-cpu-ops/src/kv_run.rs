//! Types in which keys and values are stored.

use std::fmt;

use half::f16;
use half::slice::HalfFloatSliceExt;
use slm_kernels::PanelValues;

use crate::kv::KvOverflow;
use crate::panel::PANEL;

/// 16 values of a type in which keys and values are stored.
pub trait KvRun: Copy + Send + Sync + fmt::Debug + 'static {
    /// Zeros.
    const ZERO: Self;

    /// Number of steps between the least and the greatest code, for codes with a grid for each position and head; `None`
    /// for floats.
    const STEPS: Option<f32>;

    /// The code, counted from the least one, that is stored as 0.
    const ORIGIN: f32 = 0.0;

    /// Sets `runs` to the values nearest to `numbers`, which must have the same length. Codes are counted from the least
    /// one, 0.
    ///
    /// # Errors
    /// [`KvOverflow`] for a finite number beyond the type's range.
    fn narrow(runs: &mut [Self], numbers: &[[f32; PANEL]]) -> Result<(), KvOverflow>;

    /// Copies the value at index `from` of `other` to index `to`.
    fn copy_place(&mut self, to: usize, other: &Self, from: usize);

    /// The runs in the form that kernels take.
    fn values(runs: &[Self]) -> PanelValues<'_>;

    /// The runs themselves if they are 32-bit floats, otherwise `None`.
    fn as_floats(_runs: &[Self]) -> Option<&[[f32; PANEL]]> {
        None
    }
}

/// 32-bit floats, exact.
impl KvRun for [f32; PANEL] {
    const ZERO: Self = [0.0; PANEL];
    const STEPS: Option<f32> = None;

    fn narrow(runs: &mut [Self], numbers: &[[f32; PANEL]]) -> Result<(), KvOverflow> {
        runs.copy_from_slice(numbers);
        Ok(())
    }

    fn copy_place(&mut self, to: usize, other: &Self, from: usize) {
        self[to] = other[from];
    }

    fn values(runs: &[Self]) -> PanelValues<'_> {
        PanelValues::F32(runs)
    }

    #[inline(always)]
    fn as_floats(runs: &[Self]) -> Option<&[[f32; PANEL]]> {
        Some(runs)
    }
}

/// 16-bit floats.
impl KvRun for [f16; PANEL] {
    const ZERO: Self = [f16::ZERO; PANEL];
    const STEPS: Option<f32> = None;

    fn narrow(runs: &mut [Self], numbers: &[[f32; PANEL]]) -> Result<(), KvOverflow> {
        let numbers = numbers.as_flattened();
        runs.as_flattened_mut().convert_from_f32_slice(numbers);
        let beyond = |number: f32| (number.abs() >= F16_END) & number.is_finite();
        if numbers.iter().fold(false, |any, &number| any | beyond(number)) {
            let first = numbers.iter().find(|number| beyond(**number));
            return first.map_or(Ok(()), |&value| Err(KvOverflow { value }));
        }
        Ok(())
    }

    fn copy_place(&mut self, to: usize, other: &Self, from: usize) {
        self[to] = other[from];
    }

    fn values(runs: &[Self]) -> PanelValues<'_> {
        PanelValues::F16(runs)
    }
}

/// The least number that rounds to infinity as a 16-bit float: half a step above 65,504.
const F16_END: f32 = 65520.0;

/// 8-bit codes, from -128.
impl KvRun for [i8; PANEL] {
    const ZERO: Self = [0; PANEL];
    const STEPS: Option<f32> = Some(255.0);
    const ORIGIN: f32 = 128.0;

    fn narrow(runs: &mut [Self], numbers: &[[f32; PANEL]]) -> Result<(), KvOverflow> {
        for (code, number) in runs.as_flattened_mut().iter_mut().zip(numbers.as_flattened()) {
            *code = (number - Self::ORIGIN) as i8;
        }
        Ok(())
    }

    fn copy_place(&mut self, to: usize, other: &Self, from: usize) {
        self[to] = other[from];
    }

    fn values(runs: &[Self]) -> PanelValues<'_> {
        PanelValues::I8(runs)
    }
}

/// 4-bit codes: byte `i` holds code `i` in its lower half and code `i + 8` in its upper half.
impl KvRun for [u8; PANEL / 2] {
    const ZERO: Self = [0; PANEL / 2];
    const STEPS: Option<f32> = Some(15.0);

    fn narrow(runs: &mut [Self], numbers: &[[f32; PANEL]]) -> Result<(), KvOverflow> {
        for (run, numbers) in runs.iter_mut().zip(numbers) {
            let (low, high) = numbers.split_at(PANEL / 2);
            for ((byte, low), high) in run.iter_mut().zip(low).zip(high) {
                *byte = *low as u8 | ((*high as u8) << 4);
            }
        }
        Ok(())
    }

    fn copy_place(&mut self, to: usize, other: &Self, from: usize) {
        let half = PANEL / 2;
        let code = other[from % half] >> (from / half * 4) & 0xF;
        let shift = to / half * 4;
        let byte = &mut self[to % half];
        *byte = (*byte & !(0xF << shift)) | (code << shift);
    }

    fn values(runs: &[Self]) -> PanelValues<'_> {
        PanelValues::U4(runs)
    }
}
